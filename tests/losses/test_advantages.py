"""Advantages against slow loops and numbers worked out by hand."""

from __future__ import annotations

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from preftree.losses.rl.advantages import (
    Moments,
    adapted_kl_coef,
    centred,
    explained_variance,
    gae,
    group_normalised,
    k1,
    k3,
    leave_one_out,
    penalised_rewards,
    whiten,
)

MISFIT = (ValueError, jaxtyping.TypeCheckError)  # shapes are checked by the annotations where those are on


def ragged(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, 7)
    total = int(counts.sum())
    return torch.from_numpy(rng.normal(size=total)), torch.from_numpy(rng.normal(size=total)), torch.from_numpy(counts)


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: a discounted sum of all later temporal differences."""
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, n)) for t in range(n)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0), (0.0, 0.7)])
def test_gae_is_the_sum_it_is_defined_as(gamma: float, lam: float) -> None:
    rewards, values, counts = ragged()
    advantages, returns = gae(rewards, values, counts, gamma=gamma, lam=lam)
    expected, start = [], 0
    for count in counts.tolist():
        stop = start + count
        expected += slow_gae(rewards[start:stop].tolist(), values[start:stop].tolist(), gamma, lam)
        start = stop
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, advantages + values, rtol=0, atol=0)


def test_gae_by_hand() -> None:
    # deltas: 1 + .5 * 4 - 2 = 1; 3 - 4 = -1; the second response has one token: 5 - 1 = 4.
    rewards, values = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 4.0, 1.0])
    advantages, returns = gae(rewards, values, torch.tensor([2, 1]), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [1 + 0.25 * -1, -1, 4]
    assert returns.tolist() == [2.75, 3, 5]


def test_gae_refuses_what_does_not_fit() -> None:
    rewards, values, counts = ragged()
    with pytest.raises(ValueError, match="lam must be in"):
        gae(rewards, values, counts, gamma=1.0, lam=1.1)
    with pytest.raises(ValueError, match="counts must sum"):
        gae(rewards, values, counts[1:], gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="must have a token"):
        gae(rewards[:1], values[:1], torch.tensor([1, 0]), gamma=1.0, lam=1.0)
    with pytest.raises(MISFIT):
        gae(rewards, values[1:], counts, gamma=1.0, lam=1.0)


def test_the_penalty_costs_where_the_policy_left_the_reference() -> None:
    """More likely than under the reference: a cost; and the score stands at the last token alone."""
    policy, ref = torch.tensor([-1.0, -2.0, -1.0]), torch.tensor([-3.0, -2.0, -0.5])
    kl = k1(policy, ref)
    assert kl.tolist() == [2.0, 0.0, -0.5]
    rewards = penalised_rewards(torch.tensor([10.0, 20.0]), kl, torch.tensor([2, 1]), kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([-0.2, 10.0, 20.05]))
    assert penalised_rewards(torch.tensor([10.0, 20.0]), kl, torch.tensor([2, 1]), kl_coef=0.0).tolist() == [0, 10, 20]


def test_both_kl_estimates_are_unbiased_and_k3_is_never_negative() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    logps, ref = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))
    exact = float((p * np.log(p / q)).sum())
    for estimator in (k1, k3):
        assert float(torch.from_numpy(p) @ estimator(logps, ref)) == pytest.approx(exact, abs=1e-12)
        with pytest.raises(MISFIT):
            estimator(logps, ref[1:])
    assert float(k3(logps, ref).min()) >= 0


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    rewards = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4)))
    expected = torch.zeros_like(rewards)
    for x in range(3):
        for i in range(4):
            expected[x, i] = rewards[x, i] - sum(float(rewards[x, j]) for j in range(4) if j != i) / 3
    torch.testing.assert_close(leave_one_out(rewards), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(rewards[:, :1])


def test_group_normalised_by_hand() -> None:
    found = group_normalised(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), eps=0.0001)
    torch.testing.assert_close(found, torch.tensor([[-1 / 1.0001, 0.0, 1 / 1.0001], [0.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="at least 2"):
        group_normalised(torch.ones(3, 1))


def test_centred_is_a_share_of_leaving_one_out() -> None:
    rewards = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4)))
    torch.testing.assert_close(centred(rewards), leave_one_out(rewards) * 3 / 4, rtol=1e-12, atol=0)
    assert centred(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-2.0, -1.0, 3.0]]


def test_whitened_is_centred_and_scaled() -> None:
    found = whiten(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert whiten(torch.ones(5)).tolist() == [0.0] * 5


def test_the_coefficient_follows_its_target() -> None:
    steer = {"target": 2.0, "horizon": 100.0, "num_responses": 10}
    assert adapted_kl_coef(0.5, 2.0, **steer) == 0.5
    assert adapted_kl_coef(0.5, 2.2, **steer) == pytest.approx(0.5 * (1 + 0.1 * 0.1))
    assert adapted_kl_coef(0.5, 1.8, **steer) == pytest.approx(0.5 * (1 - 0.1 * 0.1))
    assert adapted_kl_coef(0.5, 40.0, **steer) == pytest.approx(0.5 * 1.02)  # clipped at a fifth
    assert adapted_kl_coef(0.5, 0.0, **steer) == pytest.approx(0.5 * 0.98)


def test_moments_of_batches_are_those_of_all() -> None:
    values = torch.from_numpy(np.random.default_rng(2).normal(3, 7, 50))
    moments = Moments()
    assert moments.std == 1.0
    for part in values.split([1, 20, 29]):
        moments = moments.with_batch(part)
    assert moments.count == 50
    assert moments.mean == pytest.approx(float(values.mean()), abs=1e-12)
    assert moments.std == pytest.approx(float(values.std(correction=0)), abs=1e-12)
    assert Moments().with_batch(torch.ones(4)).std == 1.0  # all alike: nothing is divided by 0


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((4,), 9.0), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, torch.ones(4)) == 0
    assert math.isfinite(explained_variance(torch.zeros(1), torch.zeros(1)))
