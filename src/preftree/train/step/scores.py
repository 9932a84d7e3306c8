"""Scores of the responses of a step, token by token, and their collection over micro-batches and ranks.

A loss that depends on the whole step reads the scores of the whole step at once; its gradient then returns to each
micro-batch as one coefficient for each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.example import TokenExample
from preftree.losses.quantities import sum_responses
from preftree.losses.types import ResponseSums
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import sum_over_ranks
from preftree.tree.layout import TokenSequence
from preftree.tree.to_device import send


@dataclass(frozen=True, slots=True)
class Moment:
    """Inputs of a loss other than examples and models.

    Attributes:
      seed: Seed of the run.
      step: Updates so far.
      state: Running state of the loss before this step.
    """

    seed: int = 0
    step: int = 0
    state: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Figures of the scored tokens of some examples, response after response and in token order.

    Attributes:
      policy: Log-prob of each token under the policy, nats, [I]; carries gradient in a step.
      ref: Log-prob of each token under the reference, nats, [I]; None where the loss needs none.
      kl: KL(reference || policy) over the vocabulary at each token, nats, [I], or None; carries gradient in a step.
      confidence: log p(token) - log sum_v p(v)^2 under the policy, detached, [I], or None.
      count_R: Number of tokens of each response, [R].
      rows: Index of each example in the data, [P].
      moment: Seed, step number and running state.
    """

    policy: Float[Tensor, " I"]
    ref: Float[Tensor, " I"] | None
    kl: Float[Tensor, " I"] | None
    confidence: Float[Tensor, " I"] | None
    count_R: Int[Tensor, " R"]
    rows: Int[np.ndarray, " P"]
    moment: Moment

    def responses(self) -> ResponseSums:
        """Summed log-probs under the policy, [R]."""
        return sum_responses(self.policy, self.count_R)

    def detached(self) -> Scores:
        """The same figures without their graphs."""
        return replace(self, **{name: values.detach() for name, values in self.figures().items()})

    def figures(self) -> dict[str, Tensor]:
        """The computed figures by name, each [I]."""
        figures = {"policy": self.policy, "ref": self.ref, "kl": self.kl, "confidence": self.confidence}
        return {name: values for name, values in figures.items() if values is not None}


def sequences_of(example: TokenExample, borrowed: bool = True) -> tuple[TokenSequence, ...]:
    """Scored sequences of an example: its responses, then those that it borrows."""
    return (*example.sequences, *example.borrowed) if borrowed else example.sequences


def count_scored(examples: Sequence[TokenExample], borrowed: bool = True) -> Int[np.ndarray, " P"]:
    """Scored tokens of each example."""
    return np.array([sum(int(s.scored.sum()) for s in sequences_of(e, borrowed)) for e in examples], np.int64)


class Gathered:
    """Storage that collects the scores of a step from its micro-batches, in the order of its examples."""

    def __init__(
        self, examples: Sequence[TokenExample], rows: Int[np.ndarray, " P"], moment: Moment, device: torch.device
    ) -> None:
        """Allocate storage for every token of `examples`, which are `rows` of the data."""
        responses = [int(s.scored.sum()) for example in examples for s in sequences_of(example)]
        self._count_R = send(np.array(responses, np.int64), device)
        self._tokens = count_scored(examples)
        self._unborrowed = count_scored(examples, borrowed=False)
        self._starts = np.cumsum(self._tokens) - self._tokens
        self._rows, self._moment = rows, moment
        self._table: dict[str, Tensor] = {}

    def places(self, examples: Sequence[int], *, borrowed: bool = True) -> Int[Tensor, " I"]:
        """Positions of the tokens of these examples among those of the step, with or without borrowed responses."""
        counts = self._tokens if borrowed else self._unborrowed
        index = np.array(examples, np.int64)
        places = _spread(self._starts[index], counts[index])
        return send(places, self._count_R.device)

    def enter(self, examples: Sequence[int], scores: Scores) -> None:
        """Store the scores of some of the examples, detached."""
        places = self.places(examples)
        for name, values in scores.figures().items():
            if name not in self._table:
                empty = torch.zeros(int(self._tokens.sum()), dtype=torch.float64, device=places.device)
                self._table[name] = empty
            self._table[name].index_copy_(0, places, values.detach().double())

    def finish(self, ranks: Ranks) -> Scores:
        """The scores of all examples, equal on every rank; each example was entered on one rank only."""
        values = sum_over_ranks(torch.stack(list(self._table.values())), ranks)
        table = dict(zip(self._table, values, strict=True))
        return Scores(
            policy=table["policy"],
            count_R=self._count_R,
            ref=table.get("ref"),
            kl=table.get("kl"),
            confidence=table.get("confidence"),
            rows=self._rows,
            moment=self._moment,
        )


def repeat_scores(scores: Scores, examples: Sequence[TokenExample], counts: Int[np.ndarray, " P"]) -> Scores:
    """The scores of a step in which each example is repeated `counts` times; gradients add up.

    Args:
      scores: Scores of each example once.
      examples: The examples.
      counts: Repetitions of each example, at least 1, [P].
    """
    responses = np.array([len(sequences_of(example)) for example in examples], np.int64)
    lengths = np.array([int(s.scored.sum()) for example in examples for s in sequences_of(example)], np.int64)
    index_R = _spread(np.repeat(np.cumsum(responses) - responses, counts), np.repeat(responses, counts))
    index_I = _spread((np.cumsum(lengths) - lengths)[index_R], lengths[index_R])
    rows, tokens = (send(index, scores.count_R.device) for index in (index_R, index_I))
    columns = {name: values.index_select(0, tokens) for name, values in scores.figures().items()}
    count_R = scores.count_R.index_select(0, rows)
    return replace(scores, count_R=count_R, rows=np.repeat(scores.rows, counts), **columns)


def _spread(starts: Int[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " I"]:
    """start, start + 1, ... for each run, run after run."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several runs of examples as one."""
    columns = {name: torch.cat([part.figures()[name] for part in parts]) for name in parts[0].figures()}
    count_R, rows = torch.cat([part.count_R for part in parts]), np.concatenate([part.rows for part in parts])
    return replace(parts[0], count_R=count_R, rows=rows, **columns)
