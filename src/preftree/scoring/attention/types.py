"""Arguments of attention over packed trees: the trees of a forward, and the form of a layer's attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftree.tree.layout import TreeBatch

AttentionPath = Literal["sdpa", "flex", "varlen"]

KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes that the kernel of `varlen` supports."""


@dataclass(frozen=True, eq=False)
class TreeMask:
    """The trees of a forward; a plain object, so that wrappers pass it on unchanged.

    Attributes:
      batch: The trees.
      path: Implementation that computes them.
      windows: Window of each attention layer, by the mask that transformers gives it; None for a layer that sees all.
      cache: Masks and segments that a path has built for this batch, by window (and dtype).
    """

    batch: TreeBatch
    path: AttentionPath
    windows: Mapping[nn.Module, int | None] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class AttentionForm:
    """Form of a layer's attention.

    Attributes:
      scaling: Factor on query-key products.
      window: Positions that a token attends to, including its own position; None for all.
      softcap: Scores become softcap * tanh(scores / softcap); None for no capping.
      sinks: Attention sinks, one logit a head, [H].
    """

    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


def additive_template(
    rows: int, before: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "Q K"]:
    """Additive mask of the longest branch with the most keys before it; the masks of the others are views of it.

    Token j of a branch sees keys up to j positions after the branch's start; with c = key position - branch start
    the mask depends on (j, c) alone, so a branch with d keys before it takes rows 0..l and columns -d..l.

    Args:
      rows: Tokens of the longest branch, Q.
      before: Most keys before a branch; K is their number and `rows`.
      window: Positions that a token attends to, including its own position; None for all.
      dtype, device: Dtype and device of the mask.
    """
    offset = torch.arange(-before, rows, device=device)[None, :] - torch.arange(rows, device=device)[:, None]
    hidden = offset > 0
    if window is not None:
        hidden |= offset <= -window
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
