"""Groups of rows that begin alike, such as the turns of a dialogue, for an order in which they meet in one step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from preftree.tree.layout import LEAST_SHARED, common_length

MOST_COMPARED = 4096
"""Tokens of a beginning that are compared; rows that share more are as good as alike."""


def groups_by_beginning(
    beginnings: Sequence[Int[np.ndarray, " _"]], groups: Int[np.ndarray, " N"] | None, batch_size: int
) -> Int[np.ndarray, " N"]:
    """Groups of rows that stay together in the shuffle, each of at most a step's size.

    Rows are sorted by their tokens, so that each run of neighbours has a common beginning. A run of at most a step's
    size that shares LEAST_SHARED tokens is a group; a longer run is cut where its neighbours share least, and its parts
    are looked at again. What all rows share, such as one system prompt, therefore groups nothing: every step has it.

    Args:
      beginnings: The tokens of a row of each example, its prompt first.
      groups: Groups that must not be divided, as of `order_groups`, [N]; None where every example is one.
      batch_size: Examples of a step.
    Returns:
      A number for each example, equal for those that stay together, [N].
    """
    _, first, unit, sizes = np.unique(
        np.arange(len(beginnings)) if groups is None else groups,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    tokens = [beginnings[index][:MOST_COMPARED] for index in first.tolist()]
    order = sorted(range(len(tokens)), key=lambda number: tokens[number].astype(">i4").tobytes())
    shared = [common_length([tokens[one], tokens[other]]) for one, other in pairwise(order)]
    rows = np.cumsum([0, *(int(sizes[number]) for number in order)])
    group_of = np.empty(len(tokens), np.int64)
    runs, number = [(0, len(order))], 0
    while runs:
        start, stop = runs.pop()
        least = min(shared[start : stop - 1], default=LEAST_SHARED)
        if stop - start == 1 or (least >= LEAST_SHARED and rows[stop] - rows[start] <= batch_size):
            group_of[order[start:stop]] = number
            number += 1
            continue
        cuts = [index + 1 for index in range(start, stop - 1) if shared[index] <= max(least, LEAST_SHARED - 1)]
        runs.extend(zip([start, *cuts], [*cuts, stop], strict=True))
    return group_of[unit.reshape(-1)]
