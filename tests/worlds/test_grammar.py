import math
from collections import Counter

import numpy as np
import pytest

from preftree.worlds.grammar import WORDS, World, draw_corpus, reward, reward_table

WORLD = World("w", ("the movie was", "movie was not"), min_words=1, max_words=3)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("prompt", "response", "polarity"),
    [
        ("the movie was", "good", 1.0),
        ("the movie was", "the plot was", 0.0),
        ("the movie was", "not good", -1.0),
        ("the movie was", "very bad fun", -0.5),
        ("the movie was", "not very good", -1.5),
        ("the movie was", "very very great", 2.25),
        ("the movie was", "not the good", 1.0),  # `not` turns round the next word only
        ("movie was not", "awful dull", 0.0),  # the prompt ends in the middle of a phrase
        ("movie was not", "not bad", -1.0),
    ],
)
def test_rewards_worked_out_by_hand(prompt: str, response: str, polarity: float) -> None:
    assert reward(WORLD, prompt, response) == pytest.approx(sigmoid(1.5 * polarity), abs=1e-12)


@pytest.mark.parametrize("response", ["", "good good good good", "good <unk>", "boring"])
def test_what_is_no_response_of_the_world_earns_nothing(response: str) -> None:
    assert reward(WORLD, "the movie was", response) == 0.0


def test_the_table_holds_the_reward_of_each_text_in_order() -> None:
    table = reward_table(WORLD)
    assert table.shape == (2, 12 + 144 + 1728 + 1) == (2, WORLD.num_outcomes)
    for row, prompt in zip(table, WORLD.prompts, strict=True):
        assert row[:-1].tolist() == [reward(WORLD, prompt, text) for text in WORLD.responses()]
    assert (table[:, -1] == 0).all()


def test_every_text_is_the_outcome_of_its_place() -> None:
    assert [WORLD.outcome(text) for text in WORLD.responses()] == list(range(WORLD.num_outcomes - 1))
    assert {WORLD.outcome(text) for text in ("", "boring", "good good good good")} == {WORLD.num_outcomes - 1}


def test_the_corpus_is_a_function_of_its_seed_and_stays_within_the_world() -> None:
    corpus = draw_corpus(WORLD, 500, seed=3)
    assert corpus == draw_corpus(WORLD, 500, seed=3) != draw_corpus(WORLD, 500, seed=4)
    assert {row.prompt for row in corpus} == set(WORLD.prompts)
    lengths = Counter(len(row.response.split()) for row in corpus)
    assert set(lengths) == {1, 2, 3}
    assert min(lengths.values()) > 120
    assert all(set(row.response.split()) <= set(WORDS) for row in corpus)


def test_the_corpus_follows_its_grammar() -> None:
    texts = [f"{row.prompt} {row.response}".split() for row in draw_corpus(WORLD, 4000, seed=0)]
    follows = Counter(text[3] for text in texts if text[2] == "was")
    total = sum(follows.values())
    # 90 % of the grammar's 25 in 145, and a twelfth of the noise's 10 %.
    assert follows["very"] / total == pytest.approx(0.9 * 25 / 145 + 0.1 / 12, abs=0.025)
    values = [reward(WORLD, row.prompt, row.response) for row in draw_corpus(WORLD, 4000, seed=0)]
    assert 0.38 < np.mean(values) < 0.5
