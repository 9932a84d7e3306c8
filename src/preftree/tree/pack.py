"""Packing of examples into micro-batches, by their tokens.

A micro-batch is a token budget, not a row count. Examples with the same prompt share a tree as long as it fits, and so
do prompts that begin alike (`tree/layout.py` says from when); a beginning that several micro-batches need is computed
in each. Trees are packed end to end. The split of a step changes memory and time, never the trajectory: the only mean
divides by the weight of the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftree.tree.layout import Sharing, TokenSequence, TreeBatch, batch_trees
from preftree.tree.units import Unit, spread_over_ranks, units_apart, units_joined


@dataclass(frozen=True, eq=False, slots=True)
class MicroBatch:
    """Some examples of a step and the trees that hold them.

    Attributes:
      examples: Indices into the step's examples.
      batch: Their responses, in the order of `examples` and, within one, of its sequences.
    """

    examples: tuple[int, ...]
    batch: TreeBatch


def pack(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Pack items into bins of at most `budget`: first-fit, largest first.

    Returns:
      Bins of indices into `sizes`; every index once.
    Raises:
      ValueError: an item is larger than the budget.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[index]
        if size > budget:
            raise ValueError(f"item {index} has {size} tokens, the budget is {budget}")
        for number, free in enumerate(room):
            if size <= free:
                bins[number].append(index)
                room[number] -= size
                break
        else:
            bins.append([index])
            room.append(budget - size)
    return bins


def pack_rows(shapes: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Pack items into rectangles of at most `budget` tokens; every row is padded to the longest of its rectangle.

    Args:
      shapes: Number of rows of each item, and the length of its longest row.
      budget: Most tokens of a rectangle, padding included.
    Returns:
      Rectangles of indices into `shapes`, items of similar length together; every index once.
    Raises:
      ValueError: an item alone is larger than the budget.
    """
    bins: list[list[int]] = []
    rows = width = 0
    for index in sorted(range(len(shapes)), key=lambda i: (-shapes[i][1], i)):
        number, longest = shapes[index]
        if number * longest > budget:
            raise ValueError(f"item {index} has {number} rows of {longest} tokens, the budget is {budget}")
        if not bins or (rows + number) * width > budget:
            bins.append([])
            rows, width = 0, longest
        bins[-1].append(index)
        rows += number
    return bins


def plan_step(
    examples: Sequence[Sequence[TokenSequence]],
    prompts: Sequence[int],
    *,
    budget: int,
    num_ranks: int = 1,
    sharing: Sharing,
) -> list[list[MicroBatch]]:
    """Split one optimiser step into micro-batches for every rank.

    Args:
      examples: The sequences of each example of the step.
      prompts: Number of each example's prompt.
      budget: Most tokens a micro-batch computes.
      num_ranks: Number of ranks.
      sharing: What sequences may share; where it is nothing, each is a separate tree, and a micro-batch is a rectangle
        of padded rows.
    Returns:
      For each rank its micro-batches; the same number on every rank, empty ones at the end.
    Raises:
      ValueError: one example alone is larger than the budget.
    """
    units = units_apart(examples, prompts, budget, sharing)
    if sharing.prefixes:
        units = units_joined(units, examples, prompts, budget, num_ranks, sharing)
    units.sort(key=lambda unit: (-unit.size, unit.examples))
    plans = []
    for chosen, _ in spread_over_ranks([unit.size for unit in units], num_ranks):
        mine = [units[index] for index in chosen]
        if sharing.prefixes:
            bins = pack([unit.size for unit in mine], budget)
        else:
            bins = pack_rows([(len(unit.trees), unit.longest) for unit in mine], budget)
        plans.append([_micro_batch([mine[index] for index in some]) for some in bins])
    longest = max(len(plan) for plan in plans)
    empty = _micro_batch([])
    return [plan + [empty] * (longest - len(plan)) for plan in plans]


def _micro_batch(units: Sequence[Unit]) -> MicroBatch:
    return MicroBatch(
        tuple(index for unit in units for index in unit.examples),
        batch_trees([tree for unit in units for tree in unit.trees]),
    )
