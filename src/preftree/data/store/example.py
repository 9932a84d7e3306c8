"""Tokenised examples: the rows of a token store, and their protocol in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from preftree.records import Provenance
from preftree.tree.layout import TokenSequence, grow_tree

NO_PROMPT = 0
"""Digest of the prompt of an example without one, such as plain text."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenExample:
    """One example as token ids.

    Attributes:
      sequences: Chosen and rejected response of a pair; responses of a ranking, best first; else the single response.
      weight: Weight in every mean.
      provenance: Origin of its row.
      num_prompt: Tokens of the prompt, the prefix of all its sequences.
      borrowed: Responses of other examples after its prompt, which its loss compares with.
      tie: Whether neither response is preferred.
      desirable: Whether the single response is desirable; None without a label.
      figures: Figures of its row, as in `records.FIGURES`.
    """

    sequences: tuple[TokenSequence, ...]
    weight: float
    provenance: Provenance
    num_prompt: int = 0
    borrowed: tuple[TokenSequence, ...] = ()
    tie: bool = False
    desirable: bool | None = None
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@runtime_checkable
class Examples(Protocol):
    """Tokenised examples, as in TokenStore.

    Attributes:
      num_scored: Scored tokens over all sequences of each example, [N].
      weights: Weight of each example, [N].
      prompts: 64-bit digests of the prompts before any trimming, [N]; `NO_PROMPT` where there is none.
    """

    num_scored: Int[np.ndarray, " N"]
    weights: Float[np.ndarray, " N"]
    prompts: Int[np.ndarray, " N"]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenExample: ...


def join(prompt: np.ndarray, response: np.ndarray, spans: Sequence[Sequence[int]] | np.ndarray) -> TokenSequence:
    """A prompt and a response as one sequence; `spans` are the scored ranges [start, stop)."""
    ids = np.concatenate([prompt, response])
    scored = np.zeros(len(ids), np.bool_)
    for start, stop in spans:
        scored[start:stop] = True
    return TokenSequence(ids, scored)


def count_tokens(sequences: Sequence[TokenSequence]) -> tuple[int, int]:
    """Unique input tokens of the tree of some sequences (as `len(grow_tree(...))`), and their scored tokens."""
    inputs = [sequence.trimmed().ids[:-1] for sequence in sequences]
    tokens = sum(map(len, inputs)) if len(inputs) < 3 else len(grow_tree(sequences))
    if len(inputs) == 2:
        size = min(map(len, inputs))
        differs = np.flatnonzero(inputs[0][:size] != inputs[1][:size])
        tokens -= int(differs[0]) if len(differs) else size
    return tokens, sum(int(np.count_nonzero(sequence.scored)) for sequence in sequences)
