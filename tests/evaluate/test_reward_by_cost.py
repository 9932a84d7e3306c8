"""Reward against cost, by hand."""

from __future__ import annotations

from preftree.evaluate.reward_by_cost import best_so_far, reward_by, seconds_to_reach
from preftree.run_folder.measured_file import Point


def point(seconds: float, kl: float, reward: float) -> Point:
    return Point.model_validate({"kl": kl, "reward": reward, "seconds": seconds})


# Two runs: one reaches .7 early and then goes too far from the reference, one reaches .8 late.
POINTS = [point(1, 0.5, 0.6), point(3, 1.5, 0.7), point(5, 3.0, 0.95), point(2, 0.2, 0.5), point(9, 2.0, 0.8)]


def test_the_best_so_far_counts_what_is_near_enough() -> None:
    steps = best_so_far(POINTS, kl=2.0)
    assert steps == [(1, 0.6), (3, 0.7), (9, 0.8)]
    assert best_so_far(POINTS, kl=3.0) == [(1, 0.6), (3, 0.7), (5, 0.95)]
    assert best_so_far(POINTS, kl=0.1) == []
    moments = [0.5, 1.0, 2.9, 3.0, 8.0, 20.0]
    assert [reward_by(steps, moment, 0.55) for moment in moments] == [0.55, 0.6, 0.6, 0.7, 0.7, 0.8]
    assert reward_by(steps, 2.0, 0.65) == 0.65  # the start was better
    assert reward_by([], 2.0, 0.4) == 0.4


def test_the_first_cost_of_a_reward() -> None:
    assert seconds_to_reach(POINTS, kl=2.0, reward=0.7) == 3
    assert seconds_to_reach(POINTS, kl=2.0, reward=0.75) == 9
    assert seconds_to_reach(POINTS, kl=3.0, reward=0.75) == 5
    assert seconds_to_reach(POINTS, kl=2.0, reward=0.9) is None
