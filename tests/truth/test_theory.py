"""Rafailov et al. 2023, Sections 4 and 5, in numbers; and where DPO and RLHF part."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from preftree.losses.registry import bind
from preftree.losses.types import PairLogps
from preftree.worlds.bandit import Bandit, optimise, total_variation
from small_problem import (
    Problem,
    best_in_class,
    direct_policy,
    drawn_counts,
    expected_counts,
    fit_rewards,
    implied_rewards,
    log_partition,
    objective,
    optimal_policy,
    preferences,
    project,
    random_problem,
)

BETAS = (0.05, 0.5, 1.0, 3.0)


def problem_of(beta: float, seed: int = 0) -> Problem:
    return replace(random_problem(seed, num=12, rank=3)[0], beta=beta)


@pytest.mark.parametrize("beta", BETAS)
def test_the_partition_function_cancels(beta: float) -> None:
    """Eq. 5 and 6: the optimum implies the reward less beta log Z; between two responses and in the loss Z is gone."""
    problem = problem_of(beta)
    best = optimal_policy(problem, problem.rewards)
    implied = implied_rewards(problem, best)
    shift = beta * log_partition(problem, problem.rewards)
    assert abs(shift) > 0.01
    np.testing.assert_allclose(implied, problem.rewards - shift, atol=1e-9)
    np.testing.assert_allclose(preferences(implied), preferences(problem.rewards), atol=1e-9)
    # DPO's loss at the optimum is the entropy of the labels, whatever Z: here with its own function, on one pair.
    one = torch.ones(1, dtype=torch.int64)
    policy, ref = (
        PairLogps(torch.tensor(values[:1]), torch.tensor(values[1:2]), one, one)
        for values in (best, problem.log_reference)
    )
    loss = bind("dpo", {"beta": beta})(policy=policy, ref=ref)
    assert loss.item() == pytest.approx(-np.log(preferences(problem.rewards)[0, 1]), rel=1e-5)


@pytest.mark.parametrize("shift", [-7.0, 0.3, 100.0])
def test_rewards_of_a_class_share_preferences_and_the_best_policy(shift: float) -> None:
    """Lemmas 1 and 2."""
    problem = problem_of(0.5)
    other = problem.rewards + shift
    np.testing.assert_allclose(preferences(other), preferences(problem.rewards), atol=1e-12)
    np.testing.assert_allclose(optimal_policy(problem, other), optimal_policy(problem, problem.rewards), atol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_every_class_has_a_reward_that_a_policy_implies(beta: float) -> None:
    """Theorem 1: the projection is of the same class, and is beta log(policy / reference) of a policy with sum 1."""
    problem = problem_of(beta, seed=1)
    for rewards in np.random.default_rng(0).normal(scale=5.0, size=(20, 12)):
        found = project(problem, rewards)
        assert np.ptp(found - rewards) < 1e-9
        logps = problem.log_reference + found / beta
        assert np.exp(logps).sum() == pytest.approx(1.0)
        np.testing.assert_allclose(logps, optimal_policy(problem, rewards), atol=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_and_only_one(beta: float) -> None:
    """Proposition 1: sum of reference x exp((reward - c) / beta) falls in c, so it is 1 once: at beta log Z."""
    problem = problem_of(beta, seed=2)

    def mass(c: float) -> float:
        return log_partition(problem, problem.rewards - c)

    grid = np.linspace(-50, 50, 101)
    assert (np.diff([mass(c) for c in grid]) < 0).all()
    (root,) = [brentq(mass, a, b) for a, b in itertools.pairwise(grid) if mass(a) > 0 >= mass(b)]
    assert root == pytest.approx(beta * log_partition(problem, problem.rewards), abs=1e-6)


def test_without_coverage_no_policy_implies_the_reward() -> None:
    """Theorem 1 asks for a reference above zero: what it never says, no tilt of it ever says, at any reward."""
    problem = Problem(np.array([np.log(0.5), np.log(0.5), -np.inf]), np.array([0.0, 1.0, 9.0]), 1.0)
    best = optimal_policy(problem, problem.rewards)
    assert best[2] == -np.inf
    np.testing.assert_allclose(best, optimal_policy(problem, np.array([0.0, 1.0, -9.0])))


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_with_endless_pairs_both_roads_meet(beta: float) -> None:
    """A reward model fitted and then maximised, our bandit's DPO, and the closed form are one policy."""
    problem = problem_of(beta, seed=3)
    bandit = Bandit(tuple(np.exp(problem.log_reference).tolist()), tuple(problem.rewards.tolist()))
    closed = np.exp(optimal_policy(problem, problem.rewards))
    rlhf = np.exp(optimal_policy(problem, fit_rewards(expected_counts(problem), np.eye(12))))
    dpo = optimise("dpo", {"beta": beta}, bandit)
    assert total_variation(rlhf, closed) < 1e-5
    assert total_variation(dpo, closed) < 1e-5


