"""Pair losses whose value depends on the other pairs of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, LabelSmoothing, NotNegative, Part, checked
from preftree.losses.quantities import check_one_each, delta, logratios
from preftree.losses.types import PairLogps

MOMENTUM = 0.9
SMALLEST_BETA = 1e-3


@checked
def kto_pair(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """KTO on pairs: each side is one label, and the other side of the step says what the policy has moved.

    loss = (1 - sigmoid(beta * (chosen_logratio - z_l)) + 1 - sigmoid(beta * (z_w - rejected_logratio))) / 2

    z_w and z_l are max(0, mean logratio) of the step's chosen and of its rejected responses, without gradient. They
    stand in for the KL divergence, which `kto` estimates from responses to other prompts.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint, > 0.
    Returns:
      Loss per pair, in (0, 1), [P]; not reduced: the mean of its two labels.
    Raises:
      ValueError: pair counts differ, or beta <= 0.
    At policy == reference: 1/2.
    Source: Ethayarajh et al. 2024, arXiv:2402.01306; on pairs as in earlier TRL (loss_type kto_pair), there with
      gradient through z.
    """
    ratios = logratios(policy, ref)
    if not len(ratios.chosen):
        return ratios.chosen
    z_chosen, z_rejected = (side.detach().mean().clamp(min=0) for side in ratios)
    up = (beta * (z_rejected - ratios.chosen)).sigmoid()
    return (up + (beta * (ratios.rejected - z_chosen)).sigmoid()) / 2


@checked
def aot(
    policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.01, label_smoothing: LabelSmoothing = 0.0
) -> Float[Tensor, " P"]:
    """Logistic loss between the sorted gaps of the policy and of the reference: a whole distribution is to be ahead.

    loss = -(1 - label_smoothing) log sigmoid(beta * d) - label_smoothing log sigmoid(-beta * d)
    d = k-th smallest policy gap - k-th smallest reference gap, gap = chosen_logps - rejected_logps

    The value stands at the pair whose policy gap is the k-th smallest of the step. A step of one pair is DPO.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the constraint, > 0.
      label_smoothing: Probability that a label is flipped, in [0, 0.5).
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, beta <= 0, or label_smoothing outside [0, 0.5).
    At policy == reference: ln 2.
    Source: Melnyk et al. 2024, arXiv:2406.05882, paired, with the logistic loss.
    """
    delta(policy, ref)  # the same pairs
    return _sorted_loss(policy.chosen - policy.rejected, ref.chosen - ref.rejected, beta, label_smoothing)


@checked
def aot_unpaired(
    policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.01, label_smoothing: LabelSmoothing = 0.0
) -> Float[Tensor, " P"]:
    """Logistic loss between the sorted logratios of the chosen and of the rejected responses.

    loss = -(1 - label_smoothing) log sigmoid(beta * d) - label_smoothing log sigmoid(-beta * d)
    d = k-th smallest chosen logratio - k-th smallest rejected logratio

    The value stands at the pair whose chosen logratio is the k-th smallest of the step. A step of one pair is DPO.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the constraint, > 0.
      label_smoothing: Probability that a label is flipped, in [0, 0.5).
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, beta <= 0, or label_smoothing outside [0, 0.5).
    At policy == reference: ln 2.
    Source: Melnyk et al. 2024, arXiv:2406.05882, unpaired, with the logistic loss.
    """
    ratios = logratios(policy, ref)
    return _sorted_loss(ratios.chosen, ratios.rejected, beta, label_smoothing)


def _sorted_loss(high: Tensor, low: Tensor, beta: float, label_smoothing: float) -> Tensor:
    order = high.argsort(stable=True)
    margin = beta * (high.index_select(0, order) - low.sort().values)
    values = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return values.index_select(0, order.argsort())


@checked
def beta_dpo(
    policy: PairLogps,
    ref: PairLogps,
    uniforms: Float[Tensor, " P"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    sensitivity: NotNegative = 0.6,
    keep: Part = 0.8,
) -> Float[Tensor, " P"]:
    """DPO whose beta follows the step's mean gap, on the pairs that a draw around the running mean keeps.

    loss = -log sigmoid(beta_step * delta) * P / kept for a pair that is kept, 0 for the others
    beta_step = max(0.001, beta * (1 + sensitivity * (mean delta of the kept pairs - M)))

    M and S are moving averages, with momentum 0.9 from 0, of the step's mean and standard deviation of delta, without
    gradient; both are brought up to date before they are used. Of P pairs int(keep * P), at least one, are drawn
    without replacement with weights exp(-((delta - M) / S)^2 / 2): those with the largest u^(1 / weight). P / kept
    makes the step's mean that over the kept pairs.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      uniforms: One random number a pair, in [0, 1), [P].
      state: mean and std: M and S after the steps before this one.
      beta: Base strength of the KL constraint, > 0.
      sensitivity: How strongly beta follows the gap, per nat, >= 0; the paper's alpha.
      keep: Share of the pairs that is kept, in (0, 1].
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, beta <= 0, sensitivity < 0, or keep outside (0, 1].
    At policy == reference: no fixed value; ln 2 * P / kept for a pair that is kept, 0 for the others.
    Source: Wu et al. 2024, arXiv:2407.08639, in the order of the authors' code, github.com/junkangwu/beta-DPO.
      Checked against it: the averages before their use, how many are kept and by which weights, beta and its least.
      Its configuration has keep 0.8 and sensitivity 0, to be set; that the paper uses 0.6 is from memory.
    """
    check_one_each(policy, uniforms=uniforms)
    gap = delta(policy, ref)
    if not len(gap):
        return gap
    now, told = gap.detach(), advance_gap(policy, ref, uniforms, state, beta=beta)
    z = (now - told["mean"]) / told["std"] if told["std"] > 0 else torch.zeros_like(now)
    count = max(1, math.floor(keep * len(gap) + 1e-9))  # 0.7 * 10 is 6.999... in floats
    # log(-log u^(1/weight)), smallest first: the weights themselves would underflow.
    drawn = ((-uniforms.to(now.dtype).log()).log() + z.square() / 2).argsort(stable=True)[:count]
    strength = max(SMALLEST_BETA, beta * (1 + sensitivity * (float(now[drawn].mean()) - told["mean"])))
    kept = torch.zeros_like(now).index_fill(0, drawn, len(gap) / count)
    return -logsigmoid(strength * gap) * kept


def advance_gap(
    policy: PairLogps,
    ref: PairLogps,
    uniforms: Float[Tensor, " P"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    sensitivity: NotNegative = 0.6,
    keep: Part = 0.8,
) -> dict[str, float]:
    """The moving averages of `beta_dpo` after a step: of the mean and the standard deviation (n - 1) of delta."""
    gap = delta(policy, ref).detach().double()
    if not len(gap):
        return dict(state)
    seen = {"mean": float(gap.mean()), "std": float(gap.std()) if len(gap) > 1 else 0.0}
    return {name: MOMENTUM * state[name] + (1 - MOMENTUM) * value for name, value in seen.items()}
