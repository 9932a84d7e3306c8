"""Losses of PPO: one value per action, a token or a whole response; not reduced."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    logps: Float[Tensor, " N"], old_logps: Float[Tensor, " N"], advantages: Float[Tensor, " N"], *, clip: float
) -> Float[Tensor, " N"]:
    """PPO's policy loss: the clipped surrogate objective.

    loss = -min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A),  ratio = exp(logps - old_logps)

    Args:
      logps: Log-probs of the actions, nats, [N]; carries gradient.
      old_logps: The same under the policy that sampled them, nats, [N].
      advantages: Advantage of each action, [N].
      clip: Largest change of the ratio, in (0, 1).
    Returns:
      Loss of each action, [N].
    Raises:
      ValueError: counts differ, or clip is out of range.
    At logps == old_logps: -A, and the gradient is that of -A * logps, REINFORCE's.
    Source: Schulman et al. 2017, arXiv:1707.06347, Eq. 7.
    """
    if not logps.shape == old_logps.shape == advantages.shape:
        raise ValueError(
            f"one log-prob, one old one and one advantage an action, got {len(logps)}, {len(old_logps)} and "
            f"{len(advantages)}"
        )
    if not 0 < clip < 1:
        raise ValueError(f"clip must be in (0, 1), got {clip}")
    ratio = (logps - old_logps).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def is_clipped(
    logps: Float[Tensor, " N"], old_logps: Float[Tensor, " N"], advantages: Float[Tensor, " N"], *, clip: float
) -> Float[Tensor, " N"]:
    """1 where the clip removes an action's gradient, else 0, [N]."""
    ratio = (logps - old_logps).exp()
    return (ratio * advantages > ratio.clamp(1 - clip, 1 + clip) * advantages).to(logps.dtype)


def value_loss(
    values: Float[Tensor, " N"],
    old_values: Float[Tensor, " N"],
    returns: Float[Tensor, " N"],
    *,
    clip: float | None = None,
) -> Float[Tensor, " N"]:
    """Half the squared distance of a value from its return; with a clip, the larger of the two distances.

    loss = 1/2 max((V - G)^2, (V_old + clip(V - V_old, -clip, clip) - G)^2)

    Args:
      values: V, [N]; carries gradient.
      old_values: V at the time the returns were computed, [N].
      returns: G, [N].
      clip: Largest change from the old value; None is no limit.
    Returns:
      Loss of each value, [N].
    Raises:
      ValueError: counts differ, or clip <= 0.
    Source: Schulman et al. 2017, arXiv:1707.06347, Eq. 9; the clip is that of OpenAI's baselines, ppo2.
    """
    if not values.shape == old_values.shape == returns.shape:
        raise ValueError(
            f"one value, one old one and one return each, got {len(values)}, {len(old_values)} and {len(returns)}"
        )
    free = (values - returns).square()
    if clip is None:
        return free / 2
    if not clip > 0:
        raise ValueError(f"clip must be > 0, got {clip}")
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(free, (near - returns).square()) / 2
