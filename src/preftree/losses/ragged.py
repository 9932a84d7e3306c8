"""Lists of unlike length as rectangles: one row a list, places past its end marked."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def filled(sizes: Int[Tensor, " L"]) -> Bool[Tensor, "L K"]:
    """True at the places of each list that hold something, K being the longest, [L, K]."""
    longest = int(sizes.max()) if len(sizes) else 0
    return torch.arange(longest, device=sizes.device) < sizes[:, None]


def spread(values: Float[Tensor, " R"], sizes: Int[Tensor, " L"], *, fill: float) -> Float[Tensor, "L K"]:
    """Values given list after list, one row a list, `fill` past its end, [L, K].

    Raises:
      ValueError: the sizes do not sum to the number of values.
    """
    if int(sizes.sum()) != len(values):
        raise ValueError(f"sizes must sum to the number of values, got {int(sizes.sum())} and {len(values)}")
    inside = filled(sizes)
    place = (sizes.cumsum(0) - sizes)[:, None] + torch.arange(inside.shape[1], device=sizes.device)
    rows = values.index_select(0, place.where(inside, 0).flatten()) if len(values) else values
    return rows.view(inside.shape).masked_fill(~inside, fill)
