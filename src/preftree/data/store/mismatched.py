"""Responses under the wrong prompt: what a loss may compare with, and no example of its own.

The partner of an example follows from the order of the data, not from the shuffle, so the same sequences are scored in
every epoch and under every seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from preftree.data.store.store import TokenExample, TokenStore
from preftree.errors import DataError
from preftree.records import Provenance
from preftree.tree.layout import TokenSequence


def partners(prompts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """For each example the one whose response it is shown with: the next that has another prompt, round the end.

    In runs of examples with one prompt the first goes with the first of the next run, and so on, so that each kind of
    response is lent as often as another.

    Args:
      prompts: The prompt of each example, in the order of the data, [N].
    Returns:
      Places among the N, [N].
    Raises:
      ValueError: all have the same prompt.
    """
    if len(np.unique(prompts)) < 2:
        raise ValueError("partners need at least two prompts, got one")
    starts = np.flatnonzero(np.append(True, prompts[1:] != prompts[:-1]))
    lengths = np.diff(np.append(starts, len(prompts)))
    run = np.repeat(np.arange(len(starts)), lengths)
    following = (np.arange(len(starts)) + 1) % len(starts)
    # Only the last run can meet its own prompt, round the end.
    if prompts[starts[-1]] == prompts[starts[0]]:
        following[-1] = 1
    within = np.arange(len(prompts)) - starts[run]
    after = following[run]
    return starts[after] + within % lengths[after]


class MismatchedStore:
    """A store whose examples each borrow the response of another prompt's example; attributes as of TokenStore."""

    def __init__(self, store: TokenStore, rows: Int[np.ndarray, " N"], max_length: int | None, name: str) -> None:
        """Pair up the examples at `rows`; a borrowed response is cut where it would exceed `max_length`.

        Args:
          store: Holds the examples.
          rows: Which of them.
          max_length: Most tokens of a prompt and a response.
          name: What an error calls them.
        Raises:
          DataError: they all have the same prompt.
        """
        self._store = store
        self._max_length = max_length
        self._partner = np.full(len(store), -1)
        try:
            self._partner[rows] = rows[partners(store.prompts[rows])]
        except ValueError as error:
            raise DataError(
                f"the loss compares each response with one to another prompt, and {name} have only one prompt; "
                "add others, or choose another loss"
            ) from error
        self.digest = store.digest
        self.num_scored: Int[np.ndarray, " N"] = store.num_scored
        self.weights: Float[np.ndarray, " N"] = store.weights
        self.prompts: Int[np.ndarray, " N"] = store.prompts
        # The own tree and the scored tokens of the other: what is borrowed adds no more than its own tokens.
        self.num_tokens: Int[np.ndarray, " N"] = store.num_tokens + store.num_tokens[self._partner]

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> TokenExample:
        """One example with what it borrows.

        Raises:
          IndexError: no such example, or none of the paired ones.
        """
        if not 0 <= index < len(self) or self._partner[index] < 0:
            raise IndexError(f"example {index} has no partner")
        own, other = self._store[index], self._store[int(self._partner[index])]
        return replace(own, borrowed=(_under(own, other, self._max_length),))

    def provenance(self, index: int) -> Provenance:
        """The row that an example came from."""
        return self._store.provenance(index)


def _under(own: TokenExample, other: TokenExample, max_length: int | None) -> TokenSequence:
    """The response of `other` after the prompt of `own`."""
    prompt = own.sequences[0].ids[: own.num_prompt]
    ids, scored = (values[other.num_prompt :] for values in (other.sequences[0].ids, other.sequences[0].scored))
    if max_length is not None:
        room = max(max_length - len(prompt), int(np.argmax(scored)) + 1)
        ids, scored = ids[:room], scored[:room]
    unscored = np.zeros(len(prompt), np.bool_)
    return TokenSequence(np.concatenate([prompt, ids]), np.concatenate([unscored, scored]))
