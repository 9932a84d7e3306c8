"""Losses of single tokens: by the lengths of both responses, or by the policy's confidence."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, Share, checked
from preftree.losses.pair.logistic import dpo
from preftree.losses.quantities import LN_2, check_one_each, scaled, scaled_logratios
from preftree.losses.types import LossSpec, PairSums, PairTokens, PairValues, TokenLogps


@checked
def ld_dpo(
    policy_tokens: PairTokens, ref_tokens: PairTokens, *, beta: Beta = 0.1, alpha: Share = 0.5
) -> Float[Tensor, " P"]:
    """DPO with less weight on the longer response past the end of the shorter one ("length-desensitised").

    loss = -log sigmoid(beta * (l_w - r_w - l_l + r_l)), l, r = sum of shared tokens + alpha * sum of the rest

    The first min(chosen_tokens, rejected_tokens) tokens of each response are shared. The weight applies to policy and
    reference alike.

    Args:
      policy_tokens: Token log-probs of both sides of each pair, nats; carries gradient.
      ref_tokens: The same tokens under the frozen reference, nats.
      alpha: Weight of the tokens past the shorter response's length, in [0, 1]; 1 is DPO.
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
    position = torch.arange(len(policy.logps), device=counts.device) - first
    ratios = policy.logps - ref.logps
    weighted = torch.where(position < shared.repeat_interleave(counts), ratios, alpha * ratios)
    return torch.segment_reduce(weighted, "sum", lengths=counts, unsafe=True, initial=0.0)


@checked
def wpo(policy: PairSums, ref: PairSums, confidence: PairValues, *, beta: Beta = 0.01) -> Float[Tensor, " P"]:
    """DPO weighted by the similarity of each pair to the policy's samples, without a cap.

    loss = -e^(chosen_confidence + rejected_confidence) * log sigmoid(beta * delta)

    The weights are e^confidence of the two responses, detached. A response with tokens more likely than a sample's
    has a weight above 1. TRL's form; the authors' code caps the product, see `wpo_clipped`.

    Args:
      confidence: Mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, [P]; taken as constants.
    At policy == reference: no fixed value; ln 2 times the weight.
    Source: Zhou et al. 2024, arXiv:2406.11827, Eq. 2 with the weight alignment of its Section 3; TRL, use_weighting.
    """
    return dpo(policy, ref, beta=beta) * _both(policy, confidence).exp()


@checked
def wpo_clipped(policy: PairSums, ref: PairSums, confidence: PairValues, *, beta: Beta = 0.01) -> Float[Tensor, " P"]:
    """DPO weighted by the similarity of each pair to the policy's samples, at most 1.

    loss = -min(1, e^(chosen_confidence + rejected_confidence)) * log sigmoid(beta * delta)

    Args:
      confidence: Mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, [P]; taken as constants.
    At policy == reference: no fixed value; ln 2 times the weight.
    Source: Zhou et al. 2024, arXiv:2406.11827, with the cap of the authors' code, github.com/wzhouad/WPO. Checked
      against it: the product is capped, and the means over tokens are detached.
    """
    return dpo(policy, ref, beta=beta) * _both(policy, confidence).clamp(max=0).exp()


def _both(policy: PairSums, confidence: PairValues) -> Float[Tensor, " P"]:
    check_one_each(policy, **{"chosen confidence": confidence.chosen, "rejected confidence": confidence.rejected})
    return (confidence.chosen + confidence.rejected).detach()


def desensitised_rewards(
    policy_tokens: PairTokens, ref_tokens: PairTokens, *, beta: float, alpha: float, **_: Any
) -> PairValues:
    """beta * the logratio of `ld_dpo`, with weight alpha past the shorter response's length, detached, [P]."""
    return scaled(desensitised_logratios(policy_tokens, ref_tokens, alpha=alpha), beta)


SPECS = {
    "ld_dpo": LossSpec(ld_dpo, LN_2, desensitised_rewards),
    "wpo": LossSpec(wpo, None, scaled_logratios),
    "wpo_clipped": LossSpec(wpo_clipped, None, scaled_logratios),
}
