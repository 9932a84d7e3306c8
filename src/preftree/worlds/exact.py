"""Exact figures of a policy over a world: reward, KL, win rate, and the best of any policy.

A policy is a table of log-probs, one row a prompt and one column an outcome, [X, N]; rows sum to 1. Prompts are equally
likely: every figure is a mean over them. Where the outcomes are all that can happen, and `other` is one of them,
nothing is estimated. `other` lumps many token sequences together, which is right for rewards and for the best of any
policy, and a lower bound of a KL: `kl_by_token` tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr, softmax

Table = Float[np.ndarray, "X N"]


class RewardAtKl(NamedTuple):
    """KL of a policy to the reference (nats) and its expected reward."""

    kl: float
    reward: float


class Outcomes(NamedTuple):
    """A policy over a world and where it leaves it.

    Attributes:
      logps: Log-probs of every outcome, [X, N]; the last is `other`.
      exits: Log-probs of leaving the world after each prefix of words, by an end that comes too early and by any other
        token, [X, E]; their sum is `other`.
    """

    logps: Table
    exits: Float[np.ndarray, "X E"]


def kl_by_token(policy: Outcomes, reference: Outcomes) -> float:
    """KL(policy || reference) over token sequences, up to the token by which a text leaves the world.

    The sum, over the prefixes that are still in the world, of the policy's probability of them times the KL of the next
    token; tokens that are neither words nor the end count as one. What follows such a token is not walked.

    Args:
      policy, reference: From `walk_outcomes`, over the same world with the same tokenizer.
    """
    ours, theirs = (np.concatenate([side.logps[:, :-1], side.exits], axis=1) for side in (policy, reference))
    ratio = np.subtract(ours, theirs, out=np.zeros_like(ours), where=np.isfinite(ours))
    return float((np.exp(ours) * ratio).sum(axis=1).mean())


def kl_and_reward(logps: Table, ref_logps: Table, rewards: Table) -> RewardAtKl:
    """Exact KL(policy || reference) over outcomes, and expected reward, of a policy.

    Args:
      logps: The policy's log-probs of all outcomes, nats; -inf is allowed.
      ref_logps: The reference's.
      rewards: The reward of each outcome.
    """
    mass = np.exp(logps)
    ratio = np.where(mass > 0, logps - ref_logps, 0.0)
    kl, reward = (float((mass * values).sum(axis=1).mean()) for values in (ratio, rewards))
    return RewardAtKl(kl, reward)


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


def optimal_frontier(ref_logps: Table, rewards: Table, strengths: Sequence[float]) -> list[RewardAtKl]:
    """KL and reward of the optimum of each strength: the upper edge of what any policy can reach.

    Outcomes of equal reward keep the reference's proportions, so the points follow from the mass of each reward alone.
    """
    prompts = _by_prompt(ref_logps, rewards)
    return [_optimum_point(prompts, strength) for strength in strengths]


def best_reward(ref_logps: Table, rewards: Table, kl: float) -> float:
    """The highest expected reward that any policy reaches at this KL or less.

    The KL is a mean over prompts, as in `kl_and_reward`: prompts may share it out unevenly; they have one strength.

    Args:
      ref_logps: The reference's log-probs.
      rewards: The reward of each outcome.
      kl: Nats, >= 0.
    """
    prompts = _by_prompt(ref_logps, rewards)
    low, high = -20.0, 9.0  # of the strength's logarithm
    if kl <= _optimum_point(prompts, math.exp(low)).kl:
        return kl_and_reward(ref_logps, ref_logps, rewards).reward
    if kl >= _optimum_point(prompts, math.exp(high)).kl:
        return float(np.mean([groups[-1] for groups, _ in prompts]))
    strength = brentq(lambda x: _optimum_point(prompts, math.exp(x)).kl - kl, low, high, xtol=1e-9)
    return _optimum_point(prompts, math.exp(cast(float, strength))).reward


def best_of(num: int, ref_logps: Table, rewards: Table) -> RewardAtKl:
    """Exact KL and expected reward of drawing `num` times from the reference and keeping the best.

    Outcomes of equal reward form a group; within it the policy keeps the reference's proportions. With F the share of
    outcomes below and including a group, the group is kept with probability F^num minus the same of the group below. At
    most ln(num) - (num - 1) / num nats, which it reaches where no two outcomes tie.
    """
    points = []
    for groups, mass in _by_prompt(ref_logps, rewards):
        below = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
        points.append(_point(np.diff(below**num), groups, mass))
    return _mean_point(points)


def win_rate(logps: Table, other_logps: Table, rewards: Table) -> float:
    """Probability that a sample of one policy has the higher reward than a sample of another; ties count 1/2."""
    total = 0.0
    for row, other, values in zip(logps, other_logps, rewards, strict=True):
        groups, index = np.unique(values, return_inverse=True)
        mass, other_mass = (np.bincount(index, np.exp(logps), len(groups)) for logps in (row, other))
        total += (mass * (np.cumsum(other_mass) - other_mass / 2)).sum()
    return float(total / len(rewards))


def _by_prompt(logps: Table, rewards: Table) -> list[tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]]:
    """For each prompt the different rewards that have any mass, rising, and the mass of each."""
    grouped = []
    for row, values in zip(logps, rewards, strict=True):
        groups, index = np.unique(values, return_inverse=True)
        mass = np.bincount(index, weights=np.exp(row), minlength=len(groups))
        grouped.append((groups[mass > 0], mass[mass > 0]))
    return grouped


def _optimum_point(prompts: Sequence[tuple[np.ndarray, np.ndarray]], strength: float) -> RewardAtKl:
    return _mean_point([_point(softmax(np.log(mass) + strength * groups), groups, mass) for groups, mass in prompts])


def _point(kept: Float[np.ndarray, " G"], groups: Float[np.ndarray, " G"], mass: Float[np.ndarray, " G"]) -> RewardAtKl:
    """A policy that gives the groups these masses, against a reference that gives them others."""
    return RewardAtKl(float(rel_entr(kept, mass).sum()), float((kept * groups).sum()))


def _mean_point(points: Sequence[RewardAtKl]) -> RewardAtKl:
    return RewardAtKl(*(float(np.mean(figures)) for figures in zip(*points, strict=True)))
