"""From responses to pairs, and the few quantities that every pair loss is written in."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.options import POSITIVE, Beta
from preftree.losses.types import PairLogps, PairValues


def pair_up(
    logps: Float[Tensor, " R"],
    num_tokens: Int[Tensor, " R"],
    chosen_P: Int[Tensor, " P"],
    rejected_P: Int[Tensor, " P"],
) -> PairLogps:
    """Pairs out of scored responses: each side is an index, so K responses serve any number of pairs.

    Args:
      logps: Summed log-prob of each response, nats, [R].
      num_tokens: Scored tokens of each response, [R].
      chosen_P: Index of the chosen response of each pair, [P].
      rejected_P: Index of the rejected one, [P].
    """
    return PairLogps(
        chosen=logps.index_select(0, chosen_P),
        rejected=logps.index_select(0, rejected_P),
        chosen_tokens=num_tokens.index_select(0, chosen_P),
        rejected_tokens=num_tokens.index_select(0, rejected_P),
    )


def logratios(policy: PairLogps, ref: PairLogps) -> PairValues:
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


def delta(policy: PairLogps, ref: PairLogps) -> Float[Tensor, " P"]:
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


def log_gap(policy: PairLogps) -> Float[Tensor, " P"]:
    """Chosen minus rejected log-probs under one model, nats, [P].

    Raises:
      ValueError: the sides do not hold the same number of pairs.
    """
    if len(policy.chosen) != len(policy.rejected):
        raise ValueError(
            f"policy must hold pairs, got {len(policy.chosen)} chosen and {len(policy.rejected)} rejected logps"
        )
    return policy.chosen - policy.rejected


def per_token(values: PairValues, lengths: PairLogps) -> PairValues:
    """Values of responses divided by the scored tokens of each, [P]; nan for a response without tokens."""
    return PairValues(values.chosen / lengths.chosen_tokens, values.rejected / lengths.rejected_tokens)


def check_one_each(policy: PairLogps, **given: Tensor) -> None:
    """Hold what comes with the pairs to one entry a pair.

    Raises:
      ValueError: another number of entries; broadcasting would hide it.
    """
    for name, values in given.items():
        if values.shape != policy.chosen.shape:
            raise ValueError(f"{name} must hold one entry per pair, got {len(values)} for {len(policy.chosen)} pairs")
