import itertools
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from preftree.worlds.exact import best_of, best_reward, kl_and_reward, optimal_frontier, optimum, win_rate


def table(seed: int, *, prompts: int = 2, outcomes: int = 7) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(prompts, outcomes))
    return logits - logsumexp(logits, axis=1, keepdims=True)


REF = table(0)
REWARDS = np.random.default_rng(1).integers(0, 4, size=REF.shape) / 4  # many ties


def test_reward_and_kl_of_a_coin_by_hand() -> None:
    fair, biased = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    point = kl_and_reward(biased, fair, np.array([[1.0, 0.0]]))
    assert point.reward == pytest.approx(0.9)
    assert point.kl == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))


def test_an_outcome_without_mass_adds_nothing() -> None:
    sure = np.array([[0.0, -np.inf]])
    assert kl_and_reward(sure, np.log([[0.25, 0.75]]), np.array([[1.0, 0.0]])) == (pytest.approx(math.log(4)), 1.0)


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_no_policy_does_better_than_the_optimum(strength: float) -> None:
    def value(logps: np.ndarray) -> float:
        point = kl_and_reward(logps, REF, REWARDS)
        return point.reward - point.kl / strength

    best = value(optimum(REF, REWARDS, strength))
    # The free energy: log Z / strength.
    assert best == pytest.approx(logsumexp(REF + strength * REWARDS, axis=1).mean() / strength, abs=1e-12)
    for seed in range(50):
        assert value(table(seed)) < best


def test_best_reward_is_the_upper_edge_of_all_policies() -> None:
    for strength in (0.5, 3.0, 12.0):
        point = kl_and_reward(optimum(REF, REWARDS, strength), REF, REWARDS)
        assert optimal_frontier(REF, REWARDS, [strength])[0] == pytest.approx(point, abs=1e-12)
        assert best_reward(REF, REWARDS, point.kl) == pytest.approx(point.reward, abs=1e-7)
    for seed in range(50):
        point = kl_and_reward(table(seed), REF, REWARDS)
        assert point.reward <= best_reward(REF, REWARDS, point.kl) + 1e-9
    assert best_reward(REF, REWARDS, 0.0) == pytest.approx(kl_and_reward(REF, REF, REWARDS).reward)
    assert best_reward(REF, REWARDS, 50.0) == pytest.approx(REWARDS.max(axis=1).mean())


@pytest.mark.parametrize("num", [1, 2, 3])
def test_best_of_n_against_all_tuples_of_draws(num: int) -> None:
    kl = expected = 0.0
    for logps, values in zip(REF, REWARDS, strict=True):
        kept = np.zeros(len(logps))
        for draws in itertools.product(range(len(logps)), repeat=num):
            chance = math.exp(sum(logps[i] for i in draws))
            best = [i for i in draws if values[i] == max(values[j] for j in draws)]
            for i in best:
                kept[i] += chance / len(best)
        kl += (kept * (np.log(kept) - logps)).sum() / len(REF)
        expected += (kept * values).sum() / len(REF)
    point = best_of(num, REF, REWARDS)
    assert point.kl == pytest.approx(kl, abs=1e-12)
    assert point.reward == pytest.approx(expected, abs=1e-12)


def test_best_of_n_without_ties_reaches_its_bound() -> None:
    many = np.full((1, 100_000), -math.log(100_000))
    rewards = np.arange(100_000, dtype=float)[None]
    for num in (2, 3, 16):
        point = best_of(num, many, rewards)
        bound = math.log(num) - (num - 1) / num
        assert bound - 1e-3 < point.kl <= bound


def test_win_rate_against_all_pairs_of_draws() -> None:
    other = table(5)
    expected = 0.0
    for p, q, values in zip(np.exp(REF), np.exp(other), REWARDS, strict=True):
        wins = (values[:, None] > values[None, :]) + 0.5 * (values[:, None] == values[None, :])
        expected += (p @ wins @ q) / len(REF)
    assert win_rate(REF, other, REWARDS) == pytest.approx(expected, abs=1e-12)
    assert win_rate(REF, REF, REWARDS) == pytest.approx(0.5)
