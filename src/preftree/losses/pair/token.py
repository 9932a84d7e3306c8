"""Losses that look at single tokens: how far both responses reach, and how sure the policy is of them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, Share, checked
from preftree.losses.pair.logistic import dpo
from preftree.losses.quantities import check_one_each
from preftree.losses.types import PairLogps, PairTokens, PairValues, TokenLogps


@checked
def ld_dpo(
    policy_tokens: PairTokens, ref_tokens: PairTokens, *, beta: Beta = 0.1, alpha: Share = 0.5
) -> Float[Tensor, " P"]:
    """DPO that counts less what the longer response says past the end of the shorter one ("length-desensitised").

    loss = -log sigmoid(beta * (l_w - r_w - l_l + r_l)), l, r = sum of shared tokens + alpha * sum of the rest

    The first min(chosen_tokens, rejected_tokens) tokens of each response are shared. The weight applies to policy and
    reference alike.

    Args:
      policy_tokens: Token log-probs of both sides of each pair, nats; carries gradient.
      ref_tokens: The same tokens under the frozen reference, nats.
      beta: Strength of the KL constraint, > 0.
      alpha: Weight of the tokens past the shorter response's length, in [0, 1]; 1 is DPO.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: token counts differ, beta <= 0, or alpha outside [0, 1].
    At policy == reference: ln 2.
    Source: Liu et al. 2024, arXiv:2409.06411.
    """
    ratios = desensitised_logratios(policy_tokens, ref_tokens, alpha=alpha)
    return -logsigmoid(beta * (ratios.chosen - ratios.rejected))


def desensitised_logratios(policy_tokens: PairTokens, ref_tokens: PairTokens, *, alpha: Share) -> PairValues:
    """Logratio of each response with `alpha` on the tokens past the shorter one's length, nats, [P].

    Raises:
      ValueError: policy and reference do not hold the same tokens.
    """
    shared = torch.minimum(policy_tokens.chosen.num_tokens, policy_tokens.rejected.num_tokens)
    return PairValues(
        _weighted(policy_tokens.chosen, ref_tokens.chosen, shared, alpha),
        _weighted(policy_tokens.rejected, ref_tokens.rejected, shared, alpha),
    )


def _weighted(policy: TokenLogps, ref: TokenLogps, shared: Int[Tensor, " P"], alpha: float) -> Float[Tensor, " P"]:
    if policy.num_tokens.tolist() != ref.num_tokens.tolist():
        raise ValueError("policy_tokens and ref_tokens must hold the same tokens, got other token counts")
    counts = policy.num_tokens
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.arange(len(policy.logps), device=counts.device) - first
    ratios = policy.logps - ref.logps
    weighted = torch.where(place < shared.repeat_interleave(counts), ratios, alpha * ratios)
    return torch.segment_reduce(weighted, "sum", lengths=counts, unsafe=True, initial=0.0)


@checked
def wpo(policy: PairLogps, ref: PairLogps, confidence: PairValues, *, beta: Beta = 0.01) -> Float[Tensor, " P"]:
    """DPO weighed by how much like a sample of the policy each pair is, the weight not being capped.

    loss = -e^(chosen_confidence + rejected_confidence) * log sigmoid(beta * delta)

    The weights are e^confidence of the two responses, detached. A response whose tokens are more likely than a draw
    would be weighs more than 1. TRL's form; the authors' code caps the product, see `wpo_clipped`.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      confidence: Mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, [P]; taken as constants.
      beta: Strength of the KL constraint, > 0.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair or confidence counts differ, or beta <= 0.
    At policy == reference: no fixed value; ln 2 times the weight.
    Source: Zhou et al. 2024, arXiv:2406.11827, Eq. 2 with the weight alignment of its Section 3; TRL, use_weighting.
    """
    return dpo(policy, ref, beta=beta) * _both(policy, confidence).exp()


@checked
def wpo_clipped(policy: PairLogps, ref: PairLogps, confidence: PairValues, *, beta: Beta = 0.01) -> Float[Tensor, " P"]:
    """DPO weighed by how much like a sample of the policy each pair is, at most by 1.

    loss = -min(1, e^(chosen_confidence + rejected_confidence)) * log sigmoid(beta * delta)

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      confidence: Mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, [P]; taken as constants.
      beta: Strength of the KL constraint, > 0.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair or confidence counts differ, or beta <= 0.
    At policy == reference: no fixed value; ln 2 times the weight.
    Source: Zhou et al. 2024, arXiv:2406.11827, with the cap of the authors' code, github.com/wzhouad/WPO. Checked
      against it: the product is capped, and the means over tokens are detached.
    """
    return dpo(policy, ref, beta=beta) * _both(policy, confidence).clamp(max=0).exp()


def _both(policy: PairLogps, confidence: PairValues) -> Float[Tensor, " P"]:
    check_one_each(policy, **{"chosen confidence": confidence.chosen, "rejected confidence": confidence.rejected})
    return (confidence.chosen + confidence.rejected).detach()
