"""Inputs of losses, from the scores and the figures of examples; `losses/types.py` describes each of them.

One class for each kind of example: a pair, a single response, a list. Its methods have the names of inputs, and only
the inputs that a loss names are computed. Figures of the data are inputs too, by the table `records.FIGURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftree.data.store.example import TokenExample
from preftree.losses.quantities import pair_up, sum_responses
from preftree.losses.types import ListSums, PairSums, PairTokens, PairValues, ResponseSums, TokenLogps
from preftree.records import FIGURES, Kind, RowFigure
from preftree.train.step.scores import Scores
from preftree.tree.to_device import send


def make_inputs(kind: Kind, names: Iterable[str], scores: Scores, examples: Sequence[TokenExample]) -> dict[str, Any]:
    """The named inputs of a loss.

    Args:
      kind: Kind of the examples: pair, response or list.
      names: Keys of `losses.types.INPUTS` except `state`, which differs between the losses of a sum.
      scores: Scores of all responses of the examples.
      examples: The examples.
    Raises:
      KeyError: an input that this kind of example does not have.
    """
    inputs = {"pair": _PairInputs, "response": _ResponseInputs, "list": _ListInputs}[kind](scores, examples)
    figures = {figure.input: figure for figure in FIGURES.values() if kind in figure.kinds}
    return {name: _figure(figures[name], kind, scores, examples) if name in figures else inputs[name] for name in names}


class _Inputs:
    """Inputs that every kind of example has."""

    def __init__(self, scores: Scores, examples: Sequence[TokenExample]) -> None:
        self._scores, self._examples = scores, examples

    def __getitem__(self, name: str) -> Any:
        make: Callable[[], Any] | None = None if name.startswith("_") else getattr(self, name, None)
        if make is None:
            raise KeyError(name)
        return make()

    def uniforms(self) -> Float[Tensor, " P"]:
        """A random number in [0, 1) for each example: a pure function of (seed, step, index in the data)."""
        moment = self._scores.moment
        key = np.array([moment.seed, moment.step], np.uint64)
        bits = [np.random.Philox(key=key, counter=int(row)).random_raw() for row in self._scores.rows]
        return _numbers([(int(word) >> 11) * 2.0**-53 for word in bits], self._scores)

    def _sums(self, values_I: Tensor | None) -> ResponseSums:
        return sum_responses(_scored(values_I), self._scores.count_R)


class _PairInputs(_Inputs):
    """Two responses an example, the chosen one first."""

    def policy(self) -> PairSums:
        return self._pairs(self._scores.policy)

    def ref(self) -> PairSums:
        return self._pairs(self._scores.ref)

    def rewards(self) -> PairSums:
        return self._pairs(self._scores.policy)

    def policy_tokens(self) -> PairTokens:
        return self._tokens(self._scores.policy)

    def ref_tokens(self) -> PairTokens:
        return self._tokens(self._scores.ref)

    def kl(self) -> PairValues:
        return self._sides(self._sums(self._scores.kl).values)

    def confidence(self) -> PairValues:
        sums = self._sums(self._scores.confidence)
        return self._sides(sums.values / sums.num_tokens)

    def ties(self) -> Bool[Tensor, " P"]:
        return _flags([example.tie for example in self._examples], self._scores)

    def logps(self) -> Float[Tensor, " P"]:
        return self.policy().chosen

    @cached_property
    def _chosen(self) -> Int[Tensor, " P"]:
        """Index of each chosen response; the rejected one follows it."""
        return torch.arange(0, 2 * len(self._examples), 2, device=self._scores.count_R.device)

    def _pairs(self, values_I: Tensor | None) -> PairSums:
        sums = self._sums(values_I)
        return pair_up(sums.values, sums.num_tokens, self._chosen, self._chosen + 1)

    def _sides(self, values_R: Tensor) -> PairValues:
        return PairValues(values_R.index_select(0, self._chosen), values_R.index_select(0, self._chosen + 1))

    def _tokens(self, values_I: Tensor | None) -> PairTokens:
        values, count_R = _scored(values_I), self._scores.count_R
        lengths = [int(sequence.scored.sum()) for example in self._examples for sequence in example.sequences]
        of_chosen = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
        chosen, rejected = (send(np.flatnonzero(which), values.device) for which in (of_chosen, ~of_chosen))
        return PairTokens(
            TokenLogps(values.index_select(0, chosen), count_R[::2]),
            TokenLogps(values.index_select(0, rejected), count_R[1::2]),
        )


class _ResponseInputs(_Inputs):
    """One response an example, followed by those that it borrows from examples with other prompts."""

    def responses(self) -> ResponseSums:
        return self._select(self._scores.policy, self._places[0])

    def ref_responses(self) -> ResponseSums:
        return self._select(self._scores.ref, self._places[0])

    def mismatched(self) -> ResponseSums:
        return self._select(_scored(self._scores.policy).detach(), self._places[1])

    def ref_mismatched(self) -> ResponseSums:
        return self._select(_scored(self._scores.ref).detach(), self._places[1])

    def desirable(self) -> Bool[Tensor, " N"]:
        return _flags([_known(example.desirable) for example in self._examples], self._scores)

    @cached_property
    def _places(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
        """Indices of the responses of the examples, and of the borrowed ones."""
        counts, device = [1 + len(example.borrowed) for example in self._examples], self._scores.count_R.device
        starts = np.cumsum([0, *counts])[:-1]
        borrowed = np.setdiff1d(np.arange(len(self._scores.count_R)), starts)
        return send(starts, device), send(borrowed, device)

    def _select(self, values_I: Tensor | None, indices: Int[Tensor, " N"]) -> ResponseSums:
        sums = self._sums(values_I)
        return ResponseSums(sums.values.index_select(0, indices), sums.num_tokens.index_select(0, indices))


class _ListInputs(_Inputs):
    """Two or more responses an example, the best one first."""

    def policy_lists(self) -> ListSums:
        return ListSums(*self._sums(self._scores.policy), self._sizes)

    def list_rewards(self) -> ListSums:
        return self.policy_lists()

    def ref_lists(self) -> ListSums:
        return ListSums(*self._sums(self._scores.ref), self._sizes)

    def logps(self) -> Float[Tensor, " L"]:
        return self.policy_lists().values.index_select(0, self._sizes.cumsum(0) - self._sizes)

    @cached_property
    def _sizes(self) -> Int[Tensor, " L"]:
        return send(np.array([len(e.sequences) for e in self._examples], np.int64), self._scores.count_R.device)


def _figure(
    figure: RowFigure, kind: Kind, scores: Scores, examples: Sequence[TokenExample]
) -> Float[Tensor, " _"] | PairValues:
    """A figure of the data: one value per example or response; for pairs, the values of each side.

    A row without a value has the neutral one; where the loss needs one in every row, the run stops at its start.
    """
    neutral = None if figure.per_response else (figure.neutral,)
    values = [_known(example.figures.get(figure.name, neutral)) for example in examples]
    if figure.per_response and kind == "pair":
        return PairValues(*(_numbers([pair[side] for pair in values], scores) for side in (0, 1)))
    return _numbers([value for row in values for value in row], scores)


def _scored(values_I: Tensor | None) -> Tensor:
    assert values_I is not None, "a step computes every score that the loss names"
    return values_I


def _known(value: Any) -> Any:
    assert value is not None, "a run whose data lacks a figure stops before the first step"
    return value


def _numbers(values: Sequence[float], scores: Scores) -> Float[Tensor, " _"]:
    return send(np.array(values, np.float64), scores.count_R.device)


def _flags(values: Sequence[bool], scores: Scores) -> Bool[Tensor, " _"]:
    return send(np.array(values, np.bool_), scores.count_R.device)
