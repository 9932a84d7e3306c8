"""Scores of the responses of a step, token by token, and how the parts of a step are put together.

A loss whose value depends on the whole step sees the scores of the whole step at once, whatever micro-batches and ranks
they were computed in; its gradient then goes back through each micro-batch as one coefficient for each token.
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
    """What the value of a loss may depend on beside examples and models.

    Attributes:
      seed: Of the run.
      step: Updates made so far.
      state: Running state of the loss, as it was before this step.
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
      rows: Place of each example in the data, [P].
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
        """The figures that are there, by name, each [I]."""
        figures = {"policy": self.policy, "ref": self.ref, "kl": self.kl, "confidence": self.confidence}
        return {name: values for name, values in figures.items() if values is not None}


def sequences_of(example: TokenExample, borrowed: bool = True) -> tuple[TokenSequence, ...]:
    """What is scored of an example: its responses, and then those that it borrows from others."""
    return (*example.sequences, *example.borrowed) if borrowed else example.sequences


def count_scored(examples: Sequence[TokenExample], borrowed: bool = True) -> Int[np.ndarray, " P"]:
    """Scored tokens of each example."""
    return np.array([sum(int(s.scored.sum()) for s in sequences_of(e, borrowed)) for e in examples], np.int64)


class Gathered:
    """The scores of a step while its parts come in, in the order of its examples."""

    def __init__(
        self, examples: Sequence[TokenExample], rows: Int[np.ndarray, " P"], moment: Moment, device: torch.device
    ) -> None:
        """Room for every token of `examples`, which stand at `rows` of the data."""
        responses = [int(s.scored.sum()) for example in examples for s in sequences_of(example)]
        self._count_R = send(np.array(responses, np.int64), device)
        self._tokens = count_scored(examples)
        self._own = count_scored(examples, borrowed=False)
        self._starts = np.cumsum(self._tokens) - self._tokens
        self._rows, self._moment = rows, moment
        self._table: dict[str, Tensor] = {}

    def places(self, examples: Sequence[int], *, borrowed: bool = True) -> Int[Tensor, " I"]:
        """Where the tokens of these examples stand among those of the step, with or without what they borrow."""
        counts = self._tokens if borrowed else self._own
        index = np.array(examples, np.int64)
        places = _spread(self._starts[index], counts[index])
        return send(places, self._count_R.device)

    def enter(self, examples: Sequence[int], scores: Scores) -> None:
        """Take in the scores of some of the examples, detached."""
        places = self.places(examples)
        for name, values in scores.figures().items():
            if name not in self._table:
                room = torch.zeros(int(self._tokens.sum()), dtype=torch.float64, device=places.device)
                self._table[name] = room
            self._table[name].index_copy_(0, places, values.detach().double())

    def finish(self, ranks: Ranks) -> Scores:
        """The scores of all examples, on every rank the same; no two ranks have entered the same example."""
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
    """The scores of a step in which each example stands as often as `counts` says; gradients add up.

    Args:
      scores: Of each example once.
      examples: The examples.
      counts: At least 1 each, [P].
    """
    responses = np.array([len(sequences_of(example)) for example in examples], np.int64)
    lengths = np.array([int(s.scored.sum()) for example in examples for s in sequences_of(example)], np.int64)
    index_R = _spread(np.repeat(np.cumsum(responses) - responses, counts), np.repeat(responses, counts))
    index_I = _spread((np.cumsum(lengths) - lengths)[index_R], lengths[index_R])
    rows, tokens = (send(index, scores.count_R.device) for index in (index_R, index_I))
    columns = {name: values.index_select(0, tokens) for name, values in scores.figures().items()}
    count_R, places = scores.count_R.index_select(0, rows), np.repeat(scores.rows, counts)
    return replace(scores, count_R=count_R, rows=places, **columns)


def _spread(starts: Int[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " I"]:
    """start, start + 1, ... for each of the runs, one run after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several runs of examples as one."""
    columns = {name: torch.cat([part.figures()[name] for part in parts]) for name in parts[0].figures()}
    count_R, rows = torch.cat([part.count_R for part in parts]), np.concatenate([part.rows for part in parts])
    return replace(parts[0], count_R=count_R, rows=rows, **columns)
