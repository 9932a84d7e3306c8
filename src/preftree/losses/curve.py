"""A pair loss as a curve: value and slope against delta, for pairs that differ in nothing else."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.losses.spec import BoundLoss, unit_of
from preftree.losses.types import PairLogps, PairTokens, PairValues, TokenLogps


def loss_curve(loss: BoundLoss, deltas: Float[Tensor, " D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Value of a pair loss, and its derivative by delta, one pair at a time.

    The pair's two responses are one token each; half of delta is the chosen response's logratio, and half, with a
    minus, the other's. Under a loss without a reference these are added to log-probs that are equal. What else the
    loss needs is
    neutral: no divergence, no cost, a margin of 1 and none of another objective, a win that is certain, a run that
    begins.

    Args:
      loss: A bound loss of pairs.
      deltas: Where to look, nats, [D].
    Raises:
      ValueError: the loss is not of pairs.
    """
    if unit_of(loss.spec) != "pair":
        raise ValueError(f"a curve against delta is of a loss of pairs, got {loss.name!r}")
    start = -deltas.abs().max()
    # Where a value depends on its step, each pair is a step of its own.
    parts = deltas.split(1) if loss.spec.scope == "step" else (deltas,)
    found = [_at(loss, part, start) for part in parts]
    return torch.cat([value for value, _ in found]), torch.cat([slope for _, slope in found])


def _at(loss: BoundLoss, deltas: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    one, zero, count = torch.ones_like(deltas), torch.zeros_like(deltas), torch.ones_like(deltas, dtype=torch.int64)
    deltas = deltas.detach().clone().requires_grad_()
    chosen, rejected = start + deltas / 2, start - deltas / 2

    def tokens(high: Tensor, low: Tensor) -> PairTokens:
        return PairTokens(TokenLogps(high, count), TokenLogps(low, count))

    given = {
        "policy": PairLogps(chosen, rejected, count, count),
        "ref": PairLogps(zero + start, zero + start, count, count),
        "policy_tokens": tokens(chosen, rejected),
        "ref_tokens": tokens(zero + start, zero + start),
        "kl": PairValues(zero, zero),
        "confidence": PairValues(zero, zero),
        "costs": PairValues(zero, zero),
        "margins": one,
        "other_margins": zero,
        "win_prob": one,
        "ties": zero.bool(),
        "uniforms": one / 2,
        "state": loss.spec.initial_state,
    }
    values = loss(**{name: given[name] for name in loss.inputs})
    (slopes,) = torch.autograd.grad(values.sum(), deltas)
    return values.detach(), slopes
