"""View of a token store that modifies sequences as they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float, Int

from preftree.data.store.example import TokenExample
from preftree.data.store.token_store import TokenStore
from preftree.records import Provenance


class StoreView(ABC):
    """Token store that modifies sequences as they are read; attributes as in TokenStore.

    Attributes:
      num_tokens: Upper bound of the unique input tokens of each example's tree, [N].
      changes: All that the view changes besides its store and its code, as bytes.
    """

    def __init__(self, store: TokenStore, more_tokens: Int[np.ndarray, " N"], changes: bytes) -> None:
        """View `store`; an example has at most `more_tokens` more input tokens than in the store, [N]."""
        self._store = store
        self.changes = changes
        self.digest = store.digest
        self.num_scored: Int[np.ndarray, " N"] = store.num_scored
        self.weights: Float[np.ndarray, " N"] = store.weights
        self.prompts: Int[np.ndarray, " N"] = store.prompts
        self.num_tokens: Int[np.ndarray, " N"] = store.num_tokens + more_tokens

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> TokenExample:
        """One example, modified.

        Raises:
          IndexError: no such example.
        """
        return self.change(index, self._store[index])

    @abstractmethod
    def change(self, index: int, example: TokenExample) -> TokenExample:
        """The example at `index` with the sequences of this view."""

    def provenance(self, index: int) -> Provenance:
        """Origin of an example's row."""
        return self._store.provenance(index)
