"""What to watch while pairs are trained on: one value per pair, never a mean. Means are made in mean.py."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from preftree.losses.inputs import PairLogps
from preftree.losses.pairs import logratios
from preftree.losses.table import BoundLoss


def pair_metrics(loss: BoundLoss, policy: PairLogps, ref: PairLogps) -> dict[str, Shaped[Tensor, " P"]]:
    """The loss and its companions for each pair, detached.

    loss              the loss itself
    accuracy          1 where the chosen response has the larger implicit reward, 0.5 where both are equal, else 0
    margin            chosen minus rejected implicit reward
    chosen_rewards, rejected_rewards      implicit rewards: beta * logratio
    chosen_logps, rejected_logps          policy logps, nats
    chosen_logratio, rejected_logratio    policy minus reference logps, nats
    grad_weight       |d loss / d chosen_logps| / beta, by autograd on the loss itself; sigmoid(-margin) for DPO
    chosen_tokens, rejected_tokens        scored tokens

    The sides are reported apart because a margin can grow while both responses become less likely.

    Args:
      loss: A bound pair loss; it is evaluated here once more, on detached values.
      policy: Summed response log-probs of each pair, nats, [P].
      ref: The same pairs under the reference, nats, [P].
    Returns:
      Name -> values, [P]; token counts are integers.
    Raises:
      ValueError: pair counts differ, or the loss implies no reward.
    """
    reward = loss.spec.implicit_reward
    if reward is None:
        raise ValueError(f"pair metrics need a loss with an implicit reward, got {loss.name!r}")
    beta = loss.options["beta"]

    # Copies made outside inference mode may require grad even where the caller's tensors may not.
    with torch.inference_mode(False), torch.enable_grad():
        policy, ref = (PairLogps(*(side.detach().clone() for side in pairs)) for pairs in (policy, ref))
        chosen = policy.chosen.requires_grad_()
        given = {"policy": policy, "ref": ref}
        values = loss(**{name: given[name] for name in loss.inputs})
        (slope,) = torch.autograd.grad(values.sum(), chosen)

    policy = policy._replace(chosen=chosen.detach())
    ratios = logratios(policy, ref)
    chosen_rewards = reward(policy.chosen, ref.chosen, beta=beta)
    rejected_rewards = reward(policy.rejected, ref.rejected, beta=beta)
    margin = chosen_rewards - rejected_rewards
    won = (1 + margin.sign()) / 2
    return {
        "loss": values.detach(),
        "accuracy": torch.where(margin.isnan(), margin, won),  # the sign of nan is 0: it would pass for a tie
        "margin": margin,
        "chosen_rewards": chosen_rewards,
        "rejected_rewards": rejected_rewards,
        "chosen_logps": policy.chosen,
        "rejected_logps": policy.rejected,
        "chosen_logratio": ratios.chosen,
        "rejected_logratio": ratios.rejected,
        "grad_weight": slope.abs() / beta,
        "chosen_tokens": policy.chosen_tokens,
        "rejected_tokens": policy.rejected_tokens,
    }
