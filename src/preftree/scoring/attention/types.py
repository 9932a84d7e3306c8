"""Arguments of attention over packed trees: the trees of a forward, and the form of a layer's attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
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
