"""The only mean in the program: a weighted sum over all parts, divided once by a total known beforehand.

Means of parts are never averaged, so micro-batches, ranks and evaluation batches of any size give the same figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def mean_part(values: Float[Tensor, " P"], weights: Float[Tensor, " P"], total: int | float) -> Float[Tensor, ""]:
    """What these examples contribute to the global mean: sum(weights * values) / total, differentiable.

    Args:
      values: One value per example of this part, [P]; P may be 0.
      weights: Weight of each example; 2 counts like the same example twice, [P].
      total: What the mean divides by, over all parts of the step: the sum of weights, or of weighted token counts.
    Raises:
      ValueError: counts differ, or total is not a finite number > 0.
    """
    _check_counts(values, weights)
    _check_total(total)
    return (weights * values).sum() / total


@dataclass(frozen=True, eq=False, slots=True)
class WeightedSums:
    """Weighted sums of named per-example values, still to be divided; add the parts, then divide once.

    Attributes:
      names: Name of each sum.
      sums: The sums, float64, on the device of the values, [M]: one tensor, so one all-reduce and one copy to the host.
    """

    names: tuple[str, ...]
    sums: Float[Tensor, " M"]

    def __add__(self, other: WeightedSums) -> WeightedSums:
        """The sums over both parts.

        Raises:
          ValueError: the parts do not hold the same names in the same order.
        """
        if self.names != other.names:
            raise ValueError(f"parts must hold the same names, got {self.names} and {other.names}")
        return WeightedSums(self.names, self.sums + other.sums)

    def mean(self, total: int | float) -> dict[str, float]:
        """The one division.

        Args:
          total: The sum of the weights over all examples that were added.
        Raises:
          ValueError: total is not a finite number > 0.
        """
        _check_total(total)
        return dict(zip(self.names, (self.sums / total).tolist(), strict=True))


def weigh(values: Mapping[str, Shaped[Tensor, " P"]], weights: Float[Tensor, " P"]) -> WeightedSums:
    """Weighted sums of one part's values.

    Args:
      values: Name -> one value per example, [P]; numbers of any type, P may be 0.
      weights: Weight of each example, [P].
    Raises:
      ValueError: counts differ.
    """
    for column in values.values():
        _check_counts(column, weights)
    columns = torch.stack([column.detach().double() for column in values.values()])
    return WeightedSums(tuple(values), (columns * weights).sum(dim=1))


def _check_counts(values: Tensor, weights: Tensor) -> None:
    if values.shape != weights.shape:
        raise ValueError(f"values and weights must hold one entry per example, got {len(values)} and {len(weights)}")


def _check_total(total: int | float) -> None:
    if not 0 < total < math.inf:
        raise ValueError(f"total must be a finite number > 0, got {total!r}")
