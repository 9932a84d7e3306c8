"""What a world's runs reached, by hand."""

from __future__ import annotations

import pytest

from preftree.report.demo.page import conclude_world, run_ends
from preftree.run_folder.measured_file import Point

OPTIMUM = [Point(kl=0, reward=0.4), Point(kl=2, reward=0.8), Point(kl=6, reward=1.0)]


def run(beta: float, seed: int, kl: float, reward: float) -> list[Point]:
    return [
        Point(kl=kl, reward=reward, beta=beta, seed=seed, step=80),
        Point(kl=kl / 2, reward=0.5, beta=beta, seed=seed, step=40),
    ]


def test_a_run_ends_at_its_last_step_and_is_measured_at_its_own_kl() -> None:
    methods = {"dpo": [*run(0.1, 0, 4.0, 0.85), *run(1.0, 3, 1.0, 0.5)], "best of n": [Point(kl=1, reward=0.6)]}
    first, second = run_ends(methods, OPTIMUM, 0.4)
    # At KL 4 the optimum is .9, so .45 of .5 were gained; at KL 1 it is .6, and .1 of .2 were.
    assert (first.name, first.limit, first.share) == ("dpo, beta 0.1", pytest.approx(0.9), pytest.approx(0.9))
    assert (second.name, second.limit, second.share) == ("dpo, beta 1, seed 3", pytest.approx(0.6), pytest.approx(0.5))
    told = conclude_world([first, second], 0.4)
    assert told.answer == "unclear"  # the middle of 90 % and 50 %
    assert "from 0.400 to 0.850 at KL 4.00" in told.sentence and "50.0\u00a0% to 90.0\u00a0%" in told.sentence
    assert conclude_world([first], 0.4).answer == "yes"
    assert conclude_world([second, second], 0.4).answer == "unclear"


def test_without_an_optimum_nothing_is_claimed() -> None:
    assert run_ends({"dpo": run(0.1, 0, 1.0, 0.6)}, [], 0.4) == []
    assert conclude_world([], None).answer == "unclear"
