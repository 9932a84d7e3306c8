"""Reward by training cost: the best policy of a method at each moment, over all of its settings."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from preftree.run_folder.measured_file import Point


def best_so_far(points: Sequence[Point], *, kl: float) -> list[tuple[float, float]]:
    """(seconds, the best reward at KL <= `kl` by then), rising in both; every run counts as begun at 0.

    Args:
      points: Points of all runs of one method and seed; `seconds` is the cost of the run up to the point.
      kl: Nats.
    """
    best: list[tuple[float, float]] = []
    for seconds, reward in sorted((_seconds(point), point.reward) for point in points if point.kl <= kl):
        if not best or reward > best[-1][1]:
            best.append((seconds, reward))
    return best


def reward_by(steps: Sequence[tuple[float, float]], seconds: float, start: float) -> float:
    """The best reward of `best_so_far` by a moment; `start` before there is any, or where it is worse."""
    count = bisect.bisect_right(steps, seconds, key=lambda step: step[0])
    return max(start, steps[count - 1][1]) if count else start


def seconds_to_reach(points: Sequence[Point], *, kl: float, reward: float) -> float | None:
    """The least cost of a run's point of at least this reward at KL <= `kl`; None where there is no such point."""
    return min((_seconds(point) for point in points if point.kl <= kl and point.reward >= reward), default=None)


def _seconds(point: Point) -> float:
    return float((point.model_extra or {})["seconds"])
