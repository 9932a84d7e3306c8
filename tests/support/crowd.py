"""Simulated people: annotators with a skill and a side, who vote on pairs whose better response is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from preftree.crowd.annotators import Votes

GOOD = (float(logit(0.75)), 0.0)
BETTER = (float(logit(0.8)), 0.0)
ADVERSARY = (float(logit(0.1)), 0.0)
RANDOM = (0.0, 0.0)
PRESSES_LEFT = (0.0, float(logit(0.9)))
LEANS_LEFT = (0.5, 2.3)
"""Left in 90 % of votes, right in 58 %."""

POOLS = {
    "adversary": [GOOD] * 7 + [ADVERSARY] * 2 + [RANDOM] * 3,
    "left": [BETTER] * 9 + [PRESSES_LEFT] * 3,
    "half left": [BETTER] * 3 + [LEANS_LEFT] * 3,
    "good": [GOOD] * 12,
}
"""Skill and side bias of each person, in logits."""


class Simulated(NamedTuple):
    """Votes, and what they are of: `better` is 1 where the first response is the better one, [I]."""

    votes: Votes
    better: np.ndarray
    num_people: int


def simulate(pool: str, seed: int, num_items: int = 500, overlap: int = 3) -> Simulated:
    """Votes of a pool, `overlap` different people a pair."""
    generator = np.random.default_rng(seed)
    skill, side_bias = np.array(POOLS[pool]).T
    better = generator.integers(0, 2, num_items)
    item = np.repeat(np.arange(num_items), overlap)
    people = np.concatenate([generator.choice(len(skill), overlap, replace=False) for _ in range(num_items)])
    side = generator.choice([-1, 1], len(item))
    chance = expit(skill[people] * (2 * better[item] - 1) + side_bias[people] * side)
    for_first = (generator.random(len(item)) < chance).astype(np.float64)
    return Simulated(Votes(item, people, for_first, side), better, len(skill))


def share_right(chance: np.ndarray, better: np.ndarray) -> float:
    """How often a probability, or a share of votes, is on the side of the better response; 1/2 counts half."""
    return float(np.where(chance == 0.5, 0.5, (chance > 0.5) == (better == 1)).mean())
