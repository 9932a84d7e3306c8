"""Quantities of losses: sums of responses, pairs, logratios, and implicit rewards of several losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.options import POSITIVE, Beta
from preftree.losses.types import PairSums, PairValues, ResponseSums

LN_2 = math.log(2)
"""Logistic loss at a gap of 0."""


def sum_responses(values_I: Float[Tensor, " I"], count_R: Int[Tensor, " R"]) -> ResponseSums:
    """Sum the values of each response's tokens: log-probs, or rewards at its last token.

    The sum runs in float64 and in token order: rounding a 500-nat sum to fp32 alone would move a margin by 3e-5, and a
    sum that depended on the packing would break the equality of policy and reference at the first step.

    Args:
      values_I: Token values, response after response, nats for log-probs, [I].
      count_R: Tokens of each response, [R]; they sum to I.
    Returns:
      Sums, float64, [R]; counts, [R].
    """
    sums = torch.segment_reduce(values_I.double(), "sum", lengths=count_R, unsafe=True, initial=0.0)
    return ResponseSums(sums, count_R)


def pair_up(
    values: Float[Tensor, " R"],
    num_tokens: Int[Tensor, " R"],
    chosen_P: Int[Tensor, " P"],
    rejected_P: Int[Tensor, " P"],
) -> PairSums:
    """Pairs of scored responses: each side is an index, so K responses form any number of pairs.

    Args:
      values: Summed log-prob of each response, nats, or its reward, [R].
      num_tokens: Scored tokens of each response, [R].
      chosen_P: Index of the chosen response of each pair, [P].
      rejected_P: Index of the rejected response of each pair, [P].
    """
    return PairSums(
        chosen=values.index_select(0, chosen_P),
        rejected=values.index_select(0, rejected_P),
        chosen_tokens=num_tokens.index_select(0, chosen_P),
        rejected_tokens=num_tokens.index_select(0, rejected_P),
    )


def logratios(policy: PairSums, ref: PairSums) -> PairValues:
    """Policy minus reference logps of each response, nats, [P].

    Raises:
      ValueError: policy and ref do not hold the same number of pairs; broadcasting would hide it.
    """
    counts = [len(side) for side in (policy.chosen, policy.rejected, ref.chosen, ref.rejected)]
    if len(set(counts)) != 1:
        raise ValueError(
            f"policy and ref must hold the same pairs, got {counts[0]} chosen and {counts[1]} rejected policy logps, "
            f"{counts[2]} chosen and {counts[3]} rejected reference logps"
        )
    return PairValues(policy.chosen - ref.chosen, policy.rejected - ref.rejected)


def delta(policy: PairSums, ref: PairSums) -> Float[Tensor, " P"]:
    """Chosen logratio minus rejected logratio, nats, [P]: exactly 0 where policy and reference agree.

    Raises:
      ValueError: as `logratios`.
    """
    ratios = logratios(policy, ref)
    return ratios.chosen - ratios.rejected


def implicit_reward(
    logps: Float[Tensor, " N"], ref_logps: Float[Tensor, " N"], *, beta: Beta = 0.1
) -> Float[Tensor, " N"]:
    """The reward under which the policy is optimal, up to a constant per prompt: beta * logratio, detached, [N].

    Args:
      logps: Summed log-prob of each response under the policy, nats, [N].
      ref_logps: The same responses under the reference, nats, [N].
      beta: Strength of the KL constraint, > 0.
    Raises:
      ValueError: counts differ, or beta <= 0.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Section 4 and Theorem 1.
    """
    if len(logps) != len(ref_logps):
        raise ValueError(f"logps and ref_logps must hold the same responses, got {len(logps)} and {len(ref_logps)}")
    return POSITIVE.check("beta", beta) * (logps - ref_logps).detach()


def log_gap(policy: PairSums) -> Float[Tensor, " P"]:
    """Chosen minus rejected log-probs under one model, nats, [P].

    Raises:
      ValueError: the sides do not hold the same number of pairs.
    """
    if len(policy.chosen) != len(policy.rejected):
        raise ValueError(
            f"policy must hold pairs, got {len(policy.chosen)} chosen and {len(policy.rejected)} rejected logps"
        )
    return policy.chosen - policy.rejected


def per_token(values: PairValues, lengths: PairSums) -> PairValues:
    """Values of responses divided by the scored tokens of each, [P]; nan for a response without tokens."""
    return PairValues(values.chosen / lengths.chosen_tokens, values.rejected / lengths.rejected_tokens)


def check_one_each(policy: PairSums, **inputs: Tensor) -> None:
    """Check that further inputs have one entry for each pair.

    Raises:
      ValueError: another number of entries; broadcasting would hide it.
    """
    for name, values in inputs.items():
        if values.shape != policy.chosen.shape:
            raise ValueError(f"{name} must hold one entry per pair, got {len(values)} for {len(policy.chosen)} pairs")


def scaled(values: PairValues, beta: float) -> PairValues:
    """beta times both sides, detached, [P]."""
    return PairValues(beta * values.chosen.detach(), beta * values.rejected.detach())


def scaled_logratios(policy: PairSums, ref: PairSums, *, beta: float = 1.0, **_: Any) -> PairValues:
    """beta * logratio, detached, [P]: DPO's reward, in summed nats; without a beta, the logratio."""
    return scaled(logratios(policy, ref), beta)


def plain_logratios(policy: PairSums, ref: PairSums, **_: Any) -> PairValues:
    """The logratio, detached, [P]: the reward of a loss whose contrast has no beta."""
    return scaled(logratios(policy, ref), 1.0)


def scaled_logps(policy: PairSums, *, beta: float = 1.0, **_: Any) -> PairValues:
    """beta * policy logps, detached, [P]: the reward of a loss without a reference; without a beta, the logps."""
    return scaled(PairValues(policy.chosen, policy.rejected), beta)


def scaled_mean_logps(policy: PairSums, *, beta: float, **_: Any) -> PairValues:
    """beta * policy logps per token, detached, [P]: SimPO's reward."""
    return scaled(per_token(PairValues(policy.chosen, policy.rejected), policy), beta)
