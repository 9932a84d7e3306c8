"""Curve of a pair loss: value and slope against delta, for pairs that differ only in delta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.losses.types import (
    BoundLoss,
    ListSums,
    PairSums,
    PairTokens,
    PairValues,
    ResponseSums,
    TokenLogps,
)
from preftree.records import FIGURES, RowFigure


def loss_curve(loss: BoundLoss, deltas: Float[Tensor, " D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Value of a pair loss, and its derivative by delta, one pair at a time.

    Both responses have one token; the logratios are delta / 2 for the chosen response and -delta / 2 for the rejected
    one. For a loss without a reference they are added to equal log-probs. The other inputs are neutral: no divergence,
    no cost, a margin of 1, a margin of 0 for another objective, a win probability of 1, the state of a new run.

    Args:
      loss: A bound loss of pairs.
      deltas: Points of the curve, nats, [D].
    Raises:
      ValueError: the loss is not of pairs.
    """
    if loss.spec.kind != "pair":
        raise ValueError(f"a curve against delta is of a loss of pairs, got {loss.name!r}")
    start = -deltas.abs().max()
    # For a loss that depends on the step, each pair is a separate step.
    parts = deltas.split(1) if loss.spec.scope == "step" else (deltas,)
    points = [_at(loss, part, start) for part in parts]
    return torch.cat([value for value, _ in points]), torch.cat([slope for _, slope in points])


def example_inputs(num: int = 2) -> dict[str, Any]:
    """Inputs of every name for a few made-up examples, in float64: lists of two, responses of one token."""
    logps, count = -torch.arange(1.0, 1.0 + num, dtype=torch.float64), torch.ones(num, dtype=torch.int64)
    single = ResponseSums(logps, count)
    both = ListSums(logps.repeat(2), count.repeat(2), 2 * count)
    return {
        **_pair_inputs(logps, logps - 1, logps, {}),
        "rewards": PairSums(logps, logps - 1, count, count),
        **dict.fromkeys(("responses", "ref_responses", "mismatched", "ref_mismatched"), single),
        "desirable": count.bool(),
        **dict.fromkeys(("policy_lists", "ref_lists", "list_rewards"), both),
        "list_scores": torch.arange(2.0 * num, dtype=torch.float64).flip(0),
        "logps": logps,
    }


def _at(loss: BoundLoss, deltas: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    deltas = deltas.detach().clone().requires_grad_()
    ref = torch.zeros_like(deltas) + start
    inputs = _pair_inputs(start + deltas / 2, start - deltas / 2, ref, loss.spec.initial_state)
    values = loss(**{name: inputs[name] for name in loss.inputs})
    (slopes,) = torch.autograd.grad(values.sum(), deltas)
    return values.detach(), slopes


def _pair_inputs(chosen: Tensor, rejected: Tensor, ref: Tensor, state: Mapping[str, float]) -> dict[str, Any]:
    """Inputs of pairs with responses of one token, neutral except for the log-probs."""
    zero, count = torch.zeros_like(ref), torch.ones_like(ref, dtype=torch.int64)
    return {
        "policy": PairSums(chosen, rejected, count, count),
        "ref": PairSums(ref, ref, count, count),
        "policy_tokens": PairTokens(TokenLogps(chosen, count), TokenLogps(rejected, count)),
        "ref_tokens": PairTokens(TokenLogps(ref, count), TokenLogps(ref, count)),
        "kl": PairValues(zero, zero),
        "confidence": PairValues(zero, zero),
        **{figure.input: _neutral(figure, zero) for figure in FIGURES.values() if "pair" in figure.kinds},
        "ties": zero.bool(),
        "uniforms": torch.full_like(ref, 0.5),
        "state": state,
    }


def _neutral(figure: RowFigure, zero: Tensor) -> Tensor | PairValues:
    values = zero + figure.neutral
    return PairValues(values, values) if figure.per_response else values
