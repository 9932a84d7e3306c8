"""The win rate at equal length: against statsmodels, against a judge whose preferences are known, and its edges."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from preftree.stats.length_control import Controlled, control_length, fit_lengths

LENGTH, LEFT, CLARITY = 1.5, 0.8, 1.0
"""What the judge adds for a much longer answer and for the left one, and how much prompts differ, in log-odds."""


@functools.cache
def middle(truth: float) -> float:
    """Mean log-odds of prompts that differ in clearness, where a win rate is `truth`."""
    clear = CLARITY * np.random.default_rng(0).normal(size=50_000)
    return brentq(lambda at: float(expit(at + clear).mean()) - truth, -3, 3)


def judged(seed: int, truth: float, num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Results in both orders and differences in length; without its two preferences the judge has this win rate."""
    rng = np.random.default_rng(seed)
    gaps = rng.normal(150, 300, num)
    better = middle(truth) + CLARITY * rng.normal(size=num) + LENGTH * np.tanh(gaps / gaps.std())
    return np.stack([rng.random(num) < expit(better + side) for side in (LEFT, -LEFT)], axis=1).astype(float), gaps


def control(values: np.ndarray, gaps: np.ndarray, **options: int) -> Controlled:
    return control_length(values, gaps, np.arange(len(gaps)), **options)


def of_statsmodels(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.api import GLM
        from statsmodels.genmod.families import Binomial
    orders = values.shape[1]
    x = np.repeat(np.tanh(gaps / gaps.std()), orders)
    columns = [np.ones(len(x)), x, *([np.tile([1.0, -1.0], len(gaps))] if orders == 2 else [])]
    return GLM(values.ravel(), np.stack(columns, axis=1), family=Binomial()).fit(tol=1e-14).params


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fit_is_the_one_of_statsmodels(seed: int) -> None:
    values, gaps = judged(seed, 0.65)
    values[::7] = 0.5
    for orders in (values, values.mean(1, keepdims=True)):
        np.testing.assert_allclose(
            fit_lengths(orders, gaps, np.ones((1, 400)))[0], of_statsmodels(orders, gaps), atol=1e-7
        )


def test_a_weight_of_two_is_a_row_twice() -> None:
    values, gaps = judged(3, 0.5, 40)
    weights = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(float)
    fits = fit_lengths(values, gaps, weights)
    for fit, weight in zip(fits, weights, strict=True):
        rows = np.repeat(np.arange(40), weight.astype(int))
        np.testing.assert_allclose(fit, of_statsmodels(values[rows], gaps[rows]), atol=1e-6)


@pytest.mark.parametrize("truth", [0.5, 0.65])
def test_length_and_side_are_taken_out(truth: float) -> None:
    """One order, both orders, controlled: raw rates lie by .08 and more, and six seeds' mean of the last by .03."""
    one, both, controlled = [], [], []
    for seed in range(6):
        values, gaps = judged(seed, truth)
        one.append(values[:, 0].mean())
        both.append(values.mean())
        rate = control(values, gaps, resamples=50).rate
        assert rate is not None
        controlled.append(rate.value)
    assert np.mean(one) > truth + 0.15
    assert np.mean(both) > truth + 0.03
    assert np.mean(controlled) == pytest.approx(truth, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.5, 0.65])
def test_thirty_seeds_and_coverage(truth: float) -> None:
    rates = [control(*judged(seed, truth), resamples=1 if seed >= 300 else 400).rate for seed in range(300)]
    assert all(rate is not None for rate in rates)
    values = np.array(rates)
    first = values[:30, 0]
    held = ((values[:, 1] <= truth) & (truth <= values[:, 2])).mean()
    print(
        f"truth {truth}: mean {first.mean():.4f}, of 300 {values[:, 0].mean():.4f}, sd {first.std():.4f}, held {held}"
    )
    assert abs(values[:, 0].mean() - truth) <= 0.01
    assert abs(first.mean() - truth) <= 0.01
    assert first.std() <= 0.03
    assert 0.92 <= held <= 0.98  # 93 to 97 %, and the chance of 300 draws


def test_a_side_against_itself_is_even_and_sides_turn() -> None:
    values, gaps = judged(0, 0.65)
    ahead, behind = control(values, gaps).rate, control(1 - values, -gaps).rate
    assert ahead is not None and behind is not None
    assert ahead.value + behind.value == pytest.approx(1, abs=1e-9)
    assert ahead.low + behind.high == pytest.approx(1, abs=0.02)
    mirrored = control(np.concatenate([values, 1 - values]), np.concatenate([gaps, -gaps]))
    assert mirrored.rate is not None and mirrored.rate.value == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "gaps", "said"),
    [
        ([[1.0]] * 9, range(9), "9 prompts are too few, wanted 10"),
        ([[1.0], [0.0]] * 10, [3.0] * 20, "the difference in length is the same on every prompt"),
        ([[1.0, 1.0]] * 20, range(20), "every prompt has the same winner"),
        ([[0.0]] * 10 + [[1.0]] * 10, range(1, 21), "alone says who wins, and one side is never the shorter one"),
        ([[0.0]] * 10 + [[1.0]] * 10, range(-10, 10), "the difference in length alone says who wins"),
    ],
)
def test_what_cannot_be_identified_is_said(values: list, gaps: list, said: str) -> None:
    found = control(np.array(values), np.array(gaps, np.float64))
    assert found[:3] == (None, None, None)
    assert said in found.reason


def test_a_prompt_counts_by_the_means_of_its_pairs() -> None:
    values, gaps = judged(0, 0.5, 60)
    once = control(values.reshape(30, 2, 2).mean(1), gaps.reshape(30, 2).mean(1))
    assert control_length(values, gaps, np.repeat(np.arange(30), 2)) == once


def test_ties_everywhere_are_even() -> None:
    found = control(np.full((20, 2), 0.5), np.arange(20.0))
    assert found.rate == pytest.approx((0.5, 0.5, 0.5)) and found.length == pytest.approx((0, 0, 0))
