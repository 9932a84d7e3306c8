"""Detectors of careless annotators: how often they find one, and how often they accuse a fair one."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from preftree.crowd.detectors import check_test, side_test, too_fast


def found_and_accused(rounds: int) -> tuple[float, float]:
    """Share of people with a left bias of .8 that are found after 100 votes, and of fair ones that are accused."""
    generator = np.random.default_rng(0)
    biased, fair = np.zeros(rounds * 2, bool), np.zeros(rounds * 10, bool)
    for number in range(rounds):
        left = np.r_[generator.binomial(100, 0.8, 2), generator.binomial(100, 0.5, 10)]
        flagged = side_test(left, np.full(12, 100)).flagged
        biased[number * 2 : number * 2 + 2], fair[number * 10 : number * 10 + 10] = flagged[:2], flagged[2:]
    return float(biased.mean()), float(fair.mean())


def test_a_left_bias_is_found_and_nobody_else_accused():
    found, accused = found_and_accused(100)
    assert found >= 0.95 and accused <= 0.01


@pytest.mark.slow
def test_a_left_bias_is_found_in_2000_projects():
    found, accused = found_and_accused(2000)
    print(f"found {found:.4f}, accused {accused:.4f}")
    assert found >= 0.95 and accused <= 0.01


def test_the_side_test_is_the_binomial_one_under_holm():
    """By hand: 60 of 100 has p = .0569; the smallest of three is multiplied by 3, the next by 2."""
    found = side_test(np.array([60, 5, 65, 0]), np.array([100, 10, 100, 0]))
    p = [stats.binomtest(k, n).pvalue for k, n in ((60, 100), (65, 100))]
    assert p[0] == pytest.approx(0.0569, abs=1e-4)
    assert found.p.tolist() == pytest.approx([3 * p[0], 1, 4 * p[1], 1])
    assert found.flagged.tolist() == [False, False, True, False] and np.isnan(found.left[3])
    assert side_test(np.array([20]), np.array([100])).flagged.tolist() == [True]  # a preference for right as well
    assert side_test(np.zeros(0, np.int64), np.zeros(0, np.int64)).p.tolist() == []


def random_clickers(rounds: int, checks: int = 20) -> tuple[float, float]:
    """Precision and recall: 3 of 12 click at random, the others answer .9 of what is known, or of repeats, alike."""
    generator = np.random.default_rng(1)
    named = hit = 0
    for _ in range(rounds):
        right = np.r_[generator.binomial(checks, 0.5, 3), generator.binomial(checks, 0.9, 9)]
        half = generator.binomial(right, 0.5)
        golds = half + generator.binomial(checks - right, 0.5)  # some of the checks are golds, the others repeats
        found = check_test(half, golds, right - half, checks - golds).at_random
        named, hit = named + found.sum(), hit + found[:3].sum()
    return hit / named, hit / (3 * rounds)


def test_random_clickers_are_found():
    precision, recall = random_clickers(200)
    assert precision >= 0.9 and recall >= 0.9


@pytest.mark.slow
def test_random_clickers_are_found_in_2000_projects():
    for share in (20, 30):
        precision, recall = random_clickers(2000, share)
        print(f"{share} checks: precision {precision:.3f}, recall {recall:.3f}")
        assert precision >= 0.9 and recall >= 0.9


def test_who_votes_against_what_he_knows_is_not_random():
    right, golds = np.array([18, 17, 2, 10, 3, 1]), np.array([20, 20, 20, 20, 4, 20])
    same, repeats = np.array([0, 0, 0, 0, 0, 19]), np.array([0, 0, 0, 0, 0, 20])
    found = check_test(right, golds, same, repeats)
    assert found.contrary.tolist() == [False, False, True, False, False, True]
    assert found.at_random.tolist() == [False, False, False, True, False, False]
    assert found.told.tolist() == [True, True, True, True, False, True]
    assert found.right[5] == 0.5  # of both together the last one looks like a coin
    none = np.zeros(2, np.int64)
    assert not check_test(none, none, none, none).at_random.any()


def test_a_fifth_of_the_median_is_too_fast():
    annotator = np.repeat(np.arange(4), 20)
    ms = np.repeat([5000.0, 6000.0, 900.0, 7000.0], 20)
    assert too_fast(annotator, ms, 5).tolist() == [False, False, True, False, False]
    assert too_fast(annotator, np.repeat([5000.0, 6000.0, 1200.0, 7000.0], 20), 4).tolist() == [False] * 4
    assert too_fast(np.zeros(3, np.int64), np.ones(3), 1).tolist() == [False]


def test_a_biased_coin_of_the_model_is_what_the_side_test_sees():
    """People of the annotator model with side bias 1.75 and skill 1.1 choose left in 80 % of votes."""
    share = (expit(1.1 + 1.75) + expit(-1.1 + 1.75)) / 2
    assert share == pytest.approx(0.8, abs=0.002)
