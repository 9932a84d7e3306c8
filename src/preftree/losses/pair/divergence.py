"""Losses with another divergence from the reference than the reverse KL, or with a KL per token."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.numerics import tangent_exp
from preftree.losses.options import PART, Beta, Choice, NotNegative, OnlyWith, Positive, checked
from preftree.losses.quantities import LN_2, check_one_each, delta, logratios, scaled, scaled_logratios
from preftree.losses.types import LossSpec, PairSums, PairValues

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@checked
def f_dpo(
    policy: PairSums,
    ref: PairSums,
    *,
    beta: Beta = 0.1,
    divergence: Annotated[str, Choice(DIVERGENCES)] = "js_divergence",
    alpha: Annotated[float, PART, OnlyWith("divergence", "alpha_divergence")] = 0.5,
) -> Float[Tensor, " P"]:
    """DPO with another divergence from the reference than the reverse KL.

    loss = -log sigmoid(beta * (g(chosen_logratio) - g(rejected_logratio)))

    g is the derivative of the divergence's f at u = policy / reference, up to a constant, by the logratio rho = log u:
    reverse_kl rho, which is DPO; forward_kl -e^-rho; js_divergence log sigmoid(rho); alpha_divergence
    (1 - e^(-alpha rho)) / alpha, which is reverse_kl as alpha goes to 0 and forward_kl at 1. From e^40 on the
    exponentials continue as their tangent, so that fp32 does not overflow.

    Args:
      beta: Strength of the constraint, > 0.
      divergence: Name of the divergence.
      alpha: Parameter of the alpha divergence, in (0, 1], as in the paper. TRL's coefficient is 1 - alpha.
    Raises:
      ValueError: an alpha without its divergence.
    At policy == reference: ln 2.
    Source: Wang et al. 2023, arXiv:2309.16240. Checked: f' of each f by derivation.
    """
    ratios = logratios(policy, ref)
    chosen, rejected = (divergence_slope(side, divergence, alpha) for side in ratios)
    return -logsigmoid(beta * (chosen - rejected))


def divergence_slope(logratio: Float[Tensor, " P"], divergence: str, alpha: float) -> Float[Tensor, " P"]:
    """g of `f_dpo`, up to a constant, [P]."""
    if divergence == "reverse_kl":
        return logratio
    if divergence == "forward_kl":
        return -tangent_exp(-logratio)
    if divergence == "js_divergence":
        return logsigmoid(logratio)
    power = -alpha * logratio
    # Near 0 the difference from 1 needs precision; far from 0 the exponential must not overflow.
    return -torch.where(power.abs() < 1, power.clamp(-1, 1).expm1(), tangent_exp(power) - 1) / alpha


@checked
def chi_po(policy: PairSums, ref: PairSums, *, beta: Beta = 0.05, reward_bound: Positive = 10.0) -> Float[Tensor, " P"]:
    """DPO with the chi-squared divergence mixed with the KL, which penalises responses that the reference rarely gives.

    loss = -log sigmoid(clip(beta * (g(chosen_logratio) - g(rejected_logratio)), -2 reward_bound, 2 reward_bound))
    g(rho) = e^rho + rho

    Where the margin is clipped there is no gradient: a pair that is ordered wrongly by more than 2 reward_bound has no
    effect. Beyond rho = 40 the exponential continues as its tangent, so that fp32 does not overflow.

    Args:
      beta: Strength of the constraint, > 0; small, since e^rho outgrows everything.
      reward_bound: Upper bound of the reward, > 0; the paper's R_max.
    At policy == reference: ln 2.
    Source: Huang et al. 2024, arXiv:2407.13399, Algorithm 1. Checked: g is f' of f(u) = (u - 1)^2 / 2 + u log u, the
      mixed divergence, up to a constant.
    """
    ratios = logratios(policy, ref)
    gap = (tangent_exp(ratios.chosen) - tangent_exp(ratios.rejected)) + (ratios.chosen - ratios.rejected)
    return -logsigmoid((beta * gap).clamp(-2 * reward_bound, 2 * reward_bound))


@checked
def tdpo1(policy: PairSums, ref: PairSums, kl: PairValues, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """DPO with the difference of the responses' token-level KL divergences inside the sigmoid.

    loss = -log sigmoid(beta * (delta - (rejected_kl - chosen_kl)))

    Args:
      kl: KL(reference || policy) over the vocabulary, summed over the tokens of each response, nats, [P]; carries
        gradient.
    At policy == reference: ln 2.
    Source: Zeng et al. 2024, arXiv:2404.11999, TDPO1. Checked against the authors' code,
      github.com/Vance0124/Token-level-Direct-Preference-Optimization.
    """
    check_one_each(policy, **{"chosen kl": kl.chosen, "rejected kl": kl.rejected})
    return -logsigmoid(beta * (delta(policy, ref) - (kl.rejected - kl.chosen)))


@checked
def tdpo2(
    policy: PairSums, ref: PairSums, kl: PairValues, *, beta: Beta = 0.1, alpha: NotNegative = 0.5
) -> Float[Tensor, " P"]:
    """TDPO1 with a weight on the divergences, and no gradient through the chosen response's.

    loss = -log sigmoid(beta * (delta - alpha * (rejected_kl - chosen_kl))), chosen_kl detached

    Args:
      kl: KL(reference || policy) over the vocabulary, summed over the tokens of each response, nats, [P]; carries
        gradient.
      alpha: Weight of the difference, >= 0; 0 is DPO.
    At policy == reference: ln 2.
    Source: Zeng et al. 2024, arXiv:2404.11999, TDPO2. Checked against the authors' code as `tdpo1`, what is detached
      included.
    """
    check_one_each(policy, **{"chosen kl": kl.chosen, "rejected kl": kl.rejected})
    return -logsigmoid(beta * (delta(policy, ref) - alpha * (kl.rejected - kl.chosen.detach())))


def divergence_rewards(
    policy: PairSums,
    ref: PairSums,
    *,
    beta: float,
    divergence: str = "js_divergence",
    alpha: float = 0.5,
    **_: Any,
) -> PairValues:
    """beta * g(logratio) of `f_dpo`, detached, [P]."""
    ratios = logratios(policy, ref)
    return scaled(PairValues(*(divergence_slope(side, divergence, alpha) for side in ratios)), beta)


def mixed_rewards(policy: PairSums, ref: PairSums, *, beta: float, **_: Any) -> PairValues:
    """beta * (e^logratio + logratio) of `chi_po`, before it is clipped, detached, [P]."""
    return scaled(PairValues(*(tangent_exp(side) + side for side in logratios(policy, ref))), beta)


SPECS = {
    "f_dpo": LossSpec(f_dpo, LN_2, divergence_rewards),
    "chi_po": LossSpec(chi_po, LN_2, mixed_rewards),
    "tdpo1": LossSpec(tdpo1, LN_2, scaled_logratios),
    "tdpo2": LossSpec(tdpo2, LN_2, scaled_logratios),
}
