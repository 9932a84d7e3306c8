"""Units of a step: examples that are laid out together, by prompt, and by prompts that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftree.tree.layout import LEAST_SHARED, Sharing, TokenSequence, Tree, beginning, common_length, grow_tree


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """Examples that stay together, with one tree, or one tree per sequence where prefixes cannot be shared."""

    examples: tuple[int, ...]
    trees: tuple[Tree, ...]

    @property
    def size(self) -> int:
        """Tokens of all trees."""
        return sum(len(tree) for tree in self.trees)

    @property
    def longest(self) -> int:
        """Tokens of the largest tree."""
        return max(len(tree) for tree in self.trees)


def units_apart(
    examples: Sequence[Sequence[TokenSequence]], prompts: Sequence[int], budget: int, sharing: Sharing
) -> list[Unit]:
    """The examples of each prompt as one unit, or as several that repeat the prompt where one exceeds the budget.

    Raises:
      ValueError: one example alone is larger than the budget.
    """
    by_prompt: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_prompt.setdefault(prompt if sharing.prefixes else index, []).append(index)

    def unit(indices: Sequence[int]) -> Unit:
        sequences = [sequence for index in indices for sequence in examples[index]]
        groups = [sequences] if sharing.prefixes else [[sequence] for sequence in sequences]
        return Unit(tuple(indices), tuple(grow_tree(group, switch=sharing.switch) for group in groups))

    units: list[Unit] = []
    for indices in by_prompt.values():
        whole = unit(indices)
        if whole.size <= budget:
            units.append(whole)
            continue
        current = unit(indices[:1])
        for index in indices[1:]:
            grown = unit((*current.examples, index))
            if grown.size > budget:
                units.append(current)
                grown = unit([index])
            current = grown
        units.append(current)
    for checked in units:
        size = checked.size if sharing.prefixes else len(checked.trees) * checked.longest
        if size > budget:
            raise ValueError(f"example {checked.examples[0]} needs {size} tokens, the micro-batch budget is {budget}")
    return units


def units_joined(
    units: Sequence[Unit],
    examples: Sequence[Sequence[TokenSequence]],
    prompts: Sequence[int],
    budget: int,
    num_ranks: int,
    sharing: Sharing,
) -> list[Unit]:
    """Units of the same examples, in which those whose sequences begin alike are joined, each within the budget.

    One large unit would leave other ranks idle. So some families are cut into parts of similar size, a multiple of the
    number of ranks. How many are cut is tried, and the way is taken whose busiest rank has the fewest tokens.
    """
    families = _families(units, examples, sharing.switch)
    alone = [family[0] for family in families if len(family) == 1]
    large = [_Family(family, examples) for family in families if len(family) > 1]
    large.sort(key=lambda family: -sum(family.added))
    ways: list[tuple[int, list[list[Unit]]]] = []
    for number in sorted({0, len(large) % num_ranks, min(len(large), num_ranks - 1)} if num_ranks > 1 else {0}):
        limits = [family.even_limit(num_ranks, budget) if i < number else budget for i, family in enumerate(large)]
        parts = [part for family, limit in zip(large, limits, strict=True) for part in family.cut(limit)]
        ranks = spread_over_ranks([unit.size for unit in alone] + [size for _, size in parts], num_ranks)
        ways.append((max(load for _, load in ranks), [members for members, _ in parts]))
    best = min(ways, key=lambda way: way[0])[1]
    return alone + [unit for part in best for unit in _join(part, examples, prompts, budget, sharing)]


def spread_over_ranks(sizes: Sequence[int], num_ranks: int) -> list[tuple[list[int], int]]:
    """Items of each rank and their total size: the largest item first, each to the rank with the least."""
    items: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        rank = load.index(min(load))
        items[rank].append(index)
        load[rank] += sizes[index]
    return list(zip(items, load, strict=True))


def _join(
    part: Sequence[Unit],
    examples: Sequence[Sequence[TokenSequence]],
    prompts: Sequence[int],
    budget: int,
    sharing: Sharing,
) -> Sequence[Unit]:
    """The units as one; as they are where that saves nothing, and as two halves where it does not fit."""
    if len(part) == 1:
        return part
    members = tuple(index for unit in part for index in unit.examples)
    sequences = [sequence for index in members for sequence in examples[index]]
    numbers = [prompts[index] for index in members for _ in examples[index]]
    tree = grow_tree(sequences, numbers, sharing.switch)
    if len(tree) > budget:
        half = len(part) // 2
        return [
            *_join(part[:half], examples, prompts, budget, sharing),
            *_join(part[half:], examples, prompts, budget, sharing),
        ]
    return [Unit(members, (tree,))] if len(tree) < sum(unit.size for unit in part) else part


def _families(
    units: Sequence[Unit], examples: Sequence[Sequence[TokenSequence]], switch: int | None
) -> list[list[Unit]]:
    """Units whose sequences may share a beginning, directly or through others."""
    family = list(range(len(units)))  # a unit of the same family that comes before it, or itself

    def first_of(number: int) -> int:
        while family[number] != number:
            family[number] = family[family[number]]
            number = family[number]
        return number

    by_beginning: dict[tuple[bool, bytes], int] = {}
    for number, unit in enumerate(units):
        for index in unit.examples:
            for ids in map(_inputs, examples[index]):
                if len(ids) >= LEAST_SHARED:
                    long = switch is not None and len(ids) > switch
                    one, other = first_of(number), first_of(by_beginning.setdefault((long, beginning(ids)), number))
                    family[max(one, other)] = min(one, other)
    members: dict[int, list[Unit]] = {}
    for number, unit in enumerate(units):
        members.setdefault(first_of(number), []).append(unit)
    return list(members.values())


class _Family:
    """Units whose sequences may share a beginning, sorted by their tokens: those that share most are neighbours.

    Attributes:
      units: The units.
      added: Tokens that each is expected to add to a tree in which the unit before it is.
    """

    def __init__(self, units: Sequence[Unit], examples: Sequence[Sequence[TokenSequence]]) -> None:
        inputs = {unit: [_inputs(each) for index in unit.examples for each in examples[index]] for unit in units}
        self.units = sorted(units, key=lambda unit: inputs[unit][0].astype(">i4").tobytes())
        self.added = [unit.size for unit in self.units]
        for number in range(1, len(self.units)):
            before, (first, *_) = inputs[self.units[number - 1]], inputs[self.units[number]]
            shared = max(common_length([first, ids]) for ids in before)
            self.added[number] -= shared if shared >= LEAST_SHARED else 0

    def cut(self, limit: int) -> list[tuple[list[Unit], int]]:
        """The units in parts that take at most `limit` tokens as one tree, with the tokens expected of each."""
        parts: list[tuple[list[Unit], int]] = []
        for unit, added in zip(self.units, self.added, strict=True):
            if parts and parts[-1][1] + added <= limit:
                parts[-1][0].append(unit)
                parts[-1] = (parts[-1][0], parts[-1][1] + added)
            else:
                parts.append(([unit], unit.size))
        return parts

    def even_limit(self, num_ranks: int, budget: int) -> int:
        """The least limit that needs no more parts than the budget does, rounded up to a multiple of `num_ranks`."""
        fewest = len(self.cut(budget))
        wanted = -(-fewest // num_ranks) * num_ranks
        low, high = max(unit.size for unit in self.units), budget
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(self.cut(middle)) <= wanted else (middle + 1, high)
        return high


def _inputs(sequence: TokenSequence) -> np.ndarray:
    return sequence.trimmed().ids[:-1]
