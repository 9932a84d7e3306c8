"""Losses of single responses, each desirable or undesirable.

Args, where a function does not say otherwise:
  responses: Summed log-probs of the responses, nats, [N]; carries gradient.
  ref_responses: The same under the frozen reference, nats, [N].
  desirable: Whether each response is desirable, [N].
  beta: Strength of the KL constraint, > 0.
Returns:
  Loss per response, nats, [N]; not reduced.
Raises:
  ValueError: counts differ, or an option is out of its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, Choice, NotNegative, checked
from preftree.losses.quantities import LN_2
from preftree.losses.types import LossSpec, ResponseSums


@checked
def kto(
    responses: ResponseSums,
    ref_responses: ResponseSums,
    desirable: Bool[Tensor, " N"],
    mismatched: ResponseSums,
    ref_mismatched: ResponseSums,
    *,
    beta: Beta = 0.1,
    desirable_weight: NotNegative = 1.0,
    undesirable_weight: NotNegative = 1.0,
) -> Float[Tensor, " N"]:
    """Human-aware loss: gain or loss of each response relative to the policy's divergence from the reference.

    loss = desirable_weight * (1 - sigmoid(beta * (logratio - z))) where desirable
    loss = undesirable_weight * (1 - sigmoid(beta * (z - logratio))) elsewhere

    z = max(0, mean logratio of the step's mismatched responses) estimates KL(policy || reference), and has no
    gradient. Each mismatched response counts once, regardless of the weights of the examples.

    Args:
      mismatched: Responses to other examples' prompts under the policy, nats, any number of them; taken as constants.
      ref_mismatched: The same under the frozen reference, nats.
      desirable_weight: Weight of desirable responses, >= 0; the paper recommends a ratio of the two sums of weights
        between 1 and 4/3.
      undesirable_weight: Weight of undesirable responses, >= 0.
    Returns:
      Loss per response, [N]; not reduced.
    At policy == reference: half the weight of the response: 1/2 where both weights are 1.
    Source: Ethayarajh et al. 2024, arXiv:2402.01306, Eq. 7.
    """
    logratio = _logratio(responses, ref_responses, desirable)
    moved = _ratios(mismatched, ref_mismatched).detach()
    z = moved.mean().clamp(min=0) if len(moved) else moved.new_zeros(())
    value = (beta * torch.where(desirable, z - logratio, logratio - z)).sigmoid()
    return torch.where(desirable, desirable_weight * value, undesirable_weight * value)


@checked
def bco(
    responses: ResponseSums,
    ref_responses: ResponseSums,
    desirable: Bool[Tensor, " N"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.01,
    shift: Annotated[str, Choice(("labels", "responses"))] = "labels",
) -> Float[Tensor, " N"]:
    """Binary classifier of desirable against undesirable responses by their reward, centred by running means.

    loss = -log sigmoid(beta * logratio - c) where desirable
    loss = -log sigmoid(-(beta * logratio - c)) elsewhere

    The centre c is half of the sum of two means of beta * logratio, over the desirable and over the undesirable
    responses of the run so far, this step's included, without gradient: cumulative, not moving averages, and updated
    before they are used. While the run has seen one label alone, c is its mean. Each response counts once, regardless
    of its weight.

    Args:
      state: Mean reward and number of the desirable and of the undesirable responses of the steps before this one.
      shift: `labels`, as above; with `responses` c is the mean over all responses, which leans to the label that is
        more frequent.
    At policy == reference: ln 2. (With running means of 0.)
    Source: Jung et al. 2024, arXiv:2404.04656, Eq. 9 and 10; means over all responses, and the order of update, as in
      TRL's BCOTrainer, which counts steps.
    """
    logratio = _logratio(responses, ref_responses, desirable)
    after = advance_reward_means(responses, ref_responses, desirable, state, beta=beta, shift=shift)
    reward = beta * logratio - _centre(after, shift)
    return -logsigmoid(torch.where(desirable, reward, -reward))


def advance_reward_means(
    responses: ResponseSums,
    ref_responses: ResponseSums,
    desirable: Bool[Tensor, " N"],
    state: Mapping[str, float],
    *,
    beta: Beta = 0.01,
    shift: Annotated[str, Choice(("labels", "responses"))] = "labels",
) -> dict[str, float]:
    """Running means of `bco` after a step: over all responses of each label so far, each counted once."""
    rewards = beta * _logratio(responses, ref_responses, desirable).detach().double()
    after: dict[str, float] = {}
    for label, liked in (("desirable", desirable), ("undesirable", ~desirable)):
        before, count = state[f"{label}_mean"], state[f"num_{label}"] + float(liked.sum())
        total = before * state[f"num_{label}"] + float(rewards.where(liked, 0.0).sum())
        after |= {f"{label}_mean": total / count if count else before, f"num_{label}": count}
    return after


def _centre(state: Mapping[str, float], shift: str) -> float:
    counts, means = (
        [state[name.format(label)] for label in ("desirable", "undesirable")] for name in ("num_{}", "{}_mean")
    )
    seen = [float(count > 0) for count in counts] if shift == "labels" else counts
    return sum(count * mean for count, mean in zip(seen, means, strict=True)) / max(1.0, sum(seen))


@checked
def apo_zero_unpaired(
    responses: ResponseSums, ref_responses: ResponseSums, desirable: Bool[Tensor, " N"], *, beta: Beta = 0.1
) -> Float[Tensor, " N"]:
    """One side of `apo_zero` for each response: raises desirable ones and lowers the others; both terms saturate.

    loss = 1 - sigmoid(beta * logratio) where desirable
    loss = sigmoid(beta * logratio) elsewhere

    Returns:
      Loss per response, in (0, 1), [N]; not reduced.
    At policy == reference: 1/2.
    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7, side by side.
    """
    logratio = _logratio(responses, ref_responses, desirable)
    return (beta * torch.where(desirable, -logratio, logratio)).sigmoid()


def _logratio(responses: ResponseSums, ref: ResponseSums, desirable: Tensor) -> Tensor:
    if len(desirable) != len(responses.values):
        raise ValueError(
            f"desirable must hold one entry per response, got {len(desirable)} for {len(responses.values)} responses"
        )
    return _ratios(responses, ref)


def _ratios(responses: ResponseSums, ref: ResponseSums) -> Tensor:
    if len(responses.values) != len(ref.values):
        raise ValueError(
            f"policy and reference must hold the same responses, got {len(responses.values)} and {len(ref.values)}"
        )
    return responses.values - ref.values


def response_rewards(
    responses: ResponseSums, ref_responses: ResponseSums, *, beta: float = 1.0, **_: Any
) -> Float[Tensor, " N"]:
    """beta * logratio of single responses, detached, [N]."""
    return beta * (responses.values - ref_responses.values).detach()


def _kto_at_reference(*, desirable_weight: float, undesirable_weight: float, **_: float) -> float | None:
    return desirable_weight / 2 if desirable_weight == undesirable_weight else None


SPECS = {
    "kto": LossSpec(kto, _kto_at_reference, response_rewards, scope="step", trl=("kto",)),
    "bco": LossSpec(
        bco,
        LN_2,
        response_rewards,
        scope="step",
        initial_state=dict.fromkeys(("desirable_mean", "num_desirable", "undesirable_mean", "num_undesirable"), 0.0),
        advance=advance_reward_means,
    ),
    "apo_zero_unpaired": LossSpec(apo_zero_unpaired, 0.5, response_rewards, trl=("apo_zero_unpaired",)),
}
