"""Logistic losses of the reference-adjusted gap: DPO and its variants for noisy labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.numerics import tangent_exp
from preftree.losses.options import Beta, LabelSmoothing, Noise, NotNegative, Part, Positive, checked
from preftree.losses.quantities import LN_2, check_one_each, delta, logratios, per_token, scaled, scaled_logratios
from preftree.losses.types import LossSpec, PairSums, PairValues


@checked
def dpo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Logistic loss on the reference-adjusted gap.

    loss = -log sigmoid(beta * delta)

    Args:
      beta: Strength of the KL constraint, > 0; larger stays closer to the reference.
    At policy == reference: ln 2.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.
    """
    return -logsigmoid(beta * delta(policy, ref))


@checked
def cdpo(
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.1
) -> Float[Tensor, " P"]:
    """Expected loss of DPO over labels that may be flipped ("conservative" DPO).

    loss = -(1 - label_smoothing) log sigmoid(beta * delta) - label_smoothing log sigmoid(-beta * delta)

    Its minimum is finite, sigmoid(beta * delta) = 1 - label_smoothing, while DPO increases delta without bound.

    Args:
      label_smoothing: Probability that a label is flipped, in [0, 0.5); 0 is DPO.
    At policy == reference: ln 2.
    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", Eq. 3.
    """
    margin = beta * delta(policy, ref)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


@checked
def dpo_soft(
    policy: PairSums, ref: PairSums, win_prob: Float[Tensor, " P"], ties: Bool[Tensor, " P"], *, beta: Beta = 0.1
) -> Float[Tensor, " P"]:
    """Expected loss of DPO over labels that are as certain as their row says: soft labels, of votes or of a judge.

    loss = -p log sigmoid(beta * delta) - (1 - p) log sigmoid(-beta * delta), p = win_prob, 1/2 for a tie

    Its minimum is finite where p is not 0 or 1: beta * delta = log(p / (1 - p)). n votes of which a share p is for the
    chosen response train as one row of weight n and this p; `cdpo` has one p for all rows.

    Args:
      win_prob: Probability that the chosen response is preferred, in [0, 1], [P]; 1 in rows without one, which is DPO.
      ties: Whether neither response of the pair is preferred, [P].
    At policy == reference: ln 2.
    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", Eq. 3, with a probability for
      each row.
    """
    check_one_each(policy, win_prob=win_prob, ties=ties)
    margin, p = beta * delta(policy, ref), torch.where(ties, 0.5, win_prob)
    return -p * logsigmoid(margin) - (1 - p) * logsigmoid(-margin)


@checked
def robust(
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.1
) -> Float[Tensor, " P"]:
    """Unbiased estimate of DPO's loss on clean labels, from labels with a known share of flips.

    loss = (-(1 - label_smoothing) log sigmoid(beta * delta) + label_smoothing log sigmoid(-beta * delta))
           / (1 - 2 label_smoothing)

    Averaged over flips of that probability it is DPO's loss on the true label. A single value may be negative, and has
    no lower bound: its slope in delta tends to -beta label_smoothing / (1 - 2 label_smoothing), not to 0.

    Args:
      label_smoothing: Probability that a label is flipped, in [0, 0.5); 0 is DPO.
    At policy == reference: ln 2.
    Source: Chowdhury et al. 2024, arXiv:2403.00409.
    """
    margin = beta * delta(policy, ref)
    clean = -(1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)
    return clean / (1 - 2 * label_smoothing)


@checked
def dpo_shift(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, shift: Part = 0.95) -> Float[Tensor, " P"]:
    """DPO in which the rejected response counts less, so that the chosen one keeps its likelihood.

    loss = -log sigmoid(beta * (chosen_logratio - shift * rejected_logratio))

    Args:
      shift: Weight of the rejected logratio, in (0, 1]; 1 is DPO. The paper's f(lambda), fixed.
    At policy == reference: ln 2.
    Source: Yang et al. 2025, arXiv:2502.07599, Eq. 4; its fixed weights go up to .95, from memory.
    """
    ratios = logratios(policy, ref)
    return -logsigmoid(beta * (ratios.chosen - shift * ratios.rejected))


@checked
def exo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, label_smoothing: Noise = 1e-3) -> Float[Tensor, " P"]:
    """KL divergence of the pair's policy from its smoothed label, in the mode-seeking direction.

    loss = q log(q / (1 - label_smoothing)) + (1 - q) log((1 - q) / label_smoothing), q = sigmoid(beta * delta)

    `cdpo` is the same divergence with its arguments exchanged, up to a constant. Here a label of certainty 1 would have
    an infinite loss, so label_smoothing must not be 0.

    Args:
      label_smoothing: Probability that the label gives to the rejected response, in (0, 0.5).
    At policy == reference: -ln 2 - ln(label_smoothing (1 - label_smoothing)) / 2.
    Source: Ji et al. 2024, arXiv:2402.00856, Eq. 16.
    """
    margin = beta * delta(policy, ref)
    wins = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-label_smoothing))
    return wins + (-margin).sigmoid() * (logsigmoid(-margin) - math.log(label_smoothing))


