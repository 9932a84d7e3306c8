"""What to ask next: the pair from which a model of preferences learns most, the closest call, or the clearest."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

Purpose: TypeAlias = Literal["random", "d-optimal", "near-tie", "gap"]

AT_RANDOM = 0.1
"""Share of picks that are random, whatever the purpose: estimates from them are unbiased."""

RIDGE = 1.0
_MOST_STEPS = 50


class Taste(NamedTuple):
    """A linear model of preferences between responses with features.

    Attributes:
      weights: Log-odds of a preference for each unit of a difference of features, [D].
      covariance: Inverse Hessian of the penalised likelihood: what is not known of the weights, [D, D].
    """

    weights: Float[np.ndarray, " D"]
    covariance: Float[np.ndarray, "D D"]


class Picks(NamedTuple):
    """Pairs to ask next, in order.

    Attributes:
      candidate: Which candidates, [K].
      at_random: Whether each came from the random share, [K].
      p_pick: Probability with which it was taken at its turn, given the picks before it, [K].
    """

    candidate: Int[np.ndarray, " K"]
    at_random: Bool[np.ndarray, " K"]
    p_pick: Float[np.ndarray, " K"]


def fit_taste(
    differences: Float[np.ndarray, "V D"], for_first: Float[np.ndarray, " V"], *, ridge: float = RIDGE
) -> Taste:
    """Ridge logistic regression of votes on differences of features, by Newton's method.

    Args:
      differences: Features of the first response minus those of the second, [V, D].
      for_first: 1 where the first was preferred, 0 where the second was, .5 for a tie; or a probability, [V].
      ridge: Weight of half the squared norm of the weights, > 0.
    Source: Bradley and Terry 1952, Biometrika 39, p. 324 (the model), with features in place of a number for each.
    """
    weights = np.zeros(differences.shape[1])
    hessian = ridge * np.eye(len(weights))
    for _ in range(_MOST_STEPS):
        chance = expit(differences @ weights)
        hessian = (differences * (chance * (1 - chance))[:, None]).T @ differences + ridge * np.eye(len(weights))
        step = np.linalg.solve(hessian, differences.T @ (for_first - chance) - ridge * weights)
        weights = weights + step * min(1.0, 5 / max(float(np.abs(step).max(initial=0)), 1e-300))
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return Taste(weights, np.linalg.inv(hessian))


def pick_pairs(
    differences: Float[np.ndarray, "N D"],
    taste: Taste,
    purpose: Purpose,
    count: int,
    generator: np.random.Generator,
) -> Picks:
    """Choose pairs among candidates; at each turn at random with probability `AT_RANDOM`, else by the purpose.

    `d-optimal` takes the pair of the greatest p (1 - p) x' A x, x its difference and A what is not known of the
    weights, and takes from A what that pair's answer will tell before the next, so that a batch does not ask one thing
    many times. `near-tie` takes the pair of the smallest |x' w|. `gap` takes the largest: clear pairs, for training a
    policy, and the poorest choice for learning the order.

    Args:
      differences: Features of the first response minus those of the second, of each candidate, [N, D].
      taste: The model of the votes so far.
      purpose: What the picks are for.
      count: Number of picks K; all candidates where there are fewer.
      generator: Source of the random share.
    Source: Fedorov 1972, "Theory of optimal experiments" (D-optimal designs, one pair at a time).
    """
    num, covariance = len(differences), taste.covariance.copy()
    logits = differences @ taste.weights
    bent = expit(logits) * expit(-logits)
    left = np.ones(num, bool)
    index, at_random, p_pick = [], [], []
    spread = bent * np.einsum("nd,de,ne->n", differences, covariance, differences)
    share = 1.0 if purpose == "random" else AT_RANDOM
    for _ in range(min(count, num)):
        worth = {"d-optimal": spread, "near-tie": -np.abs(logits), "gap": np.abs(logits), "random": spread}[purpose]
        best = int(np.argmax(np.where(left, worth, -np.inf)))
        chance = generator.random() < share
        chosen = int(generator.choice(np.flatnonzero(left))) if chance else best
        index.append(chosen)
        at_random.append(chance)
        p_pick.append(share / left.sum() + (1 - share) * (chosen == best))
        left[chosen] = False
        if purpose == "d-optimal":
            along = covariance @ differences[chosen]
            scale = bent[chosen] / (1 + bent[chosen] * float(differences[chosen] @ along))
            covariance -= scale * np.outer(along, along)
            spread -= bent * scale * (differences @ along) ** 2
    return Picks(np.array(index, np.int64), np.array(at_random, bool), np.array(p_pick, np.float64))
