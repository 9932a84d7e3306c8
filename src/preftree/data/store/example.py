"""Tokenised examples: what a token store holds, and what training reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from preftree.records import Provenance
from preftree.tree.layout import TokenSequence, grow_tree

NO_PROMPT = 0
"""Digest of an example's prompt where it has none, as in plain text."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenExample:
    """One example as token ids.

    Attributes:
      sequences: Chosen and rejected of a pair, the responses of a ranking, best first; else the one response.
      weight: Its weight in every mean.
      provenance: The row it came from.
      num_prompt: Tokens of the prompt, which all its sequences begin with.
      borrowed: Other responses under its prompt that its loss looks at, and that are no examples themselves.
      tie: Whether neither response is preferred.
      desirable: Whether the one response was liked; None where it has no label.
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
    """Tokenised examples, as TokenStore keeps them.

    Attributes:
      num_scored: Scored tokens over all sequences of each example, [N].
      weights: [N].
      prompts: 64-bit digests of the prompts before any trimming, [N]; `NO_PROMPT` where there is none.
    """

    num_scored: Int[np.ndarray, " N"]
    weights: Float[np.ndarray, " N"]
    prompts: Int[np.ndarray, " N"]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenExample: ...


def join(prompt: np.ndarray, response: np.ndarray, spans: Sequence[Sequence[int]] | np.ndarray) -> TokenSequence:
    """A prompt and a response as one sequence; `spans` are the places [start, stop) that are scored."""
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
