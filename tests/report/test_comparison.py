"""The page of all methods, from figures by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preftree.errors import DataError
from preftree.report.demo.comparison import (
    best_chart,
    comparison_page,
    compute_chart,
    cost_table,
    ends_table,
    knobs,
    rewards_table,
    summary,
)
from preftree.report.demo.results import Cost, InAndOut
from preftree.report.frontier import BudgetRow
from preftree.run_folder.measured_file import Point


def budget(method: str, seed: int, reward: float, kl: float = 2.0) -> BudgetRow:
    return BudgetRow(method=method, seed=seed, kl=kl, start=0.4, reward=reward, optimum=0.9)


def cost(**told: Any) -> Cost:
    usual = {
        "settings": 3,
        "seconds": 50.0,
        "reward_model_seconds": 0.0,
        "seconds_to": {"0.8": 20.44, "0.9": None},
        "samples": 0,
    }
    usual |= {"tokens": 12_000, "models": 1, "state": 16, "knobs": ["lr", "beta"]}
    return Cost(**usual | told)


def run(seed: int, *points: tuple[float, float, float]) -> list[Point]:
    rows = [
        {"kl": kl, "reward": reward, "best": 0.9, "seconds": seconds, "seed": seed} for kl, reward, seconds in points
    ]
    return [Point.model_validate(row | {"step": step}) for step, row in enumerate(rows, 1)]


def test_the_answer_is_the_share_of_the_gain_at_two_nats() -> None:
    rows = [budget("dpo_adamw", 0, 0.8), budget("dpo_adamw", 1, 0.7), budget("ppo", 0, 0.65), budget("ppo", 1, 0.65)]
    rows.append(budget("ppo", 0, 0.9, kl=4.0))
    told = summary(rows)
    # (.4 + .3) / 2 of .5, and .25 of .5
    assert (told.answer, told.word) == ("unclear", "DPO (AdamW): 70.0\u00a0%")
    assert told.sentence == "Of all methods: DPO (AdamW) 70.0\u00a0%, PPO (reward model) 50.0\u00a0%."


def test_the_best_within_a_kl_is_a_mean_over_seeds() -> None:
    methods = {"dpo_adamw": [*run(0, (0.5, 0.6, 1), (1.5, 0.7, 2)), *run(1, (0.9, 0.8, 1))]}
    optimum = [Point(kl=kl, reward=reward, seed=seed) for seed in (0, 1) for kl, reward in ((2, 0.8), (6, 1.0))]
    edge, dpo = best_chart(methods, optimum, 0.4).lines
    assert edge.points[0] == (0.0, 0.4)
    assert edge.points[-1] == pytest.approx((5.0, 0.95))
    at = {round(kl, 3): reward for kl, reward in dpo.points}
    assert at[0.0] == 0.4 and at[5.0] == pytest.approx((0.7 + 0.8) / 2)
    assert at[max(kl for kl in at if kl < 0.9)] == pytest.approx((0.6 + 0.4) / 2)


def test_the_chart_over_compute_leaves_out_what_trains_nothing() -> None:
    methods = {"dpo_adamw": run(0, (0.5, 0.6, 1), (1.5, 0.7, 8), (3.0, 0.9, 9)), "best_of_n": [Point(kl=1, reward=0.9)]}
    (line,) = compute_chart(methods, {"dpo_adamw": cost()}, 0.4).lines
    assert line.points[0] == (0.5, 0.4) and line.points[-1][1] == 0.7
    assert all(reward == (0.4 if moment < 1 else 0.6) for moment, reward in line.points if moment < 8)


def test_where_runs_end() -> None:
    def point(seed: int, step: int, kl: float, reward: float, best: float) -> Point:
        told = {"seed": seed, "step": step, "kl": kl, "reward": reward, "best": best, "setting": "beta 1"}
        return Point.model_validate(told)

    points = [point(0, 5, 1.0, 0.7, 0.9), point(0, 9, 2.0, 0.8, 0.9), point(1, 9, 3.0, 0.9, 0.92), point(1, 5, 0, 0, 0)]
    rows = ends_table({"dpo_adamw": points, "best_of_n": [Point(kl=1, reward=0.9)]})[1]
    assert rows == [["DPO (AdamW)", "beta 1", "2.50", "0.850", "0.060"]]


def test_the_tables() -> None:
    found = {"dpo_adamw": cost(), "dpo_rmsprop": cost(seconds_to={"0.8": 3.0})}
    found["ppo"] = cost(reward_model_seconds=30.0, samples=12_800, models=4, knobs=["lr", "batch"])
    heads, rows = cost_table(found)
    assert all(len(row) == len(heads) for row in rows)
    assert heads[2:4] == ["to 80.0\u00a0%", "to 90.0\u00a0%"]
    assert rows[0] == ["DPO (AdamW)", "50 s", "20.4 s", "never", "0", "12,000", "1", "16", "3", "2"]
    assert rows[1][2:4] == ["3.0 s", "never"] and rows[2][1:5] == ["50 s + 30 s", "20.4 s", "never", "12,800"]
    assert knobs(found) == "DPO (AdamW) and DPO (RMSprop): lr, beta; PPO (reward model): lr, batch"
    usual = {"pairs": "both", "count": 9, "true_reward": 0.9}
    ranked = [
        InAndOut(seed=0, dpo=(0.7, 0.6, 0.8), reward_model=(0.6, 0.5, 0.7), **usual),
        InAndOut(seed=1, dpo=(0.6, 0.5, 0.7), reward_model=(0.7, 0.6, 0.8), **usual),
    ]
    assert rewards_table(ranked)[1] == [
        ["both", "0.900 (0.900 to 0.900)", "0.650 (0.600 to 0.700)", "0.650 (0.600 to 0.700)"]
        + ["+0.000 (\u22120.100 to +0.100)"]
    ]


def test_the_page_holds_it_all_and_names_what_is_wrong() -> None:
    results: dict[str, Any] = {
        "world": {"name": "tiny", "start_reward": 0.4},
        "optimum": [{"kl": 2, "reward": 0.9, "seed": 0}],
        "methods": {"dpo_adamw": [point.model_dump() for point in run(0, (1.0, 0.7, 3.0))]},
        "budgets": [budget("dpo_adamw", 0, 0.7).model_dump()],
        "costs": {"dpo_adamw": cost().model_dump()},
        "rewards": [],
        "temperature": [{"name": "fine_tuned", "temperature": t, "value": 0.5} for t in (0.0, 1.0)],
        "robustness": {"dpo_adamw": {"area": 0.7, "drop": 0.1}},
    }
    page = comparison_page(json.loads(json.dumps(results)))
    for told in ("Every method on the tiny world", "What it costs", "DPO (AdamW)", "60.0\u00a0%", "highest less that"):
        assert told in page
    results["costs"]["dpo_adamw"]["seconds"] = "long"
    with pytest.raises(DataError, match=r"costs\.dpo_adamw\.seconds"):
        comparison_page(results)
