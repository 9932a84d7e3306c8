import numpy as np
import pytest

from preftree.stats.calibration import calibration


def test_calibration_by_hand() -> None:
    chances = np.array([0.95, 0.9, 0.28, 0.62])  # three right, one 72 % sure and wrong
    found = calibration(chances, np.array([1.0, 1.0, 2.0, 4.0]), num_bins=5)
    bins = {round(one.confidence, 3): (one.right, one.share) for one in found.bins}
    assert bins == {0.62: (1.0, 0.5), 0.72: (0.0, 0.25), 0.925: (1.0, 0.25)}
    assert found.error == pytest.approx(0.5 * 0.38 + 0.25 * 0.72 + 0.25 * 0.075)
    assert found.brier == pytest.approx((0.05**2 + 0.1**2 + 2 * 0.72**2 + 4 * 0.38**2) / 8)
    assert found.log_score == pytest.approx(-np.log(chances) @ [1, 1, 2, 4] / 8)


def test_chances_that_mean_what_they_say_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    came = np.where(rng.random(len(p)) < p, p, 1 - p)
    assert calibration(came).error < 0.005
    assert calibration(came**2).error > 0.05
    assert calibration(np.full(10, 0.5)).error == 0
    with pytest.raises(ValueError, match="chances must be in"):
        calibration(np.array([1.2]))
