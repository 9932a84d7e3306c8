"""Parts of a batch that a model must not compute together: rows of longrope models on both sides of a length."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from preftree.tree.layout import Branch, TreeBatch


def split_by_depth(batch: TreeBatch, limit: int | None) -> list[tuple[Int[Tensor, " t"], TreeBatch]]:
    """The trees whose deepest token lies within `limit`, and the others; one part where there are no others.

    Returns:
      For each part the indices of its tokens in the batch, and its trees; a part's predictions are those of the batch.
    """
    everything = torch.arange(len(batch.input_T), device=batch.input_T.device)
    if limit is None or not batch.branches:
        return [(everything, batch)]
    roots = [index for index, branch in enumerate(batch.branches) if branch.parent < 0]
    spans = list(zip(roots, [*roots[1:], len(batch.branches)], strict=True))
    deep = [
        max(branch.depth + branch.stop - branch.start for branch in batch.branches[first:last]) > limit
        for first, last in spans
    ]
    if len(set(deep)) == 1:
        return [(everything, batch)]
    parts = []
    for wanted in (False, True):
        mine = [span for span, is_deep in zip(spans, deep, strict=True) if is_deep == wanted]
        parts.append(_part(batch, mine))
    return parts


def _part(batch: TreeBatch, spans: list[tuple[int, int]]) -> tuple[Int[Tensor, " t"], TreeBatch]:
    """The trees of a few spans of branches, moved together."""
    device = batch.input_T.device
    starts = [batch.branches[first].start for first, _ in spans]
    stops = [batch.branches[last - 1].stop for _, last in spans]
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    shifts = [start - moved for start, moved in zip(starts, accumulate([0, *sizes[:-1]]), strict=True)]
    index = torch.cat([torch.arange(start, stop, device=device) for start, stop in zip(starts, stops, strict=True)])
    shift = torch.cat([torch.full((size,), by, device=device) for size, by in zip(sizes, shifts, strict=True)])
    branches: list[Branch] = []
    for (first, last), by in zip(spans, shifts, strict=True):
        before = len(branches) - first
        branches.extend(
            Branch(b.start - by, b.stop - by, b.depth, b.parent + before if b.parent >= 0 else -1)
            for b in batch.branches[first:last]
        )
    trees = replace(
        batch,
        input_T=batch.input_T.index_select(0, index),
        position_T=batch.position_T.index_select(0, index),
        end_T=batch.end_T.index_select(0, index) - shift,
        branches=tuple(branches),
    )
    return index, trees
