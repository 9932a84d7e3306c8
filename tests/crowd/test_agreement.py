"""Alpha against `krippendorff`, its interval against simulations, and what is undefined."""

import warnings

import krippendorff
import numpy as np
import pytest
from scipy.special import expit

from preftree.crowd.agreement import agreement, consistency


def long(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table of annotators and units, with nan where there is no value, as units and values."""
    annotator, unit = np.nonzero(~np.isnan(table))
    return unit, table[annotator, unit]


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@pytest.mark.parametrize("seed", range(50))
def test_alpha_is_that_of_krippendorff(seed, level):
    generator = np.random.default_rng(seed)
    people, units = generator.integers(2, 9), generator.integers(4, 40)
    table = generator.choice([0, 0.5, 1, 2][: generator.integers(2, 5)], (people, units)).astype(float)
    table[generator.random(table.shape) < generator.choice([0, 0.3, 0.6])] = np.nan
    found = agreement(*long(table), level)
    paired = (~np.isnan(table)).sum(0) >= 2
    assert found.units == paired.sum() and found.values == (~np.isnan(table))[:, paired].sum()
    if found.alpha is None:
        assert len(np.unique(table[:, paired][~np.isnan(table[:, paired])])) < 2
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
    assert found.alpha == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    """Two people on four pairs, one disagreement: observed 2 / 8; expected 2 x 3 x 5 / (8 x 7)."""
    found = agreement(np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([1, 1, 0, 0, 1, 1, 1, 0.0]))
    assert found.alpha == pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)), abs=1e-15)
    assert (found.low, found.high) == (None, None)  # four units are too few


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_unanimous_votes_have_no_alpha(value):
    found = agreement(np.repeat(np.arange(30), 3), np.full(90, value))
    assert found.alpha is None and found.undefined == "undefined: all alike" and found.units == 30


def test_single_votes_have_no_alpha():
    found = agreement(np.arange(5), np.array([0, 1, 0, 1, 1.0]))
    assert found.alpha is None and found.undefined == "undefined: no pair has votes of two people"
    assert agreement(np.zeros(0, np.int64), np.zeros(0)).alpha is None


def test_one_unit_that_differs_makes_no_interval():
    values = np.ones(60)
    values[0] = 0
    found = agreement(np.repeat(np.arange(20), 3), values)
    assert found.alpha is not None and found.low is None


def voted(seed: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Three people who are right with probability .75, and a tenth of ties."""
    generator = np.random.default_rng(seed)
    better = generator.choice([-1, 1], units)
    values = (generator.random((units, 3)) < expit(1.1 * better)[:, None]).astype(float)
    values[generator.random((units, 3)) < 0.1] = 0.5
    return np.repeat(np.arange(units), 3), values.ravel()


def coverage(simulations: int) -> float:
    truth = agreement(*voted(10_000, 200_000)).alpha
    found = [agreement(*voted(seed, 150), seed=seed) for seed in range(simulations)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_the_interval_covers():
    assert 0.88 <= coverage(80) <= 1


@pytest.mark.slow
def test_the_interval_covers_over_400_simulations():
    share = coverage(400)
    print(f"coverage {share:.3f}")
    assert 0.93 <= share <= 0.97


def test_consistency_counts_equal_repeats():
    same = consistency(np.array([1, 0, 0.5, 1.0]), np.array([1, 1, 0.5, 1.0]))
    assert same.value == 0.75 and same.low < 0.75 < same.high
    assert consistency(np.zeros(0), np.zeros(0)) is None
