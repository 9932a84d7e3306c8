"""Confidence intervals of proportions and means, thin wrappers of scipy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class Estimate(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Mean(NamedTuple):
    """A mean, its standard error, and the number of values."""

    value: float
    standard_error: float
    num_values: int


def wilson(successes: int | float, trials: int, *, confidence: float = 0.95) -> Estimate:
    """Wilson score interval of a proportion: a win rate, an accuracy.

    A tie is half a success: pass wins + ties / 2. The interval is then a little wider than it need be: it takes each
    trial's variance for p (1 - p), and ties make it smaller by a quarter of their share.

    Args:
      successes: Number of trials that succeeded, a tie as one half, in [0, trials].
      trials: Number of trials, > 0.
      confidence: Probability that the interval holds the proportion, in (0, 1).
    Raises:
      ValueError: an argument is out of its range.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    _check_confidence(confidence)
    if trials <= 0:
        raise ValueError(f"trials must be > 0, got {trials}")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in [0, {trials}], got {successes!r}")
    # scipy.stats.binomtest has the same formula, but takes whole successes only.
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share = successes / trials
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Estimate(share, low, high)


def bootstrap(
    values: Float[np.ndarray, " N"], *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Estimate:
    """Percentile bootstrap interval of a mean, for values of any distribution.

    Args:
      values: One independent value per example, [N], N > 1.
      seed: Seed of the resampling; equal seeds give equal intervals.
      confidence: Probability that the interval holds the mean, in (0, 1).
      resamples: Number of resamples.
    Raises:
      ValueError: fewer than two values, one is not finite, or an argument is out of its range.
    """
    _check_confidence(confidence)
    if resamples <= 0:
        raise ValueError(f"resamples must be > 0, got {resamples}")
    _check_values(values)
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, 2**22 // len(values)),  # so many resamples at a time that memory stays near 64 MiB
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Estimate(float(values.mean()), float(low), float(high))


def share_interval(
    values: Float[np.ndarray, " N"], *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Estimate:
    """Mean of independent shares, a win rate by prompt say, with a percentile bootstrap interval.

    Where all values are equal the bootstrap has no width, which is no certainty: the interval then allows for as large
    a share of other values as Wilson's interval does for N of N.

    Args:
      values: One independent value per example, in [0, 1], [N], N > 1.
      seed: Seed of the resampling.
      confidence: Probability that the interval holds the mean, in (0, 1).
      resamples: Number of resamples.
    Raises:
      ValueError: fewer than two values, or one is not in [0, 1].
    """
    _check_values(values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"values must be in [0, 1], got {values.min():g} to {values.max():g}")
    if values.min() < values.max():
        return bootstrap(values, seed=seed, confidence=confidence, resamples=resamples)
    value, unseen = float(values[0]), 1 - wilson(len(values), len(values), confidence=confidence).low
    return Estimate(value, value - unseen * value, value + unseen * (1 - value))


def resampled_means(
    values: Float[np.ndarray, "N C"], *, seed: int, resamples: int = 10_000
) -> Float[np.ndarray, "R C"]:
    """Means of the columns over rows drawn again with replacement; a row's columns stay together.

    Raises:
      ValueError: fewer than two rows, or a value is not finite.
    """
    _check_values(values)
    generator, rows = np.random.default_rng(seed), len(values)
    piece = max(1, 2**22 // rows)  # so many resamples at a time that memory stays near 32 MiB
    counts = (min(piece, resamples - start) for start in range(0, resamples, piece))
    return np.concatenate([generator.multinomial(rows, [1 / rows] * rows, num) @ values / rows for num in counts])


def mean(values: Float[np.ndarray, " N"]) -> Mean:
    """Mean of independent values with its standard error (from the sample variance, divided by N - 1).

    Raises:
      ValueError: fewer than two values, or one is not finite.
    """
    _check_values(values)
    return Mean(float(values.mean()), float(stats.sem(values)), len(values))


def mean_interval(values: Float[np.ndarray, " N"], *, confidence: float = 0.95) -> Estimate:
    """Mean of independent values with Student's t interval, which is wide where values are few.

    Args:
      values: One independent value per example, [N], N > 1.
      confidence: Probability that the interval holds the mean, in (0, 1).
    Raises:
      ValueError: fewer than two values, one is not finite, or confidence is out of its range.
    """
    _check_confidence(confidence)
    estimate = mean(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * estimate.standard_error
    return Estimate(estimate.value, estimate.value - half, estimate.value + half)


def _check_values(values: np.ndarray) -> None:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]} among them")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
