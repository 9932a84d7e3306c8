"""What can be said exactly about a policy over a world: reward, KL, win rate, and the best that any policy can do.

A policy is a table of log-probs, one row a prompt and one column an outcome, [X, N]; rows sum to 1. Prompts are equally
likely: every figure is a mean over them. Where the outcomes are all that can happen, and `other` is one of them,
nothing is estimated. `other` lumps many token sequences together, so the KL counts them as one: it is a lower bound of
the KL over token sequences, by less than the mass of `other` has room for, and the frontier bounds both.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import logsumexp

Table = Float[np.ndarray, "X N"]


class Point(NamedTuple):
    """Where a policy stands: KL to the reference (nats) and expected reward."""

    kl: float
    reward: float


def measure(logps: Table, ref_logps: Table, rewards: Table) -> Point:
    """Exact KL(policy || reference) and expected reward of a policy.

    Args:
      logps: The policy's log-probs of all outcomes, nats; -inf is allowed.
      ref_logps: The reference's.
      rewards: The reward of each outcome.
    """
    mass = np.exp(logps)
    ratio = np.where(mass > 0, logps - ref_logps, 0.0)
    return Point(_mean(mass * ratio), _mean(mass * rewards))


def optimum(ref_logps: Table, rewards: Table, strength: float) -> Table:
    """The policy of highest E[reward] - KL / strength: reference x exp(strength x reward) / Z, as log-probs.

    Args:
      ref_logps: The reference's log-probs.
      rewards: The reward of each outcome.
      strength: label_scale / beta for DPO on labels drawn with P(a beats b) = sigmoid(label_scale x (r_a - r_b)).
    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 4.
    """
    tilted = ref_logps + strength * rewards
    return tilted - logsumexp(tilted, axis=1, keepdims=True)


def best_reward(ref_logps: Table, rewards: Table, kl: float) -> float:
    """The highest expected reward that any policy reaches at this KL or less.

    The KL is a mean over prompts, as in `measure`: prompts may share it out unevenly; they have one strength.

    Args:
      ref_logps: The reference's log-probs.
      rewards: The reward of each outcome.
      kl: Nats, >= 0.
    """

    def excess(log_strength: float) -> float:
        return measure(optimum(ref_logps, rewards, math.exp(log_strength)), ref_logps, rewards).kl - kl

    low, high = -20.0, 9.0
    if excess(low) >= 0:
        return measure(ref_logps, ref_logps, rewards).reward
    if excess(high) <= 0:
        return float(rewards.max(axis=1).mean())
    strength = math.exp(cast(float, brentq(excess, low, high, xtol=1e-9)))
    return measure(optimum(ref_logps, rewards, strength), ref_logps, rewards).reward


def best_of(num: int, ref_logps: Table, rewards: Table) -> Point:
    """Exact KL and expected reward of drawing `num` times from the reference and keeping the best.

    Outcomes of equal reward form a group; within it the policy keeps the reference's proportions. With F the share of
    outcomes below and including a group, the group is kept with probability F^num minus the same of the group below. At
    most ln(num) - (num - 1) / num nats, which it reaches where no two outcomes tie.
    """
    kl = reward = 0.0
    for logps, values in zip(ref_logps, rewards, strict=True):
        groups, mass = _by_reward(logps, values)
        below = np.concatenate([[0.0], np.cumsum(mass)])
        below /= below[-1]
        kept = np.diff(below**num)
        with np.errstate(divide="ignore", invalid="ignore"):
            kl += np.where(kept > 0, kept * np.log(kept / mass), 0.0).sum()
        reward += (kept * groups).sum()
    return Point(float(kl / len(rewards)), float(reward / len(rewards)))


def win_rate(logps: Table, other_logps: Table, rewards: Table) -> float:
    """Probability that a sample of one policy has the higher reward than a sample of another; ties count 1/2."""
    total = 0.0
    for one, other, values in zip(logps, other_logps, rewards, strict=True):
        _, mass = _by_reward(one, values)
        _, other_mass = _by_reward(other, values)
        total += (mass * (np.cumsum(other_mass) - other_mass / 2)).sum()
    return float(total / len(rewards))


def _by_reward(
    logps: Float[np.ndarray, " N"], rewards: Float[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """The different rewards, rising, and the mass of each."""
    groups, index = np.unique(rewards, return_inverse=True)
    return groups, np.bincount(index, weights=np.exp(logps), minlength=len(groups))


def _mean(values: Table) -> float:
    return float(values.sum(axis=1).mean())
