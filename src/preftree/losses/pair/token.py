"""Losses of single tokens: by the lengths of both responses, or by the policy's confidence."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.numerics import log1mexp
from preftree.losses.options import Beta, NotNegative, Share, checked
from preftree.losses.pair.logistic import dpo
from preftree.losses.quantities import LN_2, check_one_each, scaled, scaled_logps, scaled_logratios
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
def sampo(
    policy_tokens: PairTokens, ref_tokens: PairTokens, uniforms: Float[Tensor, " P"], *, beta: Beta = 0.1
) -> Float[Tensor, " P"]:
    """DPO on as many tokens of the longer response as the shorter one has, drawn at random.

    loss = -log sigmoid(beta * (sum of l_w - r_w - sum of l_l + r_l)), over min(chosen_tokens, rejected_tokens) tokens

    A fresh draw in each step, without replacement: torch's permutation of the positions of the longer response, from a
    generator on the CPU seeded with floor(2^53 uniform). Tokens that are not drawn have no gradient in this step.

    Args:
      policy_tokens: Token log-probs of both sides of each pair, nats; carries gradient.
      ref_tokens: The same tokens under the frozen reference, nats.
      uniforms: One random number per pair, in [0, 1), [P].
    At policy == reference: ln 2.
    Source: Lu et al. 2024, arXiv:2406.10957, Eq. 8 and 9.
    """
    sides = (policy_tokens.chosen.num_tokens.tolist(), policy_tokens.rejected.num_tokens.tolist())
    drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
    for uniform, *counts in zip(uniforms.tolist(), *sides, strict=True):
        generator = torch.Generator("cpu").manual_seed(int(uniform * 2**53))
        few = min(counts)
        for side, count in zip(drawn, counts, strict=True):
            kept = torch.zeros(count, device="cpu")
            order = torch.randperm(count, generator=generator, device="cpu") if count > few else None
            side.append(kept.fill_(1.0) if order is None else kept.index_fill(0, order[:few], 1.0))
    ratios = [
        _counted(policy, ref, torch.cat([torch.zeros(0, device="cpu"), *kept]).to(policy.logps))
        for policy, ref, kept in zip(policy_tokens, ref_tokens, drawn, strict=True)
    ]
    return -logsigmoid(beta * (ratios[0] - ratios[1]))


def _counted(policy: TokenLogps, ref: TokenLogps, weights: Float[Tensor, " I"]) -> Float[Tensor, " P"]:
    if policy.num_tokens.tolist() != ref.num_tokens.tolist():
        raise ValueError("policy_tokens and ref_tokens must hold the same tokens, got other token counts")
    values = weights * (policy.logps - ref.logps)
    return torch.segment_reduce(values, "sum", lengths=policy.num_tokens, unsafe=True, initial=0.0)


@checked
def token_unlikelihood(policy_tokens: PairTokens, *, alpha: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Likelihood of the chosen response, and of each token of the rejected one not being chosen.

    loss = -chosen_logps - alpha * sum over rejected tokens of log(1 - p(token))

    Bounded below, unlike the baseline `unlikelihood`: an unlikely token has little gradient. The log-prob of a token is
    limited to one rounding step below 0.

    Args:
      policy_tokens: Token log-probs of both sides of each pair, nats; carries gradient.
      alpha: Weight of the rejected response, >= 0.
    At policy == reference: no fixed value; there is no reference.
    Source: Welleck et al. 2019, arXiv:1908.04319, Eq. 4, with the rejected response as the negative candidates.
    """
    chosen, rejected = policy_tokens
    likely = torch.segment_reduce(chosen.logps, "sum", lengths=chosen.num_tokens, unsafe=True, initial=0.0)
    others = log1mexp(rejected.logps.clamp(max=-torch.finfo(rejected.logps.dtype).eps))
    return -likely - alpha * torch.segment_reduce(others, "sum", lengths=rejected.num_tokens, unsafe=True, initial=0.0)


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
    "sampo": LossSpec(sampo, LN_2, scaled_logratios),
    "token_unlikelihood": LossSpec(token_unlikelihood, None, scaled_logps),
    "wpo": LossSpec(wpo, None, scaled_logratios),
    "wpo_clipped": LossSpec(wpo_clipped, None, scaled_logratios),
}
