import json
from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.data.rows.conversion import to_row
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError
from preftree.generate.hf import Generation
from preftree.models.load import load_tokenizer
from preftree.records import Demonstration
from preftree.worlds.grammar import WORDS, draw_corpus, reward, reward_table
from preftree.worlds.sentiment import (
    WORLDS,
    Labeller,
    build_model,
    build_tokenizer,
    label_samples,
    weigh_repeats,
)
from preftree.worlds.walk import outcome_logps

TINY = WORLDS["tiny"]
PROMPT = TINY.prompts[0]


def said(*texts: str) -> list[Generation]:
    return [Generation(text, (), None) for text in texts]


def test_the_tokenizer_keeps_words_and_survives_its_folder(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer(" ".join(WORDS))["input_ids"]
    assert len(set(ids)) == len(WORDS)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == " ".join(WORDS)


def test_the_model_is_a_function_of_its_seed_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (build_model(build_tokenizer(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_repeats_become_weight() -> None:
    a, b = Demonstration("x", "a"), Demonstration("x", "b")
    assert weigh_repeats([a, b, a, a]) == [Demonstration("x", "a", 3.0), b]


def test_all_pairs_of_a_prompt_are_labelled_and_the_rest_is_counted() -> None:
    good, bad, plain = "good good good", "bad bad bad", "the plot was"
    samples = [
        (PROMPT, said(good, bad, plain)),
        (PROMPT, said(bad, bad, good, "")),
        (PROMPT, said("good <unk> good", plain)),
    ]
    pairs = label_samples(TINY, samples, Labeller("deterministic"), seed=0)
    found = {(row.chosen, row.rejected): row.weight for row in pairs.preferences}
    assert found == {(good, bad): 3.0, (good, plain): 1.0, (plain, bad): 1.0}
    assert (pairs.num_drawn, pairs.num_equal, pairs.num_unusable) == (5, 1, 2)


def test_the_labellers_chances() -> None:
    difference = np.array([0.3, -0.3, 0.0])
    sharp = Labeller("deterministic").chances(difference)
    assert sharp.tolist() == [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]
    first = 1 / (1 + np.exp(-10 * difference))
    soft = Labeller("bt", scale=10.0).chances(difference)
    np.testing.assert_allclose(soft, np.stack([first, 1 - first, 0 * first], axis=1), atol=1e-15)
    noisy = Labeller("deterministic", flip=0.2).chances(difference)
    np.testing.assert_allclose(noisy, [[0.8, 0.2, 0], [0.2, 0.8, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize(
    ("labeller", "odds"),
    [
        # At scale 1, differences ln 4, 0 and -ln 4 are strengths of 4 to 1, 1 to 1 and 1 to 4.
        (Labeller("bt", scale=1.0), [(4, 1, 0), (1, 1, 0), (1, 4, 0)]),
        # Rao-Kupper at 2: 4 / (4 + 2 x 1) and 1 / (1 + 2 x 4), the rest is ties.
        (
            Labeller("bt", scale=1.0, ties="rao_kupper", tie_parameter=2.0),
            [(6, 1, 2), (3, 3, 3), (1, 6, 2)],
        ),
        (
            Labeller("bt", scale=1.0, ties="rao_kupper", tie_parameter=2.0, flip=0.25),
            [(4.75, 2.25, 2), (3, 3, 3), (2.25, 4.75, 2)],
        ),
        # Davidson at 3: 4 : 1 : 3 sqrt(4 x 1).
        (Labeller("bt", scale=1.0, ties="davidson", tie_parameter=3.0), [(4, 1, 6), (1, 1, 3), (1, 4, 6)]),
        (Labeller("deterministic", ties="davidson", tie_parameter=3.0), [(1, 0, 0), (1, 1, 3), (0, 1, 0)]),
        (Labeller("deterministic", ties="rao_kupper", tie_parameter=2.0), [(1, 0, 0), (3, 3, 3), (0, 1, 0)]),
    ],
)
def test_chances_by_hand(labeller: Labeller, odds: list[tuple[float, float, float]]) -> None:
    found = labeller.chances(np.log([4.0, 1.0, 0.25]))
    np.testing.assert_allclose(found, np.array(odds) / np.sum(odds, axis=1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("kind", ["bt", "deterministic"])
@pytest.mark.parametrize(("ties", "parameter"), [("none", 1.0), ("rao_kupper", 1.7), ("davidson", 0.4)])
@pytest.mark.parametrize("flip", [0.0, 0.4, 1.0])
def test_chances_are_chances_and_know_no_first_or_second(kind, ties, parameter: float, flip: float) -> None:
    labeller = Labeller(kind, scale=300.0, flip=flip, ties=ties, tie_parameter=parameter, length_bias=0.1)
    difference, words = np.linspace(-20, 20, 401), np.tile(np.arange(-2.0, 2.1), 81)[:401]
    chances = labeller.chances(difference, words)
    assert (chances >= 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(labeller.chances(-difference, -words), chances[:, [1, 0, 2]], atol=1e-12)


def test_a_labeller_that_likes_length() -> None:
    # Two words at .05 each are worth .1 of reward.
    biased = Labeller("bt", scale=10.0, length_bias=0.05).chances(np.array([0.2]), np.array([2.0]))
    np.testing.assert_allclose(biased, Labeller("bt", scale=10.0).chances(np.array([0.3])))
    assert Labeller("deterministic", length_bias=0.2).chances(np.array([0.3]), np.array([-2.0])).tolist() == [[0, 1, 0]]
    world = WORLDS["varied"]
    samples = [(PROMPT, said("good", "bad bad", "good good"))]
    long = label_samples(world, samples, Labeller("deterministic", length_bias=2.0), seed=0)
    assert {(row.chosen, row.rejected) for row in long.preferences} == {
        ("bad bad", "good"),
        ("good good", "good"),
        ("good good", "bad bad"),
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 0.0}, "scale must be > 0, got 0.0"),
        ({"flip": 1.1}, r"flip must be in \[0, 1\], got 1.1"),
        ({"flip": float("nan")}, r"flip must be in \[0, 1\], got nan"),
        ({"ties": "rao_kupper", "tie_parameter": 0.9}, "must be >= 1 for ties=rao_kupper, got 0.9"),
        ({"ties": "davidson", "tie_parameter": -0.1}, "must be >= 0 for ties=davidson, got -0.1"),
        ({"tie_parameter": 2.0}, "must be 1 without a tie model, got 2.0"),
    ],
)
def test_a_labeller_out_of_range_is_refused(options, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Labeller(**options)


def test_ties_come_up_as_often_as_they_should_and_survive_a_file(tmp_path: Path) -> None:
    words = ("movie", "plot", "the", "was", "good", "bad")
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words]
    samples = [(PROMPT, said("the the the", text)) for text in texts if text != "the the the"]
    labeller = Labeller("bt", scale=2.0, ties="davidson", tie_parameter=1.0)
    pairs = label_samples(TINY, samples, labeller, seed=3).preferences
    counts, expected, spread = np.zeros(3), np.zeros(3), np.zeros(3)
    for row in pairs:
        text = row.chosen if row.chosen != "the the the" else row.rejected
        odds = np.exp(reward(TINY, PROMPT, str(text)) - 0.5)  # half of scale x difference; the other one is worth 1/2
        chances = np.array([odds, 1 / odds, 1.0]) / (odds + 1 / odds + 1)
        counts += [not row.tie and row.chosen == text, not row.tie and row.chosen != text, row.tie]
        expected += chances
        spread += chances * (1 - chances)
    assert len(pairs) == counts.sum() == len(words) ** 3 - 1
    assert (np.abs(counts - expected) < 3 * np.sqrt(spread)).all()
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(to_row(row)) + "\n" for row in pairs))
    store, _ = tokenize_file(str(path), build_tokenizer(), kind="pair", cache_dir=tmp_path / "cache")
    assert store.ties.tolist() == [row.tie for row in pairs]


def test_the_long_world_has_a_corpus_and_rewards_and_refuses_to_be_counted() -> None:
    world = WORLDS["text"]
    corpus = draw_corpus(world, 300, seed=0)
    assert {row.prompt for row in corpus} == set(world.prompts)
    assert {len(str(row.response).split()) for row in corpus} == {12}
    assert reward(world, "the movie was not", "good" + " the" * 11) == pytest.approx(1 / (1 + np.exp(1.5)))
    assert reward(world, "the movie was", "good") == 0.0
    tokenizer = build_tokenizer()
    assert all(len(tokenizer(prompt)["input_ids"]) == len(prompt.split()) for prompt in world.prompts)
    with pytest.raises(ConfigError, match=r"'text' has 8.9e\+12 outcomes .* draw samples"):
        reward_table(world)
    with pytest.raises(ConfigError, match="draw samples"):
        next(world.responses())
    with pytest.raises(ConfigError, match="draw samples"):
        outcome_logps(build_model(tokenizer, 0), tokenizer, world)


def test_labels_come_up_as_often_as_they_should() -> None:
    words = [word for word in WORDS if word not in ("not", "very")]
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words]
    samples = [(PROMPT, said("the the the", text)) for text in texts if text != "the the the"]
    pairs = label_samples(TINY, samples, Labeller("bt", scale=2.0), seed=1)
    # Rewards are sigmoid(1.5 n) with n the sum of polarities, and 1/2 for "the the the".
    bad = ["bad" in row.chosen + row.rejected and "dull" in row.chosen + row.rejected for row in pairs.preferences]
    both = [row for row, is_bad in zip(pairs.preferences, bad, strict=True) if is_bad]
    assert len(both) > 30
    wins, expected, spread = 0, 0.0, 0.0
    for row in pairs.preferences:
        text = row.chosen if row.chosen != "the the the" else row.rejected
        polarity = sum(
            {"good": 1, "great": 1, "fun": 1, "bad": -1, "dull": -1, "awful": -1}.get(w, 0) for w in text.split()
        )
        chance = 1 / (1 + np.exp(-2.0 * (1 / (1 + np.exp(-1.5 * polarity)) - 0.5)))
        wins += row.chosen == text
        expected += chance
        spread += chance * (1 - chance)
    assert wins == pytest.approx(expected, abs=3 * spread**0.5)
    assert abs(wins - len(pairs.preferences) / 2) < 3 * (len(pairs.preferences) / 4) ** 0.5  # the world is symmetric
