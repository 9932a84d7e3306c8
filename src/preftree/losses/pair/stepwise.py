"""Losses of pairs that depend on the other pairs of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, LabelSmoothing, NotNegative, Part, checked
from preftree.losses.quantities import (
    LN_2,
    check_one_each,
    delta,
    logratios,
    per_token,
    scaled_logratios,
    scaled_mean_logps,
)
from preftree.losses.types import LossSpec, PairSums, PairValues

MOMENTUM = 0.9
SMALLEST_BETA = 1e-3


@checked
def kto_pair(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """KTO on pairs: each side is one label, and the other side of the step estimates the KL divergence.

    loss = (1 - sigmoid(beta * (chosen_logratio - z_l)) + 1 - sigmoid(beta * (z_w - rejected_logratio))) / 2

    z_w and z_l are max(0, mean logratio) of the step's chosen and of its rejected responses, without gradient. They
    replace the KL divergence, which `kto` estimates from responses to other prompts.

    Returns:
      Loss per pair, in (0, 1), [P]; not reduced: the mean of its two labels.
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
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.01, label_smoothing: LabelSmoothing = 0.0
) -> Float[Tensor, " P"]:
    """Logistic loss between the sorted gaps of the policy and of the reference, for stochastic dominance.

    loss = -(1 - label_smoothing) log sigmoid(beta * d) - label_smoothing log sigmoid(-beta * d)
    d = k-th smallest policy gap - k-th smallest reference gap, gap = chosen_logps - rejected_logps

    The value belongs to the pair whose policy gap is the k-th smallest of the step. A step of one pair is DPO.

    Args:
      beta: Strength of the constraint, > 0.
      label_smoothing: Probability that a label is flipped, in [0, 0.5).
    At policy == reference: ln 2.
    Source: Melnyk et al. 2024, arXiv:2406.05882, paired, with the logistic loss.
    """
    delta(policy, ref)  # the same pairs
    return _sorted_loss(policy.chosen - policy.rejected, ref.chosen - ref.rejected, beta, label_smoothing)


