"""The annotator model against the truth of simulated people, brute force, and answers that are known."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from preftree.crowd.annotators import CrowdFit, Votes, adjudication_order, entropy, fit_annotators
from preftree.stats.calibration import calibration
from support.crowd import POOLS, Simulated, share_right, simulate


def fit(drawn: Simulated, known: np.ndarray | None = None) -> CrowdFit:
    return fit_annotators(drawn.votes, len(drawn.better), drawn.num_people, known)


def majority(drawn: Simulated) -> np.ndarray:
    count = np.bincount(drawn.votes.item, minlength=len(drawn.better))
    return np.bincount(drawn.votes.item, drawn.votes.for_first, len(drawn.better)) / count


def truth_from_noise(num_seeds: int) -> dict[str, tuple[float, float, float]]:
    """Of each pool the share of right pairs by majority and by the model, and the model's calibration error."""
    found = {}
    for pool in POOLS:
        drawn = [simulate(pool, seed) for seed in range(num_seeds)]
        fits = [fit(one) for one in drawn]
        by_majority = np.mean([share_right(majority(one), one.better) for one in drawn])
        by_model = np.mean([share_right(f.win_prob, one.better) for f, one in zip(fits, drawn)])
        chances = [np.where(one.better == 1, f.win_prob, 1 - f.win_prob) for f, one in zip(fits, drawn)]
        found[pool] = float(by_majority), float(by_model), calibration(np.concatenate(chances)).error
    return found


def check(found: dict[str, tuple[float, float, float]]) -> None:
    for pool, (by_majority, by_model, error) in found.items():
        print(f"{pool:10} majority {by_majority:.3f}  model {by_model:.3f}  calibration error {error:.3f}")
    assert found["adversary"][1] >= 0.80 and found["adversary"][0] < 0.65
    assert found["left"][1] >= 0.82 and found["left"][1] > found["left"][0] + 0.01
    assert found["half left"][1] >= 0.78 and found["half left"][1] > found["half left"][0] + 0.03
    assert found["good"][1] >= found["good"][0] - 0.015
    assert all(error <= 0.03 for _, _, error in found.values())


def test_truth_is_found_in_noise():
    check(truth_from_noise(8))


@pytest.mark.slow
def test_truth_is_found_in_noise_over_twenty_seeds():
    check(truth_from_noise(20))


def test_without_votes_nothing_is_known():
    empty = Votes(*np.zeros((2, 0), np.int64), *np.zeros((2, 0)))
    found = fit_annotators(empty, 2, 3)
    assert found.win_prob.tolist() == [0.5, 0.5]
    assert found.skill.tolist() == pytest.approx([0.9] * 3, abs=1e-4) and found.side_bias.tolist() == [0, 0, 0]
    assert found.skill_error.tolist() == pytest.approx([0.5] * 3, abs=1e-3)


def test_three_votes_are_no_certainty():
    """Three strangers who agree. Were they surely right in .71 of cases: .71^3 / (.71^3 + .29^3) = .936."""
    votes = Votes(np.zeros(3, np.int64), np.arange(3), np.ones(3), np.array([1.0, -1, 1]))
    assert 0.85 < fit_annotators(votes, 1, 3).win_prob[0] < 0.96


def test_ties_alone_say_nothing():
    votes = Votes(np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4), np.full(12, 0.5), np.tile([1.0, -1.0], 6))
    np.testing.assert_allclose(fit_annotators(votes, 4, 3).win_prob, 0.5, atol=1e-9)


