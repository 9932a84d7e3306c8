"""Reward within a KL budget, by hand."""

from __future__ import annotations

import pytest

from preftree.report.frontier import best_within, budget_table, frontier_chart, optimum_at, paths, temperature_chart
from preftree.run_folder.measured_file import Point, Temperature

OPTIMUM = [Point(kl=0, reward=0.4), Point(kl=2, reward=0.8), Point(kl=6, reward=1.0)]
DPO = [
    Point(kl=0.2, reward=0.42, beta=0.1, seed=0, step=1),
    Point(kl=1.0, reward=0.55, beta=0.1, seed=0, step=2),
    Point(kl=0.9, reward=0.57, beta=0.1, seed=1, step=2),
    Point(kl=3.0, reward=0.85, beta=0.1, seed=1, step=4),
    Point(kl=0.5, reward=0.49, beta=0.5, seed=0, step=4),
]


def test_best_of_each_seed_within_a_budget() -> None:
    best = best_within(DPO, 1.0)
    assert best is not None
    assert (best.mean, best.low, best.high, best.num_seeds) == (pytest.approx(0.56), 0.55, 0.57, 2)
    assert best_within(DPO, 0.1) is None
    far = best_within(DPO, 4.0)
    assert far is not None and far.mean == pytest.approx((0.55 + 0.85) / 2)


def test_optimum_between_its_points() -> None:
    assert optimum_at(OPTIMUM, 1.0) == pytest.approx(0.6)
    assert optimum_at(OPTIMUM[::-1], 4.0) == pytest.approx(0.9)
    assert optimum_at(OPTIMUM, 7.0) == 1.0  # within that KL there is no better one
    assert optimum_at(OPTIMUM[1:], 1.0) is None
    assert optimum_at([], 1.0) is None


def test_table_of_budgets() -> None:
    heads, rows = budget_table({"dpo": DPO, "far": [Point(kl=9, reward=1)]}, OPTIMUM)
    assert heads == ["KL ≤ 0.25", "KL ≤ 0.5", "KL ≤ 1", "KL ≤ 2", "KL ≤ 4"]
    assert [name for name, _ in rows] == ["optimum", "dpo", "far"]
    assert [cell[0] for cell in rows[0][1]] == ["0.450", "0.500", "0.600", "0.800", "0.900"]
    assert rows[1][1][2] == ("0.560", "0.040 below\n0.550 to 0.570")
    assert rows[1][1][0] == ("0.420", "0.030 below")
    assert rows[2][1] == [("", "")] * 5
    above = budget_table({"lucky": [Point(kl=1, reward=0.7)]}, OPTIMUM)[1][1][1][2]
    assert above == ("0.700", "0.100 above")
    assert budget_table({"dpo": DPO}, [])[1][0][1][0] == ("0.420", "")


def test_paths_are_runs_in_the_order_of_their_steps() -> None:
    assert [[point.step for point in path] for path in paths(DPO[::-1])] == [[4], [2, 4], [1, 2]]
    loose = [Point(kl=2, reward=1), Point(kl=1, reward=0)]
    assert [[point.kl for point in path] for path in paths(loose)] == [[1, 2]]


def test_hovering_tells_beta_seed_step_and_every_other_figure() -> None:
    points = [Point.model_validate({"kl": 1.0, "reward": 0.5, "beta": 0.1, "seed": 3, "step": 40, "accuracy": 0.75})]
    line = frontier_chart({"dpo": points}, OPTIMUM).lines[1]
    assert line.about == ["dpo: KL 1, reward 0.5, beta 0.1, seed 3, step 40, accuracy 0.75"]


def test_the_optimum_ends_where_the_methods_end() -> None:
    optimum = frontier_chart({"dpo": DPO}, OPTIMUM).lines[0]
    assert optimum.points == [(0, 0.4), (2, 0.8), (3, pytest.approx(0.85))]


def test_temperature_has_a_band_where_every_point_has_an_interval() -> None:
    points = [
        Temperature(name="dpo", temperature=1, value=0.6, low=0.5, high=0.7),
        Temperature(name="dpo", temperature=0, value=0.7, low=0.6, high=0.8),
        Temperature(name="sft", temperature=0, value=0.5),
    ]
    dpo, sft = temperature_chart(points, "win rate").lines
    assert dpo.points == [(0, 0.7), (1, 0.6)] and dpo.band == [(0.6, 0.8), (0.5, 0.7)]
    assert not sft.band
