"""Store view with mismatched responses: each example borrows the response of an example with another prompt.

The partner of an example follows from the order of the data, not from the shuffle, so the same sequences are scored in
every epoch and with every seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from preftree.data.store.example import TokenExample
from preftree.data.store.token_store import TokenStore
from preftree.data.store.view import StoreView
from preftree.errors import DataError
from preftree.tree.layout import TokenSequence


def partners(prompts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Partner of each example, from which it borrows: the next with another prompt; the last wraps to the first.

    In runs of examples with one prompt the first is paired with the first of the next run, and so on, so that each
    kind of response is borrowed equally often.

    Args:
      prompts: The prompt of each example, in the order of the data, [N].
    Returns:
      Indices of the partners, [N].
    Raises:
      ValueError: all have the same prompt.
    """
    if len(np.unique(prompts)) < 2:
        raise ValueError("partners need at least two prompts, got one")
    starts = np.flatnonzero(np.append(True, prompts[1:] != prompts[:-1]))
    lengths = np.diff(np.append(starts, len(prompts)))
    run = np.repeat(np.arange(len(starts)), lengths)
    following = (np.arange(len(starts)) + 1) % len(starts)
    # Only the last run, which wraps to the first, can meet the same prompt again.
    if prompts[starts[-1]] == prompts[starts[0]]:
        following[-1] = 1
    within = np.arange(len(prompts)) - starts[run]
    after = following[run]
    return starts[after] + within % lengths[after]


class MismatchedStore(StoreView):
    """Examples that each borrow the response of another prompt's example."""

    def __init__(self, store: TokenStore, rows: Int[np.ndarray, " N"], max_length: int | None, name: str) -> None:
        """Pair the examples at `rows`; a borrowed response is trimmed where it would exceed `max_length`.

        Args:
          store: The store.
          rows: Indices of the examples to pair.
          max_length: Most tokens of a prompt and a response.
          name: Name of the examples in errors.
        Raises:
          DataError: they all have the same prompt.
        """
        self._max_length = max_length
        self._partner = np.full(len(store), -1)
        try:
            self._partner[rows] = rows[partners(store.prompts[rows])]
        except ValueError as error:
            raise DataError(
                f"the loss compares each response with one to another prompt, and {name} have only one prompt; "
                "add others, or choose another loss"
            ) from error
        # A borrowed response adds at most the tokens of the tree that it comes from.
        changes = f"mismatched {max_length} ".encode() + self._partner.tobytes()
        super().__init__(store, more_tokens=store.num_tokens[self._partner], changes=changes)

    def change(self, index: int, example: TokenExample) -> TokenExample:
        """The example with its borrowed response.

        Raises:
          IndexError: it is not a paired example.
        """
        if self._partner[index] < 0:
            raise IndexError(f"example {index} has no partner")
        partner = self._store[int(self._partner[index])]
        return replace(example, borrowed=(_under(example, partner, self._max_length),))


def _under(example: TokenExample, partner: TokenExample, max_length: int | None) -> TokenSequence:
    """The response of `partner` after the prompt of `example`."""
    prompt = example.sequences[0].ids[: example.num_prompt]
    ids, scored = (values[partner.num_prompt :] for values in (partner.sequences[0].ids, partner.sequences[0].scored))
    if max_length is not None:
        room = max(max_length - len(prompt), int(np.argmax(scored)) + 1)
        ids, scored = ids[:room], scored[:room]
    unscored = np.zeros(len(prompt), np.bool_)
    return TokenSequence(np.concatenate([prompt, ids]), np.concatenate([unscored, scored]))
