"""Advantages of sampled responses, per token or per response, and their statistics.

Values over tokens are ragged: response after response and in token order, [I], with the token count of each, [R].
Nothing here carries a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.lists import filled, spread


def k1(policy: Float[Tensor, " N"], ref: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The log-ratio, an unbiased estimate of KL(policy || reference) from one sample of the policy.

    k1 = policy - ref

    Subtracted from a reward it has the right gradient as well: E[k1 * grad policy] = grad KL(policy || reference). No
    other estimator has it there; k3 gives grad KL(policy || reference) - grad KL(reference || policy). As a loss it has
    none: E[grad k1] = 0.

    Args:
      policy: Log-probs of the policy's samples, nats, [N].
      ref: The same under the reference, nats, [N].
    Raises:
      ValueError: counts differ.
    At policy == reference: 0.
    Source: Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html; gradients by derivation.
    """
    if policy.shape != ref.shape:
        raise ValueError(f"policy and ref must have one log-prob each, got {len(policy)} and {len(ref)}")
    return policy - ref


def k3(policy: Float[Tensor, " N"], ref: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """An estimate of KL(policy || reference) that is unbiased and never negative: to be read, not to be descended.

    k3 = e^(ref - policy) - 1 - (ref - policy)

    Its variance is smaller than that of `k1` for similar policies, and larger for different ones. As a loss its
    gradient is that of KL(reference || policy): `kl_loss` of policy_gradient.py has the right one.

    Args:
      policy: Log-probs of the policy's samples, nats, [N].
      ref: The same under the reference, nats, [N].
    Raises:
      ValueError: counts differ.
    At policy == reference: 0.
    Source: Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html; the gradient by
      derivation.
    """
    x = -k1(policy, ref)
    return x.expm1() - x


def penalised_rewards(
    scores: Float[Tensor, " R"], kl: Float[Tensor, " I"], count_R: Int[Tensor, " R"], *, kl_coef: float
) -> Float[Tensor, " I"]:
    """Reward of each token: the KL penalty, and at the last token the response's score.

    reward_t = -kl_coef * kl_t + [t is the last] * score

    Args:
      scores: Score of each response, [R].
      kl: Estimate at each token, nats, [I].
      count_R: Tokens of each response, at least 1, [R].
      kl_coef: Penalty per nat.
    Raises:
      ValueError: a response has no token, or counts do not fit.
    Source: Ziegler et al. 2019, arXiv:1909.08593, Eq. 2; Ouyang et al. 2022, arXiv:2203.02155, Appendix C.
    """
    _check(kl, count_R)
    if scores.shape != count_R.shape:
        raise ValueError(f"scores must hold one for each of {len(count_R)} responses, got {len(scores)}")
    last = count_R.cumsum(0) - 1
    return (-kl_coef * kl).index_add(0, last, scores.to(kl.dtype))


def gae(
    rewards: Float[Tensor, " I"],
    values: Float[Tensor, " I"],
    count_R: Int[Tensor, " R"],
    *,
    gamma: float,
    lam: float,
) -> tuple[Float[Tensor, " I"], Float[Tensor, " I"]]:
    """Generalised advantage estimates, and the returns to which values are fitted.

    delta_t = reward_t + gamma * value_{t+1} - value_t,  advantage_t = delta_t + gamma * lam * advantage_{t+1}, with
    value and advantage 0 past the last token;  return_t = advantage_t + value_t.

    Args:
      rewards: Reward of each token, [I].
      values: Value of the state before each token, [I].
      count_R: Tokens of each response, at least 1, [R].
      gamma: Discount, in [0, 1].
      lam: Weight of later rewards against the next value, in [0, 1]; 1 uses rewards alone, 0 the next value alone.
    Returns:
      Advantages and returns, [I] each.
    Raises:
      ValueError: counts do not fit, or gamma or lam is out of range.
    Source: Schulman et al. 2015, arXiv:1506.02438, Eqs. 11 to 16.
    """
    _check(rewards, count_R)
    if values.shape != rewards.shape:
        raise ValueError(f"values must be one for each of {len(rewards)} rewards, got {len(values)}")
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {number}")
    inside = filled(count_R)
    rewards_RT = spread(rewards, count_R, fill=0.0)
    values_RT = spread(values, count_R, fill=0.0)
    advantages = torch.zeros_like(rewards_RT)
    ahead = following = torch.zeros(len(count_R), dtype=rewards.dtype, device=rewards.device)
    for t in reversed(range(inside.shape[1])):
        slope = rewards_RT[:, t] + gamma * following - values_RT[:, t]
        ahead = torch.where(inside[:, t], slope + gamma * lam * ahead, 0.0)
        following = values_RT[:, t]
        advantages[:, t] = ahead
    flat = advantages[inside]
    return flat, flat + values


def leave_one_out(rewards: Float[Tensor, "X K"]) -> Float[Tensor, "X K"]:
    """RLOO: a response's reward minus the mean reward of the other responses to its prompt.

    advantage_i = reward_i - (1 / (K - 1)) sum_{j != i} reward_j

    Args:
      rewards: Rewards of K >= 2 responses to each of X prompts, the KL penalty included, [X, K].
    Raises:
      ValueError: one response a prompt.
    Source: Ahmadian et al. 2024, arXiv:2402.14740, Section 3; Kool et al. 2019.
    """
    if rewards.shape[1] < 2:
        raise ValueError("leaving one out needs at least 2 responses to a prompt, got 1")
    num = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (num / (num - 1))


def centred(rewards: Float[Tensor, "X K"]) -> Float[Tensor, "X K"]:
    """Dr. GRPO: a response's reward minus the mean reward of all responses to its prompt.

    advantage_i = reward_i - mean_j reward_j, which is (K - 1) / K of RLOO's

    Args:
      rewards: Rewards of K responses to each of X prompts, [X, K].
    Source: Liu et al. 2025, arXiv:2503.20783, Section 3.2.
    """
    return rewards - rewards.mean(1, keepdim=True)


def group_normalised(rewards: Float[Tensor, "X K"], *, eps: float = 1e-4) -> Float[Tensor, "X K"]:
    """GRPO: a response's reward minus the mean reward of its prompt's responses, divided by their standard deviation.

    advantage_i = (reward_i - mean_j reward_j) / (std_j reward_j + eps), std with K - 1

    Args:
      rewards: Rewards of K >= 2 responses to each of X prompts, [X, K].
      eps: Added to the standard deviation, so that equal rewards have advantage 0.
    Raises:
      ValueError: one response a prompt.
    Source: Shao et al. 2024, arXiv:2402.03300, Section 4.1.2.
    """
    if rewards.shape[1] < 2:
        raise ValueError("a group needs at least 2 responses to a prompt, got 1")
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + eps)


