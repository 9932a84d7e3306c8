"""Global mean, the only one in the program: a weighted sum over all parts, divided once by a total known beforehand.

Means of parts are never averaged, so micro-batches, ranks and evaluation batches of any size give the same figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def mean_part(values: Float[Tensor, " P"], weights: Float[Tensor, " P"], total: int | float) -> Float[Tensor, ""]:
    """Contribution of these examples to the global mean: sum(weights * values) / total, differentiable.

    Args:
      values: One value per example of this part, [P]; P may be 0.
      weights: Weight of each example; 2 counts as two such examples, [P].
      total: Divisor of the mean, over all parts of the step: the sum of weights, or of weighted token counts.
    Raises:
      ValueError: counts differ, or total is not a finite number > 0.
    """
    _check_counts(values, weights)
    _check_total(total)
    return (weights * values).sum() / total


def repeats(weights: Float[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    """Number of repetitions of each example that represents its weight, for a loss without weights.

    Weights are read as multiples of a hundredth or of a simpler fraction: 0.5, 1 and 2 become 1, 2 and 4.

    Args:
      weights: Weight of each example, > 0, [P].
    Raises:
      ValueError: the weights are no such multiples of each other, or would repeat an example more than 1000 times.
    """
    for parts in range(1, 101):
        counts = np.rint(weights * parts)
        if counts.min(initial=1) >= 1 and np.abs(counts - weights * parts).max(initial=0.0) < 1e-9 * parts:
            break
    else:
        raise ValueError("weights must be multiples of one fraction, such as 0.5, 1 and 2, got others")
    whole = counts.astype(np.int64)
    whole //= np.gcd.reduce(whole) if len(whole) else 1
    if whole.max(initial=1) > 1000:
        raise ValueError(f"weights of a step must lie within a factor of 1000, got a factor of {whole.max()}")
    return whole


def weighted_means(
    values: Mapping[str, Shaped[Tensor, " P"]], weights: Float[Tensor, " P"], total: int | float
) -> dict[str, float]:
    """The global mean of each of several values: sum(weights * values) / total, in float64.

    Args:
      values: Name -> one value per example of the whole step or evaluation, [P]; numbers of any type.
      weights: Weight of each example, [P].
      total: Divisor, as in `mean_part`.
    Raises:
      ValueError: counts differ, or total is not a finite number > 0.
    """
    _check_total(total)
    for column in values.values():
        _check_counts(column, weights)
    columns = torch.stack([column.detach().double() for column in values.values()])
    return dict(zip(values, ((columns * weights).sum(dim=1) / total).tolist(), strict=True))


def _check_counts(values: Tensor, weights: Tensor) -> None:
    if values.shape != weights.shape:
        raise ValueError(f"values and weights must hold one entry per example, got {len(values)} and {len(weights)}")


def _check_total(total: int | float) -> None:
    if not 0 < total < math.inf:
        raise ValueError(f"total must be a finite number > 0, got {total!r}")