@pytest.mark.parametrize("num", [30, 300])
def test_as_free_a_reward_model_gives_the_same_policy_from_any_pairs(num: int) -> None:
    """One likelihood in two parametrisations: DPO's own loss on drawn pairs, against a reward model that is fitted and
    then maximised. The prior is of rewards less their mean, which is what a constant of the prompt leaves of them."""
    problem, _ = random_problem(4, num=20, rank=3)
    counts, prior = drawn_counts(problem, num, 0), 0.3
    winner, loser = (torch.from_numpy(side) for side in np.nonzero(counts))
    weight = torch.from_numpy(counts[winner, loser]).double()
    ref, loss, one = torch.from_numpy(problem.log_reference), bind("dpo", {"beta": 1.0}), torch.ones_like(winner)
    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=2000, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        policy = logits.log_softmax(0)
        own = policy - ref
        pairs = [PairLogps(values[winner], values[loser], one, one) for values in (policy, ref)]
        value = (weight * loss(policy=pairs[0], ref=pairs[1])).sum() + prior / 2 * (own - own.mean()).square().sum()
        value.backward()
        return value

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  # the stubs want a number
    dpo = logits.detach().softmax(0).numpy()
    rlhf = np.exp(optimal_policy(problem, fit_rewards(counts, np.eye(20), prior=prior)))
    assert total_variation(rlhf, dpo) < 1e-5


def test_a_small_reward_model_needs_fewer_pairs_than_a_free_policy() -> None:
    regrets = []
    for seed in range(6):
        problem, features = random_problem(seed, num=64, rank=4)
        counts = drawn_counts(problem, 400, seed)
        best = objective(problem, optimal_policy(problem, problem.rewards))
        rlhf = optimal_policy(problem, fit_rewards(counts, features, prior=1.0))
        dpo = direct_policy(problem, counts, np.eye(64), prior=0.25)
        regrets.append((best - objective(problem, rlhf), best - objective(problem, dpo)))
    assert all(0 <= rlhf < dpo for rlhf, dpo in regrets), regrets
    assert np.mean([dpo for _, dpo in regrets]) > 5 * np.mean([rlhf for rlhf, _ in regrets])


def test_a_policy_too_small_to_be_right_is_where_rlhf_knows_more() -> None:
    """DPO fits the labels with what the policy can say; RLHF fits the reward, and asks the policy for its best."""
    gaps = []
    for seed in range(6):
        problem, _ = random_problem(seed, num=32, rank=4)
        own = np.random.default_rng(1000 + seed).normal(size=(32, 6))
        rlhf = objective(problem, best_in_class(problem, problem.rewards, own))
        dpo = objective(problem, direct_policy(problem, expected_counts(problem), own))
        gaps.append(rlhf - dpo)
    assert min(gaps) > 0 and np.mean(gaps) > 0.1, gaps


def test_the_best_of_a_class_against_a_grid() -> None:
    """Two features: no policy on a fine grid is better, and one comes as near as the grid is fine."""
    problem, _ = random_problem(7, num=10, rank=2)
    own = np.random.default_rng(7).normal(size=(10, 2))
    found = objective(problem, best_in_class(problem, problem.rewards, own))
    axis = np.linspace(-6, 6, 121)
    values = [
        objective(problem, logps - np.logaddexp.reduce(logps))
        for a in axis
        for b in axis
        for logps in [problem.log_reference + own @ np.array([a, b])]
    ]
    assert max(values) <= found + 1e-9
    assert max(values) > found - 0.02
