"""Confidence intervals of proportions and means, of independent values and of values in clusters."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
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


def wilson(successes: int | float, trials: int | float, *, confidence: float = 0.95) -> Estimate:
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
    # scipy.stats.binomtest has the same formula, but takes whole numbers only.
    share, z = successes / trials, float(stats.norm.ppf((1 + confidence) / 2))
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Estimate(share, low, high)


def clustered_share(
    values: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"],
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Weighted mean of values in [0, 1], of which those of one cluster depend on each other, with Wilson's interval.

    Pairs of one ranking share responses, and pairs of one prompt are equally hard: as independent trials they would
    make the interval too narrow. In place of the number of trials goes the number of independent ones that has the
    jackknife variance of the mean over clusters, less what an estimate from so few clusters is worth (Student's t of
    their effective number). That variance is taken to be at least the one of independent values. Where no value differs
    there is none to estimate, and each cluster counts as one trial. Where each cluster has one value of 0 or 1, and
    weights are equal, it is Wilson's interval. One cluster says nothing of others: 0 to 1.

    Args:
      values: Accuracy of each pair or list, a tie as one half, [N], N > 0.
      weights: Weight of each, > 0.
      clusters: Name or number of the prompt of each.
      confidence: Probability that the interval holds the mean over further clusters, in (0, 1).
    Raises:
      ValueError: an argument is out of its range.
    Source: Korn and Graubard 1998, Survey Methodology 24, p. 193 (effective trials and their degrees of freedom); Dean
      and Pagano 2015, Journal of Survey Statistics and Methodology 3, p. 484 (compares intervals; Wilson's among them).
    """
    _check_confidence(confidence)
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values must be in [0, 1] and at least one, got {len(values)}")
    value, by_cluster, sizes = _weighted(values, weights, clusters)
    alone = np.arange(len(values))
    num_clusters = _effective(sizes)
    if len(sizes) < 2:
        return Estimate(value, 0.0, 1.0)
    of_rows, of_clusters = _variance(*_weighted(values, weights, alone)[1:]), _variance(by_cluster, sizes)
    spread = value * (1 - value)
    if of_rows <= 1e-15 or spread <= 0:
        trials = num_clusters
    else:
        rows = spread / of_rows  # N - 1 where values are 0 or 1 and weights are equal
        quantiles = stats.t.ppf((1 + confidence) / 2, [rows, num_clusters - 1])
        trials = spread / max(of_rows, of_clusters) * (1 + 1 / rows) * float(quantiles[0] / quantiles[1]) ** 2
    if trials < 1e-9:
        return Estimate(value, 0.0, 1.0)
    return wilson(value * trials, trials, confidence=confidence)._replace(value=value)


def clustered_mean(
    values: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"],
    clusters: Shaped[np.ndarray, " N"],
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Weighted mean of any values, of which those of one cluster depend on each other, with Student's t interval.

    The variance is that of the jackknife over clusters, and the degrees of freedom are their effective number less one.

    Args:
      values: A loss, or the difference of two accuracies, [N].
      weights: Weight of each, > 0.
      clusters: Name or number of the prompt of each; at least two different ones.
      confidence: Probability that the interval holds the mean over further clusters, in (0, 1).
    Raises:
      ValueError: fewer than two clusters, or a value is not finite.
    Source: Cameron and Miller 2015, Journal of Human Resources 50, p. 317 (CR3, t of the number of clusters).
    """
    _check_confidence(confidence)
    value, by_cluster, sizes = _weighted(values, weights, clusters)
    _check_values(by_cluster)
    quantile = float(stats.t.ppf((1 + confidence) / 2, _effective(sizes) - 1))
    half = quantile * math.sqrt(_variance(by_cluster, sizes))
    return Estimate(value, value - half, value + half)


def share_interval(values: Float[np.ndarray, " N"], *, confidence: float = 0.95) -> Estimate:
    """Mean of independent shares, a win rate by prompt say, with the interval of `clustered_share`.

    Args:
      values: One independent value per example, in [0, 1], [N], N > 1.
      confidence: Probability that the interval holds the mean, in (0, 1).
    Raises:
      ValueError: fewer than two values, or one is not in [0, 1].
    """
    _check_values(values)
    return clustered_share(values, np.ones(len(values)), np.arange(len(values)), confidence=confidence)


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


def _weighted(
    values: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"], clusters: Shaped[np.ndarray, " N"]
) -> tuple[float, Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Weighted mean; of each cluster the share of its deviations from it in the sum of weights, and of its weight."""
    share = weights / weights.sum()
    value = float(np.clip((share * values).sum(), values.min(), values.max()))
    _, group = np.unique(clusters, return_inverse=True)
    return value, np.bincount(group, share * (values - value)), np.bincount(group, share)


def _variance(deviations: Float[np.ndarray, " G"], sizes: Float[np.ndarray, " G"]) -> float:
    """Jackknife variance of a weighted mean, leaving out one cluster after the other."""
    return float(((deviations / (1 - sizes)) ** 2).sum() * (len(sizes) - 1) / len(sizes))


def _effective(sizes: Float[np.ndarray, " G"]) -> float:
    """Kish's effective number of clusters of these shares of the weight."""
    return float(1 / (sizes**2).sum())


def _check_values(values: np.ndarray) -> None:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]} among them")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