@checked
def ln_dpo(policy: PairSums, ref: PairSums, *, beta: Beta = 5.0) -> Float[Tensor, " P"]:
    """DPO with each response's logratio averaged over its tokens ("length-normalised").

    loss = -log sigmoid(beta * (chosen_logratio / chosen_tokens - rejected_logratio / rejected_tokens))

    beta acts on nats per token, so it is larger than DPO's by the order of a response's length.

    Args:
      beta: Strength of the constraint per token, > 0.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: ln 2.
    Source: Lambert et al. 2024 (Tulu 3), arXiv:2411.15124.
    """
    means = per_token(logratios(policy, ref), policy)
    return -logsigmoid(beta * (means.chosen - means.rejected))


@checked
def dpop(policy: PairSums, ref: PairSums, *, beta: Beta = 0.3, penalty: NotNegative = 50.0) -> Float[Tensor, " P"]:
    """DPO with a penalty, inside the sigmoid, on chosen responses that have become less likely ("DPO-Positive").

    loss = -log sigmoid(beta * (delta - penalty * max(0, -chosen_logratio)))

    beta multiplies the penalty as well.

    Args:
      penalty: Weight of each nat that the chosen response has lost, >= 0; 0 is DPO. The paper's lambda.
    At policy == reference: ln 2.
    Source: Pal et al. 2024, arXiv:2402.13228.
    """
    lost = (-logratios(policy, ref).chosen).clamp(min=0)
    return -logsigmoid(beta * (delta(policy, ref) - penalty * lost))


@checked
def discopop(policy: PairSums, ref: PairSums, *, beta: Beta = 0.05, tau: Positive = 0.05) -> Float[Tensor, " P"]:
    """Blend of the logistic and the exponential loss, found by a language model ("log-ratio modulated").

    loss = (1 - m) * softplus(-x) + m * e^(-x), x = beta * delta, m = sigmoid(x / tau)

    Not monotonic: at x = 0 its slope is (1 - ln 2) / (4 tau) - 3/4, which is +0.78 at the paper's tau. From the
    reference, descent therefore first *lowers* delta, to a local minimum at x = -0.12; the slope is negative only for
    tau > 0.1023. m e^(-x) is computed as one exponential: the naive product is 0 times infinity for a large -x.

    Args:
      tau: Width of the transition, in units of x, > 0.
    Returns:
      Loss per pair, [P]; not reduced.
    At policy == reference: (ln 2 + 1) / 2.
    Source: Lu et al. 2024, arXiv:2406.08414, Eq. 5.
    """
    x = beta * delta(policy, ref)
    logistic = -logsigmoid(x) * (-x / tau).sigmoid()
    return logistic + tangent_exp(-x + logsigmoid(x / tau))


def shifted_logratios(policy: PairSums, ref: PairSums, *, beta: float, shift: float, **_: Any) -> PairValues:
    """beta * logratio, the rejected one times `shift`, detached, [P]."""
    ratios = scaled(logratios(policy, ref), beta)
    return ratios._replace(rejected=shift * ratios.rejected)


def mean_logratios(policy: PairSums, ref: PairSums, *, beta: float, **_: Any) -> PairValues:
    """beta * logratio per token, detached, [P]."""
    return scaled(per_token(logratios(policy, ref), policy), beta)


def _exo_at_reference(*, label_smoothing: float, **_: float) -> float:
    return -math.log(2) - math.log(label_smoothing * (1 - label_smoothing)) / 2


SPECS = {
    "dpo": LossSpec(dpo, LN_2, scaled_logratios, trl=("sigmoid",)),
    "cdpo": LossSpec(cdpo, LN_2, scaled_logratios),
    "dpo_soft": LossSpec(dpo_soft, LN_2, scaled_logratios, optional=("win_prob",)),
    "robust": LossSpec(robust, LN_2, scaled_logratios, trl=("robust",)),
    "dpo_shift": LossSpec(dpo_shift, LN_2, shifted_logratios),
    "exo": LossSpec(exo, _exo_at_reference, scaled_logratios, trl=("exo_pair",)),
    "ln_dpo": LossSpec(ln_dpo, LN_2, mean_logratios, trl=("sigmoid_norm",)),
    "dpop": LossSpec(dpop, LN_2, scaled_logratios),
    "discopop": LossSpec(discopop, (LN_2 + 1) / 2, scaled_logratios, trl=("discopop",)),
}
