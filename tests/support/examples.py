"""Tokenised examples in memory, as training wants them, and a reference table filled by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftree.data.store.example import TokenExample
from preftree.records import Provenance
from preftree.tree.layout import TokenSequence
from support.models import random_sequences


@dataclass(frozen=True, eq=False)
class ListStore:
    """Examples as a token store gives them, from a list."""

    items: Sequence[TokenExample]
    num_scored: np.ndarray
    weights: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> TokenExample:
        return self.items[index]


def make_store(items: Sequence[TokenExample], prompts: Sequence[int]) -> ListStore:
    """A store of these examples; `prompts` numbers their prompts."""
    scored = [sum(int(sequence.scored.sum()) for sequence in item.sequences) for item in items]
    weights = np.array([item.weight for item in items], np.float64)
    return ListStore(items, np.array(scored, np.int64), weights, np.array(prompts, np.int64))


def random_pairs(
    number: int, *, seed: int = 0, weighted: bool = False, longest: int = 10, system: int = 0
) -> ListStore:
    """Pairs of up to `longest` tokens a part; some prompts are shared, and responses often begin alike.

    `system` tokens stand before every prompt.
    """
    rng = np.random.default_rng(seed)
    items: list[TokenExample] = []
    while len(items) < number:
        responses = int(rng.choice([2, 2, 4]))
        prompt = int(rng.integers(1, longest + 3))
        group = random_sequences(rng, responses=responses, prompt=prompt, most=longest, alphabet=7)
        group = [with_beginning(sequence, system) for sequence in group] if system else group
        for chosen, rejected in zip(group[::2], group[1::2], strict=True):
            weight = float(rng.choice([0.5, 1.0, 2.0])) if weighted else 1.0
            items.append(TokenExample((chosen, rejected), weight, Provenance("pairs.jsonl", len(items) + 1)))
    return make_store(items[:number], _by_prompt(items[:number]))


def with_beginning(sequence: TokenSequence, number: int) -> TokenSequence:
    """The sequence after `number` tokens, the same for all."""
    tokens = np.random.default_rng(number).integers(3, 100, number).astype(np.int32)
    return TokenSequence(
        np.concatenate([tokens, sequence.ids]), np.concatenate([np.zeros(number, np.bool_), sequence.scored])
    )


def random_demonstrations(number: int, *, seed: int = 0) -> ListStore:
    """One sequence an example."""
    rng = np.random.default_rng(seed)
    items = []
    for index in range(number):
        (sequence,) = random_sequences(rng, responses=1, prompt=int(rng.integers(1, 13)), most=10)
        items.append(TokenExample((sequence,), float(rng.choice([1.0, 2.0])), Provenance("d.jsonl", index + 1)))
    return make_store(items, list(range(number)))


def _by_prompt(items: Sequence[TokenExample]) -> list[int]:
    """Numbers that are equal where the prompts are."""
    seen: dict[bytes, int] = {}
    prompts = []
    for item in items:
        sequence = item.sequences[0]
        first = int(np.flatnonzero(sequence.scored)[0])
        prompts.append(seen.setdefault(sequence.ids[:first].tobytes(), len(seen)))
    return prompts
