import numpy as np
import pytest
from scipy.stats import binomtest

from preftree.stats.intervals import bootstrap, mean, mean_interval, wilson


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 10), (158, 256), (1, 10_000)])
def test_wilson_equals_scipy_where_scipy_can(successes, trials, confidence):
    ours = wilson(successes, trials, confidence=confidence)
    theirs = binomtest(successes, trials).proportion_ci(confidence, "wilson")
    assert ours == pytest.approx((successes / trials, theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand():
    """z^2 = 3.84146: the centre is .5, the half width z sqrt(.025 + z^2 / 400) / (1 + z^2 / 10) = .2634069."""
    assert wilson(5, 10) == pytest.approx((0.5, 0.2365930905, 0.7634069095), abs=1e-9)


def test_a_tie_is_half_a_success():
    """3 wins, 4 ties, 3 losses: half; the interval of 5 wins in 10, which is wider than ties warrant."""
    assert wilson(3 + 4 / 2, 10) == wilson(5, 10)
    between = wilson(5.5, 10)
    assert between.value == 0.55
    assert wilson(5, 10).low < between.low < wilson(6, 10).low
    outcomes = np.array([1.0] * 3 + [0.5] * 4 + [0.0] * 3)
    exact = bootstrap(outcomes, seed=0)
    assert wilson(5, 10).high - wilson(5, 10).low > exact.high - exact.low


def test_wilson_covers():
    """Of 2000 samples of 50 trials at p = .3, about 95% of the intervals hold .3."""
    hits = np.random.default_rng(0).binomial(50, 0.3, 2000)
    covered = np.mean([wilson(int(k), 50).low <= 0.3 <= wilson(int(k), 50).high for k in hits])
    assert 0.93 < covered < 0.97


def test_mean_by_hand():
    """1, 2, 3, 4: sample variance 5/3, standard error sqrt(5/12)."""
    assert mean(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, (5 / 12) ** 0.5, 4))


def test_bootstrap_agrees_with_the_normal_interval_where_that_is_right():
    values = np.random.default_rng(1).normal(3, 2, 400)
    estimate = bootstrap(values, seed=0)
    half = 1.96 * mean(values).standard_error
    assert estimate.value == values.mean()
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    wider = bootstrap(values, seed=0, confidence=0.99)
    assert wider.low < estimate.low < estimate.high < wider.high


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(2).exponential(size=30)
    assert bootstrap(values, seed=7, resamples=500) == bootstrap(values, seed=7, resamples=500)
    assert bootstrap(values, seed=7, resamples=500) != bootstrap(values, seed=8, resamples=500)


def test_bootstrap_of_equal_values():
    assert bootstrap(np.full(5, 0.25), seed=0, resamples=100) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(1, 0), "trials must be > 0, got 0"),
        (lambda: wilson(11, 10), r"successes must be in \[0, 10\], got 11"),
        (lambda: wilson(-0.5, 10), r"successes must be in \[0, 10\], got -0.5"),
        (lambda: wilson(float("nan"), 10), "successes must be in"),
        (lambda: wilson(1, 10, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: mean(np.array([1.0])), "at least 2 values, got 1"),
        (lambda: mean(np.array([1.0, np.nan])), "values must be finite, got nan"),
        (lambda: bootstrap(np.array([1.0]), seed=0), "at least 2 values, got 1"),
        (lambda: bootstrap(np.array([1.0, np.inf]), seed=0), "values must be finite, got inf"),
        (lambda: bootstrap(np.array([1.0, 2.0]), seed=0, resamples=0), "resamples must be > 0, got 0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_interval_is_students() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5) = .7071, t of 4 degrees at 97.5 % = 2.7764."""
    found = mean_interval(np.array([1.0, 2, 3, 4, 5]))
    assert found == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_interval(np.array([1.0]))
