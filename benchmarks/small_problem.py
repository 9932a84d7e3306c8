"""One prompt with many responses, for which DPO and RLHF are computed exactly: every expectation is a finite sum.

Rewards here are log-linear, `features @ weights`, and so are policies, `reference x exp(features @ weights) / Z`. With
the identity as features both are free: one number a response.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

_TO_THE_END = {"maxiter": 5000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-12}


@dataclass(frozen=True, slots=True)
class Problem:
    """Responses to one prompt, with Bradley-Terry labels of the rewards.

    Attributes:
      log_reference: Log-probs of the responses under the reference, nats, [K].
      rewards: Of the responses, [K].
      beta: Strength of the KL constraint.
    """

    log_reference: Float[np.ndarray, " K"]
    rewards: Float[np.ndarray, " K"]
    beta: float


def log_partition(problem: Problem, rewards: Float[np.ndarray, " K"]) -> float:
    """log Z of `optimal_policy`: log sum of reference x exp(reward / beta)."""
    return float(np.logaddexp.reduce(problem.log_reference + rewards / problem.beta))


def optimal_policy(problem: Problem, rewards: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Log-probs of reference x exp(reward / beta) / Z, the best policy for E reward - beta KL.

    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 4.
    """
    return log_softmax(problem.log_reference + rewards / problem.beta)


def implied_rewards(problem: Problem, logps: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """beta x (log policy - log reference): the reward that a policy is the best one for."""
    return problem.beta * (logps - problem.log_reference)


def project(problem: Problem, rewards: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """reward - beta log Z: the one reward of its class that some policy implies.

    Source: Rafailov et al. 2023, arXiv:2305.18290, Section 5.1, Theorem 1 and Proposition 1.
    """
    return rewards - problem.beta * log_partition(problem, rewards)


def objective(problem: Problem, logps: Float[np.ndarray, " K"]) -> float:
    """E reward - beta KL(policy || reference) of a policy, by the true rewards."""
    return float((np.exp(logps) * (problem.rewards - implied_rewards(problem, logps))).sum())


def preferences(rewards: Float[np.ndarray, " K"]) -> Float[np.ndarray, "K K"]:
    """P(i beats j) of Bradley and Terry."""
    return expit(rewards[:, None] - rewards[None, :])


def expected_counts(problem: Problem) -> Float[np.ndarray, "K K"]:
    """How often i beats j among all pairs of two draws from the reference: the limit of many pairs. They sum to 1."""
    drawn = np.exp(problem.log_reference)
    counts = drawn[:, None] * drawn[None, :] * preferences(problem.rewards)
    np.fill_diagonal(counts, 0.0)
    return counts / counts.sum()


def drawn_counts(problem: Problem, num_pairs: int, seed: int) -> Int[np.ndarray, "K K"]:
    """How often i beats j among drawn pairs of different responses with drawn labels."""
    cells = expected_counts(problem)
    return np.random.default_rng(seed).multinomial(num_pairs, cells.reshape(-1)).reshape(cells.shape)


def fit_rewards(
    counts: Float[np.ndarray, "K K"] | Int[np.ndarray, "K K"], features: Float[np.ndarray, "K D"], *, prior: float = 0.0
) -> Float[np.ndarray, " K"]:
    """Rewards `features @ weights` of the highest Bradley-Terry likelihood: a reward model, fitted to its end.

    It is DPO of a log-linear policy as well: `project` of the result is what that policy implies, since its log Z
    cancels in every pair.

    Args:
      counts: How often i beat j.
      features: Of the responses.
      prior: Of the weights: `prior / 2 x |weights|^2` is added to the negative log-likelihood.
    """
    weights = counts / counts.sum()
    strength = prior / counts.sum()

    def loss(w: Float[np.ndarray, " D"]) -> tuple[float, Float[np.ndarray, " D"]]:
        rewards = features @ w
        gaps = rewards[:, None] - rewards[None, :]
        wrong = weights * expit(-gaps)
        slope = wrong.sum(0) - wrong.sum(1)
        value = (weights * np.logaddexp(0, -gaps)).sum() + strength / 2 * (w @ w)
        return float(value), features.T @ slope + strength * w

    found = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options=_TO_THE_END)
    return features @ found.x


def best_in_class(
    problem: Problem, rewards: Float[np.ndarray, " K"], features: Float[np.ndarray, "K D"]
) -> Float[np.ndarray, " K"]:
    """Log-probs of the log-linear policy that is best for some rewards: RLHF with a reward model, to its end."""

    def loss(w: Float[np.ndarray, " D"]) -> tuple[float, Float[np.ndarray, " D"]]:
        logps = log_softmax(problem.log_reference + features @ w)
        p, gains = np.exp(logps), rewards - implied_rewards(problem, logps)
        value = float(p @ gains)
        return -value, -(features.T @ (p * (gains - value)))

    starts = [np.zeros(features.shape[1]), *np.random.default_rng(0).normal(size=(8, features.shape[1]))]
    found = [minimize(loss, start, jac=True, method="L-BFGS-B", options=_TO_THE_END) for start in starts]
    return log_softmax(problem.log_reference + features @ min(found, key=lambda one: one.fun).x)


def direct_policy(
    problem: Problem,
    counts: Float[np.ndarray, "K K"] | Int[np.ndarray, "K K"],
    features: Float[np.ndarray, "K D"],
    *,
    prior: float = 0.0,
) -> Float[np.ndarray, " K"]:
    """Log-probs of the log-linear policy that DPO ends at."""
    return optimal_policy(problem, fit_rewards(counts, features, prior=prior))


def random_problem(seed: int, *, num: int, rank: int, beta: float = 1.0) -> tuple[Problem, Float[np.ndarray, "K D"]]:
    """Responses whose reward is linear in `rank` random features; and those features, with a standard normal each."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, rank))
    rewards = features @ rng.normal(size=rank)
    return Problem(np.log(softmax(rng.normal(size=num))), rewards, beta), features
