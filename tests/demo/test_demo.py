from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftree.cli.demo import demo
from preftree.demo import compare
from preftree.demo.compare import chosen_runs, costs, rewards_in_and_out, win_rates
from preftree.demo.plan import PLANS, DemoPlan
from preftree.demo.runs import DemoRun, Result, run_demo
from preftree.demo.stages import SeedStart, prepare_seed
from preftree.errors import ConfigError, WriteError
from preftree.run_folder.measured_file import Point
from preftree.worlds.exact import Outcomes


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds thesis\.txt, and no run or result of Preftree"):
        demo(tmp_path, fast=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_of_another_plan_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on elsewhere\n")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a demo of another plan"):
        demo(tmp_path, fast=True)


def test_fast_and_full_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        demo(tmp_path / "x", fast=True, full=True)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_plan_has_four_betas_both_optimizers_and_preferred_ft(plan: DemoPlan) -> None:
    by_name = {method.name: method for method in plan.methods}
    assert by_name.keys() >= {"dpo_adamw", "dpo_rmsprop", "preferred_ft"}
    assert len(set(by_name["dpo_adamw"].values)) >= 4
    assert by_name["dpo_rmsprop"].values
    assert by_name["dpo_rmsprop"].options["optimizer"] == "rmsprop"


def test_the_full_plan_compares_all_on_three_seeds() -> None:
    plan = PLANS["full"]
    assert len(plan.seeds) >= 3 and plan.reward_steps
    rewards = {method.name: method.reward for method in plan.methods}
    assert rewards["ppo"] == "model" and rewards["ppo_gt"] == rewards["rloo_gt"] == "world"
    assert "unlikelihood" in rewards


SMALL = replace(
    PLANS["full"],
    world="tiny",
    seeds=(3, 4),
    texts=200,
    prompts=24,
    sft_steps=10,
    steps=6,
    batch_size=8,
    first=2,
    reward_steps=6,
)


def test_all_methods_from_one_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a few steps, in this process: every method runs, is measured, and has a cost; and again, in no time."""
    monkeypatch.setattr(compare, "NUM_SHIFTED", 12)
    quick = {"max_steps": 2, "batch_size": 8, "minibatch_size": 8, "samples_per_prompt": 2, "ppo_epochs": 1}
    methods = tuple(
        replace(
            one,
            values=(1.0,) if one.name == "dpo_adamw" else one.values[:1],
            options={**one.options, **(quick if one.reward else {"warmup_steps": 2})},
        )
        for one in SMALL.methods
        if one.name != "dpo_rmsprop"
    )
    plan = replace(SMALL, seeds=(3,), methods=methods)
    start = prepare_seed((plan, 3, tmp_path))
    jobs = [DemoRun(plan, start, method, method.values[0] if method.values else None) for method in methods]
    ended = [(job, run_demo(job)) for job in jobs]
    for job, measured in ended:
        assert measured.points[-1].kl > 0 and measured.seconds > 0, job.name
        times = [(point.model_extra or {})["seconds"] for point in measured.points]
        before = start.reward_seconds if job.method.reward == "model" else 0.0
        assert times == sorted(times) and times[-1] == pytest.approx(before + measured.seconds, abs=2e-3), job.name
        assert (measured.samples > 0) == (job.method.reward is not None)
    assert {job.method.name: measured.state for job, measured in ended} == {
        **dict.fromkeys(("dpo_adamw", "preferred_ft", "unlikelihood"), 16),
        "ppo": 40,
        "ppo_gt": 36,
        "rloo_gt": 20,
    }
    models = {job.method.name: measured.models for job, measured in ended}
    # DPO's reference is a table; PPO has policy, reference and critic, and a reward model unless the world judges.
    assert (models["dpo_adamw"], models["ppo"], models["ppo_gt"], models["rloo_gt"]) == (1, 4, 3, 2)
    # With one setting a method, that one stands for it; the true reward agrees best with its own labels.
    chosen = chosen_runs(ended)
    assert chosen["ppo"][3].name == "ppo-kl_coef0.1"
    rows = rewards_in_and_out(plan, [start], ended)
    assert [row["pairs"] for row in rows] == ["like the training pairs", "unseen prompts", "shifted grammar", "both"]
    assert all(row["true_reward"] > max(row["dpo"][0], row["reward_model"][0]) for row in rows)
    rates = win_rates(plan, [start], chosen)["temperature"]
    at_one = {row["name"]: row["value"] for row in rows_at(rates, 1.0)}
    assert at_one["fine_tuned"] == pytest.approx(0.5)
    told = costs(plan, [start], ended)
    assert told["ppo"]["reward_model_seconds"] == start.reward_seconds and told["dpo_adamw"]["samples"] == 0
    again = prepare_seed((plan, 3, tmp_path))
    assert again.reward_seconds == start.reward_seconds
    assert [run_demo(replace(job, start=again)).points for job in jobs] == [measured.points for _, measured in ended]


def rows_at(rows: list[dict[str, Any]], temperature: float) -> list[dict[str, Any]]:
    return [row for row in rows if row["temperature"] == temperature]


def test_the_setting_that_stands_for_a_method(tmp_path: Path) -> None:
    """The best end within four nats; where none is, the nearest."""
    start = SeedStart(0, tmp_path, {}, [], Outcomes(np.zeros((1, 1)), np.zeros((1, 0))), 0.4, 0.0, 0.0)
    method = SMALL.methods[0]

    def ended(value: float, kl: float, reward: float) -> tuple[DemoRun, Result]:
        points = [Point(kl=0.1, reward=0.99), Point(kl=kl, reward=reward)]
        return DemoRun(SMALL, start, method, value), Result(points, 1.0, 0, 0, 0, 1)

    one, two, far = ended(1.0, 1.0, 0.7), ended(0.5, 3.9, 0.8), ended(0.1, 4.1, 0.95)
    assert chosen_runs([one, two, far]) == {"dpo_adamw": {0: two[0]}}
    assert chosen_runs([far, ended(0.01, 9.0, 0.99)]) == {"dpo_adamw": {0: far[0]}}


@pytest.mark.slow
def test_the_whole_comparison_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command: processes, two seeds, report and results."""
    quick = {"max_steps": 4, "batch_size": 16, "minibatch_size": 16}
    methods = tuple(
        replace(
            one,
            values=(1.0,) if one.name == "dpo_adamw" else one.values[:2],
            options={**one.options, **(quick if one.reward else {})},
        )
        for one in SMALL.methods
    )
    monkeypatch.setitem(PLANS, "full", replace(SMALL, methods=methods))
    demo(tmp_path / "out", full=True)
    results = json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert {row["seed"] for row in results["budgets"]} == {3, 4}
    assert set(results["costs"]) == {method.name for method in methods}
    assert "Every method on the tiny world" in (tmp_path / "out" / "report.html").read_text()


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preftree.storage.atomic.write_atomic", full)
    with pytest.raises(WriteError, match=r"plan.json cannot be written \(No space left on device\); fix that"):
        demo(tmp_path / "new", fast=True)
