"""Losses of pairs without a reference."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.numerics import log1mexp, tangent_exp
from preftree.losses.options import Beta, NotNegative, Number, checked
from preftree.losses.quantities import log_gap, per_token, scaled, scaled_logps, scaled_mean_logps
from preftree.losses.types import LossSpec, PairSums, PairValues


@checked
def unlikelihood(policy: PairSums, *, alpha: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Likelihood of the chosen response minus that of the rejected one, unbounded.

    loss = -chosen_logps + alpha * rejected_logps

    A baseline of the DPO paper, which shows that it degenerates: the loss has no lower bound, and the rejected response
    becomes less likely without limit. It is not the loss of Welleck et al., after which the paper names it; that is
    `token_unlikelihood`.

    Args:
      alpha: Weight of the rejected response, >= 0.
    At policy == reference: no fixed value; there is no reference.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Section 6, the baseline "Unlikelihood".
    """
    return -log_gap(policy) + (alpha - 1) * policy.rejected


@checked
def reference_free(policy: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """DPO with a reference under which all responses are equally likely.

    loss = -log sigmoid(beta * (chosen_logps - rejected_logps))

    Args:
      beta: Inverse of the gap at which the loss fades, > 0; it no longer measures a distance from a reference.
    At policy == reference: no fixed value; there is no reference.
    Source: the option reference_free of github.com/eric-mitchell/direct-preference-optimization.
    """
    return -logsigmoid(beta * log_gap(policy))


@checked
def cpo(policy: PairSums, *, beta: Beta = 0.1, nll_weight: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Reference-free DPO plus the chosen response's negative log-likelihood per token.

    loss = -log sigmoid(beta * (chosen_logps - rejected_logps)) - nll_weight * chosen_logps / chosen_tokens

    Args:
      beta: Inverse of the gap at which the contrast fades, > 0.
      nll_weight: Weight of the averaged term, >= 0.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a chosen response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Xu et al. 2024, arXiv:2401.08417, Eq. 3 with the behaviour-cloning term per token.
    """
    return reference_free(policy, beta=beta) - nll_weight * policy.chosen / policy.chosen_tokens


@checked
def cpo_simpo(
    policy: PairSums, *, beta: Beta = 10.0, gamma: NotNegative = 5.4, nll_weight: NotNegative = 0.05
) -> Float[Tensor, " P"]:
    """SimPO plus the chosen response's negative log-likelihood per token.

    loss = simpo - nll_weight * chosen_logps / chosen_tokens

    Args:
      beta: Scale of the mean log-probs, > 0.
      gamma: Margin, >= 0, in units of the scaled gap.
      nll_weight: Weight of the averaged term, >= 0; 0 is SimPO.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: github.com/fe1ixxu/CPO_SIMPO (loss_type simpo with cpo_alpha); its defaults are from memory.
    """
    return simpo(policy, beta=beta, gamma=gamma) - nll_weight * mean_logps(policy).chosen


@checked
def simper(policy: PairSums) -> Float[Tensor, " P"]:
    """Inverse perplexity of the rejected response minus that of the chosen one, without an option.

    loss = e^(rejected_logps / rejected_tokens) - e^(chosen_logps / chosen_tokens)

    Bounded between -1 and 1: an unlikely response has little gradient.

    Returns:
      Loss per pair, in [-1, 1], [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Xiao et al. 2025, arXiv:2502.00883, Eq. 5.
    """
    means = mean_logps(policy)
    return means.rejected.exp() - means.chosen.exp()


@checked
def orpo(policy: PairSums, *, odds_weight: NotNegative = 0.1) -> Float[Tensor, " P"]:
    """Negative log-likelihood of the chosen response, and the log odds ratio of the two responses.

    loss = -chosen_logps / chosen_tokens - odds_weight * log sigmoid(log odds_w - log odds_l)

    odds = p / (1 - p) with p the geometric mean of a response's token probabilities. p = 1 has infinite odds, so the
    mean log-prob is limited to one rounding step below 0.

    Args:
      odds_weight: Weight of the odds ratio, >= 0; the paper's lambda, TRL's beta.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Hong et al. 2024, arXiv:2403.07691, Eq. 6 and 7.
    """
    means = mean_logps(policy)
    chosen, rejected = log_odds(means.chosen), log_odds(means.rejected)
    return -means.chosen - odds_weight * logsigmoid(chosen - rejected)


@checked
def simpo(policy: PairSums, *, beta: Beta = 2.0, gamma: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Logistic loss on the gap of mean log-probs minus a margin.

    loss = -log sigmoid(beta * (chosen_logps / chosen_tokens - rejected_logps / rejected_tokens) - gamma)

    Args:
      beta: Scale of the mean log-probs, > 0; the paper tries 2 to 2.5.
      gamma: Margin, >= 0, in units of the scaled gap; the paper tries 0.3 to 0.55 times beta.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Meng et al. 2024, arXiv:2405.14734, Eq. 6.
    """
    means = mean_logps(policy)
    return -logsigmoid(beta * (means.chosen - means.rejected) - gamma)


@checked
def alphapo(
    policy: PairSums, *, beta: Beta = 2.5, gamma: NotNegative = 0.25, alpha: Number = 0.25
) -> Float[Tensor, " P"]:
    """SimPO with a reward transformed by alpha.

    loss = -log sigmoid(beta * (r_w - r_l) - gamma), r = (1 - p^(-alpha)) / alpha

    p is the geometric mean of a response's token probabilities; at alpha = 0, r is log p and the loss SimPO's. Where
    p^(-alpha) passes e^40 it continues as its tangent in log p, so that fp32 does not overflow.

    Args:
      beta: Scale of the rewards, > 0.
      gamma: Margin, >= 0, in units of the scaled gap.
      alpha: Any number; above 0 unlikely responses weigh more, below 0 less.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Gupta et al. 2025, arXiv:2501.03884.
    """
    chosen, rejected = (bent(mean, alpha) for mean in mean_logps(policy))
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def log_odds(mean: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """log(p / (1 - p)) from log p, finite where p rounds to 1, [P]."""
    mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    return mean - log1mexp(mean)


def bent(mean_logps: Float[Tensor, " P"], alpha: float) -> Float[Tensor, " P"]:
    """AlphaPO's reward (1 - p^(-alpha)) / alpha from log p, [P]."""
    if alpha == 0:
        return mean_logps
    power = -alpha * mean_logps
    # Near 0 the difference from 1 needs precision; far from 0 the exponential must not overflow.
    return torch.where(power.abs() < 1, -power.clamp(-1, 1).expm1(), 1 - tangent_exp(power)) / alpha


def mean_logps(policy: PairSums) -> PairValues:
    """Policy logps per token of both sides, [P].

    Raises:
      ValueError: the sides do not hold the same number of pairs.
    """
    log_gap(policy)
    return per_token(PairValues(policy.chosen, policy.rejected), policy)


def bent_rewards(policy: PairSums, *, beta: float, alpha: float, **_: Any) -> PairValues:
    """beta * AlphaPO's reward, detached, [P]."""
    return scaled(PairValues(*(bent(side, alpha) for side in mean_logps(policy))), beta)


def mean_probabilities(policy: PairSums, **_: Any) -> PairValues:
    """Geometric mean of the token probabilities, detached, [P]: SimPER's reward."""
    return scaled(PairValues(*(mean.exp() for mean in mean_logps(policy))), 1.0)


def odds_rewards(policy: PairSums, **_: Any) -> PairValues:
    """log(p / (1 - p)) of the mean token probability, detached, [P]: ORPO's reward."""
    return scaled(PairValues(*map(log_odds, mean_logps(policy))), 1.0)


SPECS = {
    "unlikelihood": LossSpec(unlikelihood, None, scaled_logps),
    "reference_free": LossSpec(reference_free, None, scaled_logps),
    "cpo": LossSpec(cpo, None, scaled_logps),
    "cpo_simpo": LossSpec(cpo_simpo, None, scaled_mean_logps),
    "simper": LossSpec(simper, None, mean_probabilities),
    "orpo": LossSpec(orpo, None, odds_rewards),
    "simpo": LossSpec(simpo, None, scaled_mean_logps, trl=("simpo",)),
    "alphapo": LossSpec(alphapo, None, bent_rewards, trl=("alphapo",)),
}
