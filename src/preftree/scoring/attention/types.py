"""Arguments of attention over packed trees: the trees of a forward, and the form of a layer's attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

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
      cache: Masks and segments that a path has built for this batch, by window (and dtype).
    """

    batch: TreeBatch
    path: AttentionPath
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
