from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.generate.hf import Generation
from preftree.models.load import load_tokenizer
from preftree.records import Demonstration
from preftree.worlds.grammar import WORDS
from preftree.worlds.sentiment import (
    WORLDS,
    Labeller,
    build_model,
    build_tokenizer,
    label_samples,
    weigh_repeats,
)

TINY = WORLDS["tiny"]
PROMPT = TINY.prompts[0]


def said(*texts: str) -> list[Generation]:
    return [Generation(text, (), False) for text in texts]


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
    sharp = Labeller("deterministic").chance(difference)
    assert sharp.tolist() == [1.0, 0.0, 0.5]
    np.testing.assert_allclose(Labeller("bt", scale=10.0).chance(difference), 1 / (1 + np.exp(-10 * difference)))
    np.testing.assert_allclose(Labeller("deterministic", flip=0.2).chance(difference), [0.8, 0.2, 0.5])


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
