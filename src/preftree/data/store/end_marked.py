"""Examples read at the ends of their responses, as reward models read them.

A sequence is a prompt, a response and a mark, and only the mark is scored. The mark's prediction
comes from the response's last token, and the last token of a sequence is not an input: the mark is never computed,
and a model has one figure for each response, read at its last token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from preftree.data.store.example import TokenExample
from preftree.data.store.token_store import TokenStore
from preftree.data.store.view import StoreView
from preftree.tree.layout import TokenSequence

MARK = 0
"""Token id of the mark. Any id is valid, since the mark is neither embedded nor predicted."""


def mark_end(ids: Int[np.ndarray, " L"], padding: int | None = None) -> TokenSequence:
    """A prompt with its response as a sequence that is read at its last token.

    Args:
      ids: Token ids of both, [L].
      padding: Padding token of a classifier of transformers, which reads at the last other token.
    """
    real = np.flatnonzero(ids != padding) if padding is not None else np.arange(len(ids))
    stop = int(real[-1]) + 1 if len(real) else 1
    marked = np.append(ids[:stop], np.int32(MARK)).astype(np.int32)
    return TokenSequence(marked, np.arange(len(marked)) == stop)


class EndMarkedStore(StoreView):
    """Store view of examples with responses that are read at their ends."""

    def __init__(self, store: TokenStore, padding: int | None) -> None:
        """View `store`; `padding` as in `mark_end`."""
        # A response's last token becomes an input, and each response has a scored token.
        super().__init__(store, more_tokens=store.num_scored, changes=f"end-marked {padding}".encode())
        self._padding = padding

    def change(self, index: int, example: TokenExample) -> TokenExample:
        """The example with its sequences marked."""
        return replace(example, sequences=tuple(mark_end(s.ids, self._padding) for s in example.sequences))