def test_the_maximum_is_that_of_brute_force():
    """With every answer known, each person is a logistic regression, which another optimiser finds."""
    drawn = simulate("half left", 3, num_items=60)
    found = fit(drawn, drawn.better.astype(float))
    item, person, y, side = drawn.votes
    z = 2 * drawn.better[item] - 1
    for j in range(drawn.num_people):
        mine = person == j

        def lost(theta, mine=mine):
            x = theta[0] * z[mine] + theta[1] * side[mine]
            likely = y[mine] * log_expit(x) + (1 - y[mine]) * log_expit(-x)
            prior = ((theta[0] - found.usual_skill) / found.skill_spread) ** 2 + (theta[1] / found.side_spread) ** 2
            return prior / 2 - likely.sum()

        theta = minimize(lost, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
        assert (found.skill[j], found.side_bias[j]) == pytest.approx(tuple(theta), abs=1e-4)
        step = 1e-3 * np.eye(2)
        hessian = [[(lost(theta + a + b) - lost(theta + a - b) - lost(theta - a + b) + lost(theta - a - b)) / 4e-6
                    for a in step] for b in step]  # fmt: skip
        errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
        assert (found.skill_error[j], found.side_error[j]) == pytest.approx(tuple(errors), rel=1e-3)
    assert found.win_prob.tolist() == drawn.better.tolist()


def test_nobody_is_scored_by_his_own_vote():
    """Turning one vote round moves what others say of its pair only through what is known of people."""
    drawn = simulate("good", 1)
    votes, turned = drawn.votes, drawn.votes.for_first.copy()
    turned[0] = 1 - turned[0]
    before, after = fit(drawn), fit_annotators(votes._replace(for_first=turned), 500, 12)
    assert abs(after.by_others[0] - before.by_others[0]) < 0.05 < abs(after.win_prob[0] - before.win_prob[0])


def test_a_bias_is_reported_of_those_who_have_it():
    drawn = simulate("left", 2, num_items=400, overlap=4)
    found = fit(drawn)
    assert (found.side_bias[9:] > 1.3).all() and (np.abs(found.side_bias[:9]) < 0.9).all()
    assert (found.skill[:9] > 0.8).all() and (np.abs(found.skill[9:]) < 0.6).all()


def test_of_two_mirror_images_the_likelier_is_taken():
    """Two strong adversaries among seven weak voters: votes start EM in the mirror image, where nearly all is wrong."""
    generator = np.random.default_rng(8)
    skill = np.r_[1.1 + generator.normal(0, 0.3, 7), [np.log(0.1 / 0.9)] * 2, [0] * 3]
    better = np.where(generator.random(500) < 0.5, 1, -1)
    item = np.repeat(np.arange(500), 3)
    people = np.concatenate([generator.choice(12, 3, replace=False) for _ in range(500)])
    side = np.where(generator.random(1500) < 0.5, 1, -1)
    y = (generator.random(1500) < expit(skill[people] * better[item])).astype(float)
    found = fit_annotators(Votes(item, people, y, side), 500, 12)
    assert share_right(found.win_prob, (better + 1) / 2) > 0.7


def test_known_answers_help_and_mostly_where_they_are():
    drawn = simulate("adversary", 4)
    known = np.where(np.arange(500) < 25, drawn.better, np.nan)
    with_known, without = fit(drawn, known), fit(drawn)
    assert (with_known.win_prob[:25] == drawn.better[:25]).all()
    elsewhere = slice(25, None)
    gain = [share_right(f.win_prob[elsewhere], drawn.better[elsewhere]) for f in (with_known, without)]
    assert abs(gain[0] - gain[1]) < 0.02


def test_uncertain_pairs_come_first():
    win_prob = np.array([0.5, 0.9, 0.5, 0.7, 0.5])
    assert adjudication_order(win_prob, np.array([2, 3, 4, 3, 1])).tolist() == [2, 0, 3, 1]
    np.testing.assert_allclose(entropy(np.array([0.5, 0, 1, 0.25])), [1, 0, 0, 0.811278], atol=1e-6)


def test_wrong_votes_are_refused():
    one = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match=r"item must be in \[0, 1\), got 1 to 1"):
        fit_annotators(Votes(one + 1, one, np.ones(1), np.ones(1)), 1, 1)
    with pytest.raises(ValueError, match="for_first must be"):
        fit_annotators(Votes(one, one, np.ones(1) * 2, np.ones(1)), 1, 1)
    with pytest.raises(ValueError, match="one entry a vote"):
        fit_annotators(Votes(one, one, np.ones(2), np.ones(1)), 1, 1)
    with pytest.raises(ValueError, match="one entry for each of 1 pairs"):
        fit_annotators(Votes(one, one, np.ones(1), np.ones(1)), 1, 1, np.ones(2))