def whiten(values: Float[Tensor, " N"], *, eps: float = 1e-8) -> Float[Tensor, " N"]:
    """Values shifted to mean 0 and scaled to standard deviation 1 (over N); equal values become 0."""
    centred = values - values.mean()
    return centred / (centred.square().mean() + eps).sqrt()


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, horizon: float, num_responses: int) -> float:
    """The KL coefficient after a batch: larger where the KL was above its target, smaller where it was below.

    kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_responses / horizon)

    Args:
      kl_coef: Coefficient before the batch.
      kl: Mean KL of a response in the batch, nats.
      target: Target of the mean KL, nats.
      horizon: Responses over which the coefficient changes by at most 20 %.
      num_responses: Responses of the batch.
    Source: Ziegler et al. 2019, arXiv:1909.08593, Section 2.2; their K_beta is num_responses / horizon.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_responses / horizon)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of all numbers so far.

    Attributes:
      count: Number of values.
      mean: Their mean.
      square: Sum of their squared distances from it.
    """

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0

    @property
    def std(self) -> float:
        """Standard deviation (over N); 1 if all numbers are equal, to avoid a division by 0."""
        deviation = (self.square / self.count) ** 0.5 if self.count else 0.0
        return deviation if deviation > 1e-8 else 1.0

    def with_batch(self, values: Float[Tensor, " N"]) -> Moments:
        """The moments including further numbers. Source: Chan, Golub and LeVeque 1979."""
        wide = values.double()
        num = len(wide)
        mean = float(wide.mean())
        square = float((wide - mean).square().sum())
        total, gap = self.count + num, mean - self.mean
        return Moments(total, self.mean + gap * num / total, self.square + square + gap**2 * self.count * num / total)


def explained_variance(values: Float[Tensor, " I"], returns: Float[Tensor, " I"]) -> float:
    """1 - var(returns - values) / var(returns): 1 for perfect values, 0 for a constant; 0 where returns do not vary."""
    spread_of = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / spread_of if spread_of > 0 else 0.0


def _check(values: Tensor, count_R: Tensor) -> None:
    if int(count_R.sum()) != len(values):
        raise ValueError(f"counts must sum to the number of tokens, got {int(count_R.sum())} and {len(values)}")
    if len(count_R) and int(count_R.min()) < 1:
        raise ValueError("every response must have a token")