@checked
def aot_unpaired(
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.01, label_smoothing: LabelSmoothing = 0.0
) -> Float[Tensor, " P"]:
    """Logistic loss between the sorted logratios of the chosen and of the rejected responses.

    loss = -(1 - label_smoothing) log sigmoid(beta * d) - label_smoothing log sigmoid(-beta * d)
    d = k-th smallest chosen logratio - k-th smallest rejected logratio

    The value belongs to the pair whose chosen logratio is the k-th smallest of the step. A step of one pair is DPO.

    Args:
      beta: Strength of the constraint, > 0.
      label_smoothing: Probability that a label is flipped, in [0, 0.5).
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
def alpha_dpo(
    policy: PairSums, ref: PairSums, *, beta: Beta = 2.5, gamma: NotNegative = 1.0, alpha: NotNegative = 0.05
) -> Float[Tensor, " P"]:
    """SimPO with a margin of each pair's own: larger where the policy has left its reference further than the others.

    loss = -log sigmoid(beta * (chosen_logps / chosen_tokens - rejected_logps / rejected_tokens) - gamma - alpha * z)
    z = (d - mean d) / std d over the step, d = chosen_logratio / chosen_tokens - rejected_logratio / rejected_tokens

    z has no gradient; std is that of a sample (n - 1), and z is 0 where all d are equal. "AlphaDPO".

    Args:
      beta: Scale of the mean log-probs, > 0.
      gamma: Margin, >= 0, in units of the scaled gap.
      alpha: Change of the margin per standard deviation, >= 0; 0 is SimPO.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; SimPO's.
    Source: Wu et al. 2024, arXiv:2410.10148; that z is of means over tokens, and the defaults, are from memory.
    """
    ratios = per_token(logratios(policy, ref), policy)
    away = (ratios.chosen - ratios.rejected).detach()
    spread = away.std() if len(away) > 1 else away.new_zeros(())
    z = torch.where(spread > 0, (away - away.mean()) / spread, 0.0) if len(away) else away
    means = per_token(PairValues(policy.chosen, policy.rejected), policy)
    return -logsigmoid(beta * (means.chosen - means.rejected) - gamma - alpha * z)


@checked
def beta_dpo(
    policy: PairSums,
    ref: PairSums,
    uniforms: Float[Tensor, " P"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    sensitivity: NotNegative = 0.6,
    keep: Part = 0.8,
) -> Float[Tensor, " P"]:
    """DPO with a beta that follows the step's mean gap, on pairs selected by a draw around the running mean.

    loss = -log sigmoid(beta_step * delta) * P / kept for a pair that is kept, 0 for the others
    beta_step = max(0.001, beta * (1 + sensitivity * (mean delta of the kept pairs - M)))

    M and S are moving averages, with momentum 0.9 from 0, of the step's mean and standard deviation of delta, without
    gradient; both are brought up to date before they are used. Of P pairs int(keep * P), at least one, are drawn
    without replacement with weights exp(-((delta - M) / S)^2 / 2): those with the largest u^(1 / weight). The factor
    P / kept turns the step's mean into the mean over the kept pairs.

    Args:
      uniforms: One random number per pair, in [0, 1), [P].
      state: mean and std: M and S after the steps before this one.
      beta: Base strength of the KL constraint, > 0.
      sensitivity: Relative change of beta per nat of the gap, >= 0; the paper's alpha.
      keep: Share of the pairs that is kept, in (0, 1].
    At policy == reference: no fixed value; ln 2 * P / kept for a pair that is kept, 0 for the others.
    Source: Wu et al. 2024, arXiv:2407.08639, in the order of the authors' code, github.com/junkangwu/beta-DPO.
      Checked against it: the averages before their use, how many are kept and by which weights, beta and its least.
      Its configuration has keep 0.8 and sensitivity 0, to be set; its README sets 0.6.
    """
    check_one_each(policy, uniforms=uniforms)
    gap = delta(policy, ref)
    if not len(gap):
        return gap
    now, average = gap.detach(), advance_gap(policy, ref, uniforms, state, beta=beta)
    z = (now - average["mean"]) / average["std"] if average["std"] > 0 else torch.zeros_like(now)
    count = max(1, math.floor(keep * len(gap) + 1e-9))  # 0.7 * 10 is 6.999... in floats
    # log(-log u^(1/weight)), smallest first: the weights themselves would underflow.
    drawn = ((-uniforms.to(now.dtype).log()).log() + z.square() / 2).argsort(stable=True)[:count]
    strength = max(SMALLEST_BETA, beta * (1 + sensitivity * (float(now[drawn].mean()) - average["mean"])))
    kept = torch.zeros_like(now).index_fill(0, drawn, len(gap) / count)
    return -logsigmoid(strength * gap) * kept


def advance_gap(
    policy: PairSums,
    ref: PairSums,
    uniforms: Float[Tensor, " P"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    sensitivity: NotNegative = 0.6,
    keep: Part = 0.8,
) -> dict[str, float]:
    """Moving averages of `beta_dpo` after a step: mean and standard deviation (n - 1) of delta."""
    gap = delta(policy, ref).detach().double()
    if not len(gap):
        return dict(state)
    of_step = {"mean": float(gap.mean()), "std": float(gap.std()) if len(gap) > 1 else 0.0}
    return {name: MOMENTUM * state[name] + (1 - MOMENTUM) * value for name, value in of_step.items()}


SPECS = {
    "kto_pair": LossSpec(kto_pair, 0.5, scaled_logratios, scope="step"),
    "aot": LossSpec(aot, LN_2, scaled_logratios, scope="step", trl=("aot",)),
    "aot_unpaired": LossSpec(aot_unpaired, LN_2, scaled_logratios, scope="step", trl=("aot_unpaired",)),
    "alpha_dpo": LossSpec(alpha_dpo, None, scaled_mean_logps, scope="step"),
    "beta_dpo": LossSpec(
        beta_dpo,
        None,
        scaled_logratios,
        scope="step",
        initial_state={"mean": 0.0, "std": 0.0},
        advance=advance_gap,
    ),
}
