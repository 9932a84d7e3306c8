"""DPO with an offset inside the sigmoid, from further figures of the pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, NotNegative, Number, Part, Positive, checked
from preftree.losses.quantities import check_one_each, delta, logratios, scaled, scaled_logratios
from preftree.losses.types import LossSpec, PairSums, PairValues


@checked
def r_dpo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, alpha: NotNegative = 0.05) -> Float[Tensor, " P"]:
    """DPO that corrects for a length bias of the labels ("length-regularised").

    loss = -log sigmoid(beta * delta + alpha * (chosen_tokens - rejected_tokens))

    The sign is plus, although some papers print a minus: the reward behind the labels is the target reward plus alpha
    per token, so a longer chosen response needs a smaller margin.

    Args:
      alpha: Reward that labellers give per token, >= 0; 0 is DPO.
    At policy == reference: no fixed value; softplus(-alpha * (chosen_tokens - rejected_tokens)).
    Source: Park et al. 2024, arXiv:2403.19159. Checked by derivation from the objective with a penalty on length.
    """
    # Floats first: a Python number times an integer tensor would be rounded to fp32.
    longer = (policy.chosen_tokens - policy.rejected_tokens).to(policy.chosen.dtype)
    return -logsigmoid(beta * delta(policy, ref) + alpha * longer)


@checked
def modpo(
    policy: PairSums,
    ref: PairSums,
    other_margins: Float[Tensor, " P"],
    *,
    beta: Beta = 0.1,
    objective_weight: Part = 0.5,
) -> Float[Tensor, " P"]:
    """DPO for a weighted sum of two objectives: a labelled one, and one with a known reward.

    loss = -log sigmoid((beta * delta - (1 - objective_weight) * other_margins) / objective_weight)

    The optimum is that of w * (the labelled reward) + (1 - w) * (the known reward), w = objective_weight. A sweep of
    w gives the Pareto front of the two; docs/pareto.md has a world with a known exact front.

    Args:
      other_margins: Known reward of the chosen response minus that of the rejected one, either sign, [P].
      objective_weight: Share of the labelled objective, in (0, 1]; 1 is DPO. An entry of the paper's weight vector w.
    At policy == reference: no fixed value; softplus((1 - objective_weight) / objective_weight * other_margins).
    Source: Zhou et al. 2023, arXiv:2310.03708, for two objectives. Checked by derivation, on the bandit, and against
      the authors' code, github.com/ZHZisZZ/modpo, which has the same argument of the sigmoid.
    """
    check_one_each(policy, other_margins=other_margins)
    gap = beta * delta(policy, ref) - (1 - objective_weight) * other_margins
    return -logsigmoid(gap / objective_weight)


@checked
def odpo(
    policy: PairSums, ref: PairSums, margins: Float[Tensor, " P"], *, beta: Beta = 0.1, alpha: NotNegative = 1.0
) -> Float[Tensor, " P"]:
    """DPO with an offset of the gap that grows with the margin of the chosen response.

    loss = -log sigmoid(beta * delta - alpha * log(margins))

    Args:
      margins: Score of the chosen response minus that of the rejected one, > 0, [P]; at 1 there is no offset.
      alpha: Weight of the offset, >= 0; 0 is DPO.
    Raises:
      ValueError: a margin is not > 0.
    At policy == reference: no fixed value; ln(1 + margins^alpha).
    Source: Amini et al. 2024, arXiv:2402.10571, with f = log. Checked: for Gumbel noise on two utilities, the
      probability that their difference exceeds the offset is sigmoid(gap - offset), as the paper's theorem has it; and
      the authors' code, github.com/rycolab/odpo, has the same argument of the sigmoid.
    """
    check_one_each(policy, margins=margins)
    if not bool((margins > 0).all()):
        raise ValueError(f"odpo takes the log of a margin, which must be > 0, got {margins.min().item():g}")
    return -logsigmoid(beta * delta(policy, ref) - alpha * margins.log())


@checked
def constrained_dpo(
    policy: PairSums,
    ref: PairSums,
    costs: PairValues,
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    bound: Number = 0.0,
    step_size: Positive = 0.01,
) -> Float[Tensor, " P"]:
    """DPO for a reward under a bound on a second score, with an adaptive multiplier.

    loss = -log sigmoid(beta * delta + multiplier * (chosen_cost - rejected_cost))

    max E[reward] - beta KL subject to E[cost] <= bound has the Lagrangian reward - multiplier * cost. Its optimum is
    ref * exp((reward - multiplier * cost) / beta) / Z, so the labelled reward is beta * logratio + multiplier * cost
    plus a constant per prompt, and Bradley-Terry labels of it give the loss above. The multiplier rises by dual ascent:

    multiplier' = max(0, multiplier + step_size * (the policy's cost - bound))

    The policy's cost is the mean of the costs of all responses of the step, each weighted by policy / reference: a
    self-normalised importance estimate. It converges to the policy's expected cost as steps grow, if the responses are
    drawn from the reference; on other data, or with few effective responses (KL of several nats), it is biased: compare
    with costs of samples before relying on the bound. The loss uses the multiplier from before the step; the step's
    costs then update it. `bound` and `step_size` act only through `advance_multiplier`.

    Args:
      ref: The same pairs under the frozen reference, nats, [P]; the responses should be its samples.
      costs: Cost of each response, any scale, [P].
      state: multiplier: multiplier of the constraint, >= 0, per unit of cost; cost: estimate of the previous step.
      bound: Upper bound of the mean cost, in units of cost.
      step_size: Change of the multiplier per unit of violation and step, > 0.
    At policy == reference: no fixed value; softplus(-multiplier * (chosen_cost - rejected_cost)), at first ln 2.
    Source: derived here, from Rafailov et al. 2023, arXiv:2305.18290, Eq. 4 to 7, with the reward of a Lagrangian as in
      Dai et al. 2023 (Safe RLHF), arXiv:2310.12773, and MODPO's margin. Checked on the bandit for a fixed multiplier.
    """
    check_one_each(policy, **{"chosen cost": costs.chosen, "rejected cost": costs.rejected})
    return -logsigmoid(beta * delta(policy, ref) + state["multiplier"] * (costs.chosen - costs.rejected))


def advance_multiplier(
    policy: PairSums,
    ref: PairSums,
    costs: PairValues,
    state: Mapping[str, float],
    *,
    beta: Beta = 0.1,
    bound: Number = 0.0,
    step_size: Positive = 0.01,
) -> dict[str, float]:
    """Multiplier of `constrained_dpo` after a step, and estimate of the policy's cost; unchanged without pairs."""
    if not len(policy.chosen):
        return dict(state)
    share = torch.cat(logratios(policy, ref)).detach().double().softmax(0)
    cost = float((share * torch.cat(costs)).sum())
    return {"multiplier": max(0.0, state["multiplier"] + step_size * (cost - bound)), "cost": cost}


def offset_rewards(policy: PairSums, ref: PairSums, *, beta: float, alpha: float, **_: Any) -> PairValues:
    """beta * logratio + alpha * tokens, detached, [P]: the reward behind the labels of `r_dpo`, length included."""
    ratios = scaled(logratios(policy, ref), beta)
    lengths = (count.to(policy.chosen.dtype) for count in (policy.chosen_tokens, policy.rejected_tokens))
    return PairValues(*(ratio + alpha * length for ratio, length in zip(ratios, lengths, strict=True)))


SPECS = {
    "r_dpo": LossSpec(r_dpo, None, offset_rewards),
    "modpo": LossSpec(modpo, None, scaled_logratios),
    "odpo": LossSpec(odpo, None, scaled_logratios),
    "constrained_dpo": LossSpec(
        constrained_dpo,
        None,
        scaled_logratios,
        initial_state={"multiplier": 0.0, "cost": 0.0},
        advance=advance_multiplier,
    ),
}
