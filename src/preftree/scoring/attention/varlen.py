"""Tree attention by one call of flash attention over segments of any length (torch.nn.attention.varlen), on CUDA.

Every branch of the packed row is a segment of queries; its keys are those of its ancestors followed by those of the
branch, gathered for each branch. The queries are the last of their keys, and the kernel aligns them so: query r of l
sees the keys up to r + (number of keys) - l. Positions along a branch are then indices of its keys, so the kernel's
sliding window applies.

Suffixes: T packed tokens, K gathered keys, N branches, H heads, G key heads, D head width.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from preftree.errors import ModelError
from preftree.scoring.attention.types import AttentionForm, TreeMask
from preftree.tree.layout import TreeBatch
from preftree.tree.to_device import send


def attend_by_segments(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    tree: TreeMask,
    form: AttentionForm,
) -> Float[Tensor, "1 H T D"]:
    """Attend along each branch, in one of KERNEL_DTYPES.

    Raises:
      ModelError: the layer caps scores or has attention sinks, or heads of a width that the kernel does not take.
    """
    if form.softcap is not None or form.sinks is not None:
        raise ModelError("attention=varlen can neither cap scores nor take attention sinks; use attention=auto")
    if "segments" not in tree.cache:
        tree.cache["segments"] = segments_of(tree.batch, query.device)
    return attend_segments(query, key, value, tree.cache["segments"], form.scaling, form.window)


@dataclass(frozen=True, eq=False, slots=True)
class Segments:
    """The branches of a batch in the kernel's form.

    Attributes:
      key_K: Index in T of each key, branch after branch; None where no branch has an ancestor and the keys are the row.
      query_starts: Start of each branch's queries, and end of the last, int32, [N + 1].
      key_starts: Start of each branch's keys, and end of the last, int32, [N + 1].
      most_queries: Largest number of queries of a branch.
      most_keys: Largest number of keys of a branch.
    """

    key_K: Int[Tensor, " K"] | None
    query_starts: Int[Tensor, " N1"]
    key_starts: Int[Tensor, " N1"]
    most_queries: int
    most_keys: int


def segments_of(batch: TreeBatch, device: torch.device) -> Segments:
    """Split a batch into its branches, on the host, without waiting for the device."""
    paths: list[np.ndarray] = []
    for branch in batch.branches:
        tokens = np.arange(branch.start, branch.stop)
        paths.append(tokens if branch.parent < 0 else np.concatenate([paths[branch.parent], tokens]))
    queries = [branch.stop - branch.start for branch in batch.branches]
    keys = [len(path) for path in paths]
    shared = any(branch.parent >= 0 for branch in batch.branches)
    return Segments(
        key_K=send(np.concatenate(paths), device) if shared else None,
        query_starts=send(np.cumsum([0, *queries]).astype(np.int32), device),
        key_starts=send(np.cumsum([0, *keys]).astype(np.int32), device),
        most_queries=max(queries),
        most_keys=max(keys),
    )


def attend_segments(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    segments: Segments,
    scaling: float,
    window: int | None,
) -> Float[Tensor, "1 H T D"]:
    """Attend along each branch; a shared key's gradient is the sum over all branches that gathered it.

    Args:
      query, key, value: One packed row, in one of KERNEL_DTYPES.
      segments: Its branches.
      scaling: Factor on query-key products.
      window: Positions that a token attends to, including its own position.
    Raises:
      ModelError: the kernel does not support the head width.
    """
    if problem := width_problem(query.shape[-1], value.shape[-1]):
        raise ModelError(f"attention=varlen: {problem}; use attention=auto")
    q, k, v = (row[0].transpose(0, 1) for row in (query, key, value))
    if segments.key_K is not None:
        k, v = k.index_select(0, segments.key_K), v.index_select(0, segments.key_K)
    out = _flash(q, k, v, segments, scaling, (-1 if window is None else window - 1, 0))
    return out.transpose(0, 1)[None]


def _flash(
    query: Float[Tensor, "T H D"],
    key: Float[Tensor, "K G D"],
    value: Float[Tensor, "K G D"],
    segments: Segments,
    scaling: float,
    window: tuple[int, int],
) -> Float[Tensor, "T H D"]:
    """The kernel: key c is visible to query r iff -window[0] <= c - (r + keys - queries) <= window[1]; -1: no limit."""
    # The kernel splits keys, which would depend on the packing, only if they are paged.
    out = varlen_attn(
        query,
        key,
        value,
        segments.query_starts,
        segments.key_starts,
        segments.most_queries,
        segments.most_keys,
        scale=scaling,
        window_size=window,
        **_grouped(query.shape[1] != key.shape[1]),
    )
    assert isinstance(out, Tensor)
    return out


@functools.cache
def _grouped(grouped: bool) -> dict[str, Any]:
    """The argument for grouped queries: torch 2.11 has none, later versions refuse grouped queries without it."""
    return {"enable_gqa": True} if grouped and "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def width_problem(width: int, value_width: int) -> str | None:
    """Reason why the kernel does not support heads of this width, in words; None where it does."""
    if width == value_width and width % 8 == 0 and width <= 256:
        return None
    return (
        f"it takes heads of a multiple of 8 numbers up to 256, as many in keys as in values, got {width} and "
        f"{value_width}"
    )
