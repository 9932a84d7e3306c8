"""Agreement of annotators: Krippendorff's alpha with its interval, and how often people agree with themselves."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from preftree.stats.intervals import Estimate, wilson

Level: TypeAlias = Literal["nominal", "ordinal"]

FEWEST_UNITS = 10
"""Units with two values or more, below which no interval is given."""

_RESAMPLES = 2000


class Agreement(NamedTuple):
    """Agreement of annotators on units.

    Attributes:
      alpha: 1 where all agree, 0 where they agree as often as values drawn at random; None where it is undefined.
      undefined: Why there is no alpha; "" where there is one.
      low, high: Ends of the 95 % interval over units; None without alpha, with fewer than `FEWEST_UNITS`, or where all
        units but one are alike.
      units: Units with two values or more; others say nothing of agreement.
      values: Values on them.
    """

    alpha: float | None
    undefined: str
    low: float | None
    high: float | None
    units: int
    values: int


def agreement(
    units: Int[np.ndarray, " V"], values: Float[np.ndarray, " V"], level: Level = "ordinal", *, seed: int = 0
) -> Agreement:
    """Krippendorff's alpha with a bootstrap interval over units.

    alpha = 1 - observed disagreement / expected disagreement, within units and among all values that are paired.

    Units are drawn again with replacement, and the interval is the bias-corrected and accelerated one.

    Args:
      units: Number of the pair of each vote, >= 0, [V].
      values: The votes in an order: 1 for the first response, .5 for a tie, 0 for the second, [V].
      level: Whether values that are nearer in order disagree less.
      seed: Seed of the resampling.
    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability"; Efron 1987, JASA 82, p. 171 (the interval).
    """
    table, times = _table(units, values)
    num_units, num_values = int(times.sum()), int(times @ table.sum(1))
    if not num_units:
        return Agreement(None, "undefined: no pair has votes of two people", None, None, 0, 0)
    if table.shape[1] == 1:
        return Agreement(None, "undefined: all alike", None, None, num_units, num_values)
    within = _within(table)
    alpha = float(_alphas(times[None, :], within, level)[0])
    if num_units < FEWEST_UNITS:
        return Agreement(alpha, "", None, None, num_units, num_values)
    return Agreement(alpha, "", *_interval(alpha, times, within, level, seed), num_units, num_values)


def consistency(first: Float[np.ndarray, " R"], again: Float[np.ndarray, " R"]) -> Estimate | None:
    """How often people say the same of a pair that they meet again with its sides turned; None without repeats.

    It bounds what agreement between people can mean: who contradicts himself cannot agree with others.

    Args:
      first, again: The two votes on each repeated pair: 1 for its first response, .5 for a tie, 0 for its second, [R].
    """
    return wilson(int((first == again).sum()), len(first)) if len(first) else None


def _table(
    units: Int[np.ndarray, " V"], values: Float[np.ndarray, " V"]
) -> tuple[Float[np.ndarray, "P C"], Float[np.ndarray, " P"]]:
    """How often units with two values or more have each value: each distribution that occurs, and its number of units.

    Values that occur on no such unit have no column.
    """
    names, column = np.unique(values, return_inverse=True)
    num_units = int(units.max(initial=-1)) + 1
    table = np.bincount(units * len(names) + column, minlength=num_units * len(names)).reshape(num_units, len(names))
    table = table[table.sum(1) >= 2]
    kinds, times = np.unique(table[:, table.any(0)], axis=0, return_counts=True)
    return kinds.astype(np.float64), times.astype(np.float64)


def _within(table: Float[np.ndarray, "P C"]) -> Float[np.ndarray, "P C C"]:
    """Each unit's part of the coincidences: pairs of its values, weighted so that they sum to its number of values."""
    pairs = table[:, :, None] * table[:, None, :] - np.eye(table.shape[1]) * table[:, :, None]
    return pairs / (table.sum(1) - 1)[:, None, None]


def _alphas(weights: Float[np.ndarray, "R P"], within: Float[np.ndarray, "P C C"], level: Level) -> np.ndarray:
    """Alpha of each weighting of the units, [R]; nan where all values are alike."""
    num_values = within.shape[1]
    seen = (weights @ within.reshape(len(within), -1)).reshape(-1, num_values, num_values)
    counts = seen.sum(2)
    total = counts.sum(1)
    if level == "nominal":
        apart = np.broadcast_to(1 - np.eye(num_values), seen.shape)
    else:
        places = counts.cumsum(1) - counts / 2  # middle rank of each value: (n_c + n_k) / 2 and all between lie apart
        apart = (places[:, :, None] - places[:, None, :]) ** 2
    observed = (seen * apart).sum((1, 2))
    expected = (counts[:, :, None] * counts[:, None, :] * apart).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (total - 1) * observed / expected


def _interval(
    alpha: float, times: Float[np.ndarray, " P"], within: Float[np.ndarray, "P C C"], level: Level, seed: int
) -> tuple[float | None, float | None]:
    """Bias-corrected and accelerated bootstrap interval over units, of which `times` are of each kind."""
    num_units = int(times.sum())
    generator = np.random.default_rng(seed)
    resampled = generator.multinomial(num_units, times / num_units, _RESAMPLES).astype(np.float64)
    drawn = np.sort(_alphas(resampled, within, level))
    drawn = drawn[~np.isnan(drawn)]
    without = _alphas(times - np.eye(len(times)), within, level)
    if not len(drawn) or np.isnan(without).any():
        return None, None  # all but one unit are alike, and that one alone would make the interval
    below = ((drawn < alpha).sum() + (drawn == alpha).sum() / 2) / len(drawn)
    bias = float(stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn))))
    apart = times @ without / num_units - without
    spread = float(times @ apart**2)
    bend = float(times @ apart**3) / (6 * spread**1.5) if spread > 0 else 0.0
    moved = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + moved / (1 - bend * moved)))
    return float(low), float(high)
