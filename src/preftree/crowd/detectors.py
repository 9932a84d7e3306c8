"""Careless annotators: those who press one side, at random, or faster than anyone can read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

LEVEL = 0.05
"""Chance that any of the fair annotators of a project is said to prefer a side."""

FEWEST_CHECKS = 10
"""Known answers and repeats of an annotator, below which nothing is said of random clicking."""

FEWEST_TIMES = 10
"""Votes of an annotator, below which nothing is said of speed."""

_LEAST_RIGHT = 0.75
_TOO_FAST = 1 / 5


class SideTest(NamedTuple):
    """Exact test of each annotator for a preferred side.

    Attributes:
      left: Share of left among his choices of a side, [J]; nan without one.
      p: p-value against one half, adjusted for the number of annotators, [J]; 1 without a choice.
      flagged: Whether it is below `LEVEL`, [J].
    """

    left: Float[np.ndarray, " J"]
    p: Float[np.ndarray, " J"]
    flagged: Bool[np.ndarray, " J"]


class CheckTest(NamedTuple):
    """Known answers and hidden repeats of each annotator against random clicking.

    Attributes:
      right: Share of right answers and equal repeats among both, [J]; nan without one.
      at_random: Whether they look more like a coin's than like those of the others, [J].
      contrary: Whether known answers are wrong more often than a coin's would be, [J].
      told: Whether there were enough of them, [J].
    """

    right: Float[np.ndarray, " J"]
    at_random: Bool[np.ndarray, " J"]
    contrary: Bool[np.ndarray, " J"]
    told: Bool[np.ndarray, " J"]


def side_test(left: Int[np.ndarray, " J"], sides: Int[np.ndarray, " J"]) -> SideTest:
    """Whether annotators prefer a side of the screen.

    The better response is on the left in half of the cases, whatever an annotator knows, since sides are drawn for each
    pair and person: the left choices of someone without a side are Binomial(n, 1/2). Two-sided and exact; p-values are
    adjusted by Holm's method, so that the chance of one false alarm among all annotators is at most `LEVEL`.

    Args:
      left: How often each chose the left response, [J].
      sides: How often each chose a side at all, [J].
    Source: Holm 1979, Scandinavian Journal of Statistics 6, p. 65.
    """
    alone = np.array([stats.binomtest(int(k), int(n)).pvalue if n else 1.0 for k, n in zip(left, sides, strict=True)])
    order = np.argsort(alone, kind="stable")
    adjusted = np.empty(len(alone))
    steps = alone[order] * np.arange(len(alone), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(alone) else steps
    return SideTest(_share(left, sides), adjusted, adjusted < LEVEL)


def check_test(
    right: Int[np.ndarray, " J"],
    golds: Int[np.ndarray, " J"],
    same: Int[np.ndarray, " J"],
    repeats: Int[np.ndarray, " J"],
) -> CheckTest:
    """Whether annotators click at random, by what is known of their answers.

    A known answer is right by chance in one of two cases, and a repeat, whose sides are turned, is equal by chance as
    often; who always presses one side contradicts himself on every repeat. An annotator clicks at random where his
    count of both is likelier under a share of 1/2 than under the median share of the annotators, at least .75. Who
    votes against what is known does not click at random, and repeats it faithfully: known answers alone tell.

    Args:
      right, golds: How many known answers each got right, of how many, [J].
      same, repeats: How many repeats each answered alike, of how many, [J].
    """
    good, checks = right + same, golds + repeats
    told = checks >= FEWEST_CHECKS
    usual = float(np.median(((good + 1) / (checks + 2))[told])) if told.any() else _LEAST_RIGHT
    usual = min(max(usual, _LEAST_RIGHT), 0.99)
    as_usual, as_coin = (stats.binom.logpmf(good, checks, chance) for chance in (usual, 0.5))
    asked = golds >= FEWEST_CHECKS
    contrary = asked & (stats.binom.cdf(right, golds, 0.5) < LEVEL / max(1, int(asked.sum())))
    return CheckTest(_share(good, checks), told & (as_coin > as_usual) & ~contrary, contrary, told)


def too_fast(
    annotator: Int[np.ndarray, " V"], ms: Float[np.ndarray, " V"], num_annotators: int
) -> Bool[np.ndarray, " J"]:
    """Annotators whose median time on a pair is below a fifth of that of the annotators, [J].

    Args:
      annotator: Number of the person of each vote, [V].
      ms: Time on the visible tab, any unit, [V].
      num_annotators: Number of people J.
    """
    times = [ms[annotator == number] for number in range(num_annotators)]
    medians = np.array([np.median(mine) if len(mine) >= FEWEST_TIMES else np.nan for mine in times])
    known = medians[~np.isnan(medians)]
    return medians < _TOO_FAST * np.median(known) if len(known) else np.zeros(num_annotators, bool)


def _share(part: Int[np.ndarray, " J"], whole: Int[np.ndarray, " J"]) -> Float[np.ndarray, " J"]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=np.asarray(whole) > 0)
