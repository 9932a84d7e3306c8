"""Calibration: predicted probabilities against how often they came true."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Bin(NamedTuple):
    """Predictions of about the same confidence: their mean, how often they were right, and their share of all."""

    confidence: float
    right: float
    share: float


class Calibration(NamedTuple):
    """Calibration of predicted probabilities.

    Attributes:
      error: Expected calibration error: the mean distance of confidence and being right, over bins.
      brier: Mean of (1 - chance)^2.
      log_score: Mean of -log chance, nats.
      bins: Those that hold something, by confidence: the reliability curve.
    """

    error: float
    brier: float
    log_score: float
    bins: tuple[Bin, ...]


def calibration(
    chances: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"] | None = None, *, num_bins: int = 10
) -> Calibration:
    """Calibration of the probabilities given to the outcome that came true, of two outcomes.

    A prediction says one outcome or the other, with confidence max(p, 1 - p) in [.5, 1]; bins are of equal width. A few
    examples a bin make the error larger than it is: of perfect chances it is about the standard error of a bin.

    Args:
      chances: Probability that was given to the outcome that came true, [N], N > 0.
      weights: Weight of each, > 0; all 1 by default.
      num_bins: Number of bins.
    Raises:
      ValueError: no chances, or one is outside [0, 1].
    Source: Naeini et al. 2015, AAAI 29, p. 2901 (the error); Brier 1950, Monthly Weather Review 78, p. 1.
    """
    if not len(chances) or not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError(f"chances must be in [0, 1] and at least one, got {len(chances)}")
    weights = np.ones(len(chances)) if weights is None else weights
    share = weights / weights.sum()
    confidence = np.maximum(chances, 1 - chances)
    right = (1 + np.sign(chances - 0.5)) / 2
    bin_number = np.minimum(((confidence - 0.5) * 2 * num_bins).astype(np.int64), num_bins - 1)
    bins = []
    for number in np.unique(bin_number):
        inside = bin_number == number
        mass = float(share[inside].sum())
        sure, true = (float((share * values)[inside].sum()) / mass for values in (confidence, right))
        bins.append(Bin(sure, true, mass))
    return Calibration(
        error=sum(bin.share * abs(bin.confidence - bin.right) for bin in bins),
        brier=float((share * (1 - chances) ** 2).sum()),
        log_score=float(-(share * np.log(np.maximum(chances, np.finfo(np.float64).tiny))).sum()),
        bins=tuple(bins),
    )
