"""Responses that are read at their end: what a reward model sees of a preference.

A sequence is a prompt and a response, and after them one mark, which is all of it that is scored. The mark's prediction
comes from the response's last token, and the last token of a sequence is no input: so nothing of the mark is computed,
and a model has one figure for each response, read at its last token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from preftree.data.store.store import TokenExample, TokenStore
from preftree.records import Provenance
from preftree.tree.layout import TokenSequence

MARK = 0
"""Token id of the mark: any that there is; it is neither looked up nor predicted."""


def mark_end(ids: Int[np.ndarray, " L"], padding: int | None = None) -> TokenSequence:
    """A prompt with its response as a sequence that is read at its last token.

    Args:
      ids: Token ids of both, [L].
      padding: What a classifier of transformers takes for padding: it reads at the last other token.
    """
    real = np.flatnonzero(ids != padding) if padding is not None else np.arange(len(ids))
    stop = int(real[-1]) + 1 if len(real) else 1
    marked = np.append(ids[:stop], np.int32(MARK)).astype(np.int32)
    return TokenSequence(marked, np.arange(len(marked)) == stop)


class EndStore:
    """A store whose responses are read at their ends; attributes as of TokenStore.

    Attributes:
      num_tokens: No fewer than the unique input tokens of each example's own tree, [N].
    """

    def __init__(self, store: TokenStore, padding: int | None) -> None:
        """Look at the examples of `store`; `padding` as of `mark_end`."""
        self._store, self._padding = store, padding
        self.digest = store.digest
        self.num_scored: Int[np.ndarray, " N"] = store.num_scored
        self.weights: Float[np.ndarray, " N"] = store.weights
        self.prompts: Int[np.ndarray, " N"] = store.prompts
        # A response's last token becomes an input, and each response has a scored token.
        self.num_tokens: Int[np.ndarray, " N"] = store.num_tokens + store.num_scored

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> TokenExample:
        """One example, its sequences marked.

        Raises:
          IndexError: no such example.
        """
        example = self._store[index]
        return replace(example, sequences=tuple(mark_end(s.ids, self._padding) for s in example.sequences))

    def provenance(self, index: int) -> Provenance:
        """The row that an example came from."""
        return self._store.provenance(index)
