"""Packing of examples into micro-batches, by their lengths.

A micro-batch is a token budget, not a row count. Examples with the same prompt share a tree as long as it fits;
trees are packed end to end. The split of a step changes memory and time, never the trajectory: the only mean divides
by the weight of the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftree.tree.layout import TokenSequence, Tree, TreeBatch, batch_trees, grow_tree


@dataclass(frozen=True, eq=False, slots=True)
class MicroBatch:
    """Some examples of a step and the trees that hold them.

    Attributes:
      examples: Indices into the step's examples.
      batch: Their responses, in the order of `examples` and, within one, of its sequences.
    """

    examples: tuple[int, ...]
    batch: TreeBatch


@dataclass(frozen=True, eq=False, slots=True)
class _Unit:
    """Examples that stay together, with one tree, or one tree per sequence where prompts cannot be shared."""

    examples: tuple[int, ...]
    trees: tuple[Tree, ...]

    @property
    def size(self) -> int:
        return sum(len(tree) for tree in self.trees)

    @property
    def longest(self) -> int:
        return max(len(tree) for tree in self.trees)


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
    share: bool = True,
) -> list[list[MicroBatch]]:
    """Split one optimiser step into micro-batches for every rank.

    Args:
      examples: The sequences of each example of the step.
      prompts: Number of each example's prompt; examples with equal numbers share a tree while it fits the budget.
      budget: Most tokens a micro-batch computes.
      num_ranks: Number of ranks.
      share: Whether the model can compute a shared prefix once; otherwise every sequence is a separate tree, and a
        micro-batch is a rectangle of padded rows.
    Returns:
      For each rank its micro-batches; the same number on every rank, empty ones at the end.
    Raises:
      ValueError: one example alone is larger than the budget.
    """
    units = _units(examples, prompts, budget, share)
    ranks: list[list[_Unit]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for unit in sorted(units, key=lambda unit: (-unit.size, unit.examples)):
        rank = load.index(min(load))
        ranks[rank].append(unit)
        load[rank] += unit.size
    plans = []
    for units_of_rank in ranks:
        if share:
            bins = pack([unit.size for unit in units_of_rank], budget)
        else:
            bins = pack_rows([(len(unit.trees), unit.longest) for unit in units_of_rank], budget)
        plans.append([_micro_batch([units_of_rank[index] for index in chosen]) for chosen in bins])
    longest = max(len(plan) for plan in plans)
    empty = _micro_batch([])
    return [plan + [empty] * (longest - len(plan)) for plan in plans]


def _units(
    examples: Sequence[Sequence[TokenSequence]], prompts: Sequence[int], budget: int, share: bool
) -> list[_Unit]:
    by_prompt: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt if share else index, []).append(index)

    def unit(indices: Sequence[int]) -> _Unit:
        sequences = [sequence for index in indices for sequence in examples[index]]
        groups = [sequences] if share else [[sequence] for sequence in sequences]
        return _Unit(tuple(indices), tuple(grow_tree(group) for group in groups))

    units: list[_Unit] = []
    for indices in by_prompt.values():
        whole = unit(indices)
        if whole.size <= budget:
            units.append(whole)
            continue
        # The tree exceeds the budget: several trees repeat the prompt, each with at least one example.
        current = unit(indices[:1])
        for index in indices[1:]:
            grown = unit((*current.examples, index))
            if grown.size > budget:
                units.append(current)
                grown = unit([index])
            current = grown
        units.append(current)
    for checked in units:
        size = checked.size if share else len(checked.trees) * checked.longest
        if size > budget:
            raise ValueError(f"example {checked.examples[0]} needs {size} tokens, the micro-batch budget is {budget}")
    return units


def _micro_batch(units: Sequence[_Unit]) -> MicroBatch:
    return MicroBatch(
        tuple(index for unit in units for index in unit.examples),
        batch_trees([tree for unit in units for tree in unit.trees]),
    )
