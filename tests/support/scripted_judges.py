"""Scripted judges whose accuracy and likings are known, and items for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from preftree.evaluate.judging.labelled import LabelledItem
from preftree.judges.pairwise import Judge
from preftree.records import Comparison, Verdict


def plain_items(seed: int, count: int = 400) -> list[LabelledItem]:
    """Prompts with a right answer that begins with R and a wrong one with W, of random lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 400, (count, 2))
    return [
        LabelledItem(f"prompt {number}", ("R" * long,), ("W" * short,))
        for number, (long, short) in enumerate(lengths.tolist())
    ]


def scripted_judge(items: Sequence[LabelledItem], accuracy: float, *, left: float, length: float, seed: int) -> Judge:
    """A judge that is right with probability `accuracy`, and says so, were it not for what it adds, in log-odds.

    Args:
      items: The items that it will see, whose differences in length set its scale.
      accuracy: Its accuracy without likings.
      left: What it adds for the left answer.
      length: What it adds for a much longer answer.
      seed: Seed of its draws.
    """
    rng = np.random.default_rng(seed)
    scale = float(np.std([len(item.right[0]) - len(item.wrong[0]) for item in items]))

    def decide(asked: Sequence[Comparison]) -> list[Verdict]:
        verdicts = []
        for one in asked:
            side = 1 if one.left.startswith("R") else -1
            longer = length * np.tanh((len(one.left) - len(one.right)) / scale)
            chance = float(expit(side * logit(accuracy) + left + longer))
            is_left = rng.random() < chance
            verdicts.append(Verdict("left" if is_left else "right", probability=accuracy if is_left else 1 - accuracy))
        return verdicts

    return Judge(f"scripted {accuracy}", decide)
