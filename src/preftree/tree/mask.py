"""Attention mask of packed trees, from one integer per token; a slow, explicit form. Suffixes as in layout.py."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def visible(end_T: Int[Tensor, " T"], position_T: Int[Tensor, " T"], window: int | None = None) -> Bool[Tensor, "T T"]:
    """Whether query q (row) may attend to key k (column).

    k is q itself or an ancestor of it: `k <= q < end[k]`. A sliding window counts positions along the branch, not
    distance in the packed row: `position[q] - position[k] < window`.

    Args:
      end_T: First index after each token's subtree, [T].
      position_T: Depth of each token, [T].
      window: Number of positions that a token attends to, including its own position; None for all.
    """
    index_T = torch.arange(len(end_T), device=end_T.device)
    sees = (index_T[None, :] <= index_T[:, None]) & (index_T[:, None] < end_T[None, :])
    if window is not None:
        sees &= position_T[:, None] - position_T[None, :] < window
    return sees
