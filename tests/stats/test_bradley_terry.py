"""Strengths against Newton's method on the likelihood, by hand, and what is connected."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit

from preftree.stats.bradley_terry import components, resampled_strengths, strengths


def by_likelihood(wins: np.ndarray) -> np.ndarray:
    def loss(skill: np.ndarray) -> float:
        return -float((wins * log_expit(skill[:, None] - skill[None, :])).sum())

    skill = minimize(loss, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-9}).x
    return skill - skill.mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strengths_maximise_the_likelihood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 20, (5, 5)) / 2
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(strengths(wins), by_likelihood(wins), atol=1e-5)


def test_two_players_by_hand() -> None:
    np.testing.assert_allclose(
        strengths(np.array([[0.0, 3.0], [1.0, 0.0]])), [np.log(3) / 2, -np.log(3) / 2], atol=1e-6
    )


def test_what_is_connected() -> None:
    chain = np.zeros((5, 5))
    chain[0, 1] = chain[1, 2] = chain[2, 0] = 1  # a circle
    chain[3, 4] = chain[4, 3] = 0.5
    assert components(chain) == [[0, 1, 2], [3, 4]]
    chain[0, 3] = 5  # one group always wins: still two
    assert components(chain) == [[0, 1, 2], [3, 4]]
    chain[4, 1] = 0.5
    assert components(chain) == [[0, 1, 2, 3, 4]]


def test_a_cluster_stays_together() -> None:
    """All battles of one prompt: every resample is the same."""
    first, second, points = np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([[1.0, 1, 1], [0.0, 0, 0]])
    together = resampled_strengths(first, second, points, np.zeros(3, int), 2, seed=0, resamples=5)
    assert np.ptp(together, axis=0) == pytest.approx([0, 0])
    np.testing.assert_allclose(together[0], strengths(np.array([[0, 2.05], [1.05, 0]])), atol=1e-6)
    apart = resampled_strengths(first, second, points, np.arange(3), 2, seed=0, resamples=30)
    assert np.isfinite(apart).all() and np.ptp(apart[:, 0]) > 1
