"""From scores and examples to the inputs that a loss names; `losses/types.py` says what each of them is.

One function for each kind of example: a pair, a single response, a list. Only what is asked for is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from preftree.data.store.store import TokenExample
from preftree.losses.quantities import pair_up
from preftree.losses.types import ListLogps, PairLogps, PairTokens, PairValues, ResponseLogps, TokenLogps
from preftree.train.step.scores import Scores
from preftree.tree.sums import sum_responses
from preftree.tree.to_device import send

Builders: TypeAlias = dict[str, Callable[[], Any]]


def make_inputs(unit: str, names: Iterable[str], scores: Scores, examples: Sequence[TokenExample]) -> dict[str, Any]:
    """The named inputs of a loss.

    Args:
      unit: `pair`, `response` or `list`: what an example is.
      names: Keys of `losses.inputs.INPUTS`; `state` is the caller's to give, since each loss has its own.
      scores: Of all responses of the examples.
      examples: What the data says of them.
    Raises:
      KeyError: an input that this kind of example does not have.
    """
    of_unit = {"pair": _of_pairs, "response": _of_responses, "list": _of_lists}[unit]
    builders = of_unit(scores, examples) | {"uniforms": lambda: uniforms(scores)}
    return {name: builders[name]() for name in names}


def uniforms(scores: Scores) -> Float[Tensor, " P"]:
    """A random number in [0, 1) for each example: a pure function of (seed, step, place in the data)."""
    moment = scores.moment
    key = np.array([moment.seed, moment.step], np.uint64)
    bits = [np.random.Philox(key=key, counter=int(row)).random_raw() for row in scores.rows]
    return _numbers([(int(word) >> 11) * 2.0**-53 for word in bits], scores)


def _of_pairs(scores: Scores, examples: Sequence[TokenExample]) -> Builders:
    """Two responses an example, the chosen one first."""
    first = torch.arange(0, 2 * len(examples), 2, device=scores.count_R.device)
    num_tokens = scores.count_R[::2], scores.count_R[1::2]

    def pairs(values_I: Tensor | None) -> PairLogps:
        sums = _sums(values_I, scores)
        return pair_up(sums.logps, sums.num_tokens, first, first + 1)

    def sides(values_I: Tensor | None, *, mean: bool = False) -> PairValues:
        sums = _sums(values_I, scores)
        each = sums.logps / sums.num_tokens if mean else sums.logps
        return PairValues(each.index_select(0, first), each.index_select(0, first + 1))

    def tokens(values_I: Tensor | None) -> PairTokens:
        lengths = [int(sequence.scored.sum()) for example in examples for sequence in example.sequences]
        of_chosen = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
        values, (chosen, rejected) = _there(values_I), num_tokens
        own, other = (send(np.flatnonzero(which), values.device) for which in (of_chosen, ~of_chosen))
        return PairTokens(
            TokenLogps(values.index_select(0, own), chosen), TokenLogps(values.index_select(0, other), rejected)
        )

    def costs() -> PairValues:
        both = [_known(example.costs) for example in examples]
        return PairValues(*(_numbers([cost[side] for cost in both], scores) for side in (0, 1)))

    return {
        "policy": lambda: pairs(scores.policy),
        "ref": lambda: pairs(scores.ref),
        "policy_tokens": lambda: tokens(scores.policy),
        "ref_tokens": lambda: tokens(scores.ref),
        "kl": lambda: sides(scores.kl),
        "confidence": lambda: sides(scores.confidence, mean=True),
        "margins": lambda: _numbers([_known(example.margin) for example in examples], scores),
        "other_margins": lambda: _numbers([_known(example.other_margin) for example in examples], scores),
        "win_prob": lambda: _numbers([_known(example.win_prob) for example in examples], scores),
        "ties": lambda: _flags([example.tie for example in examples], scores),
        "costs": costs,
        "logps": lambda: pairs(scores.policy).chosen,
    }


def _of_responses(scores: Scores, examples: Sequence[TokenExample]) -> Builders:
    """One response an example, and after it what it borrows: the response to another prompt, if that."""
    each = [1 + len(example.borrowed) for example in examples]
    starts = np.cumsum([0, *each])[:-1]
    others = np.setdiff1d(np.arange(len(scores.count_R)), starts)
    own, lent = send(starts, scores.count_R.device), send(others, scores.count_R.device)

    def chosen(values_I: Tensor | None, which: Tensor) -> ResponseLogps:
        sums = _sums(values_I, scores)
        return ResponseLogps(sums.logps.index_select(0, which), sums.num_tokens.index_select(0, which))

    def mismatched(values_I: Tensor | None) -> ResponseLogps:
        return chosen(_there(values_I).detach(), lent)

    return {
        "responses": lambda: chosen(scores.policy, own),
        "ref_responses": lambda: chosen(scores.ref, own),
        "desirable": lambda: _flags([_known(example.desirable) for example in examples], scores),
        "mismatched": lambda: mismatched(scores.policy),
        "ref_mismatched": lambda: mismatched(scores.ref),
    }


def _of_lists(scores: Scores, examples: Sequence[TokenExample]) -> Builders:
    """Any number of responses an example, the best one first."""
    sizes = send(np.array([len(e.sequences) for e in examples], np.int64), scores.count_R.device)

    def lists(values_I: Tensor | None) -> ListLogps:
        return ListLogps(*_sums(values_I, scores), sizes)

    return {
        "policy_lists": lambda: lists(scores.policy),
        "ref_lists": lambda: lists(scores.ref),
        "list_scores": lambda: _numbers([s for example in examples for s in _known(example.scores)], scores),
        "logps": lambda: lists(scores.policy).logps.index_select(0, sizes.cumsum(0) - sizes),
    }


def _sums(values_I: Tensor | None, scores: Scores) -> ResponseLogps:
    return sum_responses(_there(values_I), scores.count_R)


def _there(values_I: Tensor | None) -> Tensor:
    assert values_I is not None, "the step scores whatever the loss names"
    return values_I


def _known(value: Any) -> Any:
    assert value is not None, "what the data lacks is refused before the first step"
    return value


def _numbers(values: Sequence[float], scores: Scores) -> Float[Tensor, " _"]:
    return send(np.array(values, np.float64), scores.count_R.device)


def _flags(values: Sequence[bool], scores: Scores) -> Tensor:
    return send(np.array(values, np.bool_), scores.count_R.device)
