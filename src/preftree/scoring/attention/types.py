"""What attention over packed trees is given: the trees of a forward, and what a layer makes of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from preftree.tree.layout import TreeBatch

AttentionPath = Literal["sdpa", "flex", "varlen"]

KERNEL_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes that the kernel of `varlen` computes in."""


@dataclass(frozen=True, eq=False)
class TreeMask:
    """The trees of a forward; a plain object, so that wrappers pass it on untouched.

    Attributes:
      batch: The trees.
      path: Which implementation computes them.
      cache: Masks and segments that a path has built for this batch, by window (and dtype).
    """

    batch: TreeBatch
    path: AttentionPath
    cache: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class AttentionForm:
    """What a layer makes of its queries and keys.

    Attributes:
      scaling: Factor on query-key products.
      window: Positions a token sees, itself included; None for all.
      softcap: Scores become softcap * tanh(scores / softcap); None for no capping.
      sinks: Attention sinks, one logit a head, [H].
    """

    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None
