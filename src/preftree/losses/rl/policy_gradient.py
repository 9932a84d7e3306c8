"""Losses of PPO: one value per action, a token or a whole response; not reduced."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    logps: Float[Tensor, " N"],
    old_logps: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip: float,
    clip_high: float | None = None,
) -> Float[Tensor, " N"]:
    """PPO's policy loss: the clipped surrogate objective.

    loss = -min(ratio * A, clip(ratio, 1 - clip, 1 + clip_high) * A),  ratio = exp(logps - old_logps)

    Args:
      logps: Log-probs of the actions, nats, [N]; carries gradient.
      old_logps: The same under the policy that sampled them, nats, [N].
      advantages: Advantage of each action, [N].
      clip: Largest change of the ratio downwards, in (0, 1).
      clip_high: Largest change upwards, > 0 (DAPO's); None takes `clip`.
    Returns:
      Loss of each action, [N].
    Raises:
      ValueError: counts differ, or a clip is out of range.
    At logps == old_logps: -A, and the gradient is that of -A * logps, REINFORCE's.
    Source: Schulman et al. 2017, arXiv:1707.06347, Eq. 7; two ranges: Yu et al. 2025, arXiv:2503.14476, Eq. 10.
    """
    _check(logps, old_logps, advantages)
    if not 0 < clip < 1:
        raise ValueError(f"clip must be in (0, 1), got {clip}")
    ratio = (logps - old_logps).exp()
    high = _upper(clip if clip_high is None else clip_high)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, high) * advantages)


def weighted_likelihood(
    logps: Float[Tensor, " N"], old_logps: Float[Tensor, " N"], advantages: Float[Tensor, " N"], *, clip_high: float
) -> Float[Tensor, " N"]:
    """CISPO's policy loss: REINFORCE with a clipped importance weight, so that every action keeps a gradient.

    loss = -min(ratio, 1 + clip_high) * A * logps, the weight without gradient

    Args:
      logps: Log-probs of the actions, nats, [N]; carries gradient.
      old_logps: The same under the policy that sampled them, nats, [N].
      advantages: Advantage of each action, [N].
      clip_high: Largest weight above 1, > 0.
    Returns:
      Loss of each action, [N].
    Raises:
      ValueError: counts differ, or the clip is out of range.
    At logps == old_logps: -A * logps.
    Source: MiniMax 2025, arXiv:2506.13585, Eq. 4 and 5, without a lower clip, as there.
    """
    _check(logps, old_logps, advantages)
    weight = (logps - old_logps).exp().clamp(max=_upper(clip_high)).detach()
    return -weight * advantages * logps


def is_clipped(
    logps: Float[Tensor, " N"],
    old_logps: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip: float | None,
    clip_high: float | None = None,
) -> Float[Tensor, " N"]:
    """1 where a clip changes an action's gradient, else 0, [N]; without `clip`, where it bounds the weight of CISPO."""
    ratio = (logps - old_logps).exp()
    if clip is None:
        assert clip_high is not None
        return (ratio > _upper(clip_high)).to(logps.dtype)
    near = ratio.clamp(1 - clip, _upper(clip if clip_high is None else clip_high))
    return (ratio * advantages > near * advantages).to(logps.dtype)


def kl_loss(
    logps: Float[Tensor, " N"], old_logps: Float[Tensor, " N"], ref_logps: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """A KL penalty in the loss: k3 of each action, times its ratio to the policy that sampled it.

    loss = ratio * (e^x - 1 - x),  x = ref_logps - logps,  ratio = exp(logps - old_logps)

    Over samples of the old policy value and gradient are those of KL(policy || reference), however far the policy has
    moved. Without the ratio, as in the GRPO paper, the gradient is that of KL(reference || policy), whose optimum is
    another. Of tokens it is the KL of each given the tokens before it: the change of what comes before a token is not
    in the gradient.

    Args:
      logps: Log-probs of the actions, nats, [N]; carries gradient.
      old_logps: The same under the policy that sampled them, nats, [N].
      ref_logps: The same under the reference, nats, [N].
    Returns:
      Penalty of each action, nats, [N].
    Raises:
      ValueError: counts differ.
    At policy == reference: 0.
    Source: Shao et al. 2024, arXiv:2402.03300, Eq. 4, for k3; the ratio by derivation:
      E_old[ratio * (k3 * grad logps + grad k3)] = E_policy[-x * grad logps].
    """
    _check(logps, old_logps, ref_logps)
    x = ref_logps - logps
    return (logps - old_logps).exp() * (x.expm1() - x)


def _check(*values: Tensor) -> None:
    if len({each.shape for each in values}) != 1:
        raise ValueError(f"one figure of each kind an action, got {', '.join(str(len(each)) for each in values)}")


def _upper(clip_high: float) -> float:
    if not clip_high > 0:
        raise ValueError(f"clip_high must be > 0, got {clip_high}")
    return 1 + clip_high


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
