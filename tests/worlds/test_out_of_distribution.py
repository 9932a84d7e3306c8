"""Pairs out of distribution: other prompts, other texts, the same reward."""

from __future__ import annotations

import numpy as np
import pytest

from preftree.worlds.grammar import MILD, WORDS, draw_corpus, reward
from preftree.worlds.out_of_distribution import SHIFTED, shifted_pairs, unseen_prompts
from preftree.worlds.sentiment import WORLDS, Labeller

WORLD = WORLDS["small"]
SURE = Labeller("deterministic")


@pytest.mark.parametrize("name", ["tiny", "varied", "small", "text"])
def test_unseen_prompts_are_of_the_language_and_not_of_the_world(name: str) -> None:
    prompts = unseen_prompts(WORLDS[name])
    assert len(prompts) >= 2
    assert not set(prompts) & set(WORLDS[name].prompts)
    assert {word for prompt in prompts for word in prompt.split()} <= set(WORDS)


def test_the_grammar_is_another_one() -> None:
    def share(words: tuple[str, ...], grammar: object) -> float:
        texts = draw_corpus(WORLD, 2000, 0, grammar)  # pyright: ignore[reportArgumentType]
        drawn = [word for one in texts for word in str(one.response).split()]
        return float(np.mean([word in words for word in drawn]))

    assert share(("not", "very"), SHIFTED) > 2 * share(("not", "very"), MILD)
    assert share(("good", "great", "fun"), SHIFTED) > share(("bad", "dull", "awful"), SHIFTED)
    assert share(("good", "great", "fun"), MILD) < share(("bad", "dull", "awful"), MILD)


def test_labels_are_the_true_rewards() -> None:
    pairs = shifted_pairs(WORLD, 20, SURE, 3)
    assert pairs.num_drawn + pairs.num_equal == 20 * 6
    assert {str(pair.prompt) for pair in pairs.preferences} == set(unseen_prompts(WORLD))
    for pair in pairs.preferences:
        sides = [reward(WORLD, str(pair.prompt), str(text)) for text in (pair.chosen, pair.rejected)]
        assert sides[0] >= sides[1] > 0
        assert len(str(pair.chosen).split()) == WORLD.max_words


def test_each_shift_can_be_had_alone_and_again() -> None:
    known = shifted_pairs(WORLD, 12, SURE, 0, prompts=False)
    assert {str(pair.prompt) for pair in known.preferences} == set(WORLD.prompts)
    assert known.preferences == shifted_pairs(WORLD, 12, SURE, 0, prompts=False).preferences
    assert known.preferences != shifted_pairs(WORLD, 12, SURE, 1, prompts=False).preferences
    assert known.preferences != shifted_pairs(WORLD, 12, SURE, 0, prompts=False, grammar=False).preferences
