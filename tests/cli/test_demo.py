from pathlib import Path

import pytest

from preftree.cli.demo import demo
from preftree.cli.demo_plan import PLANS, Plan
from preftree.errors import ConfigError


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no demo; choose another --out"):
        demo(tmp_path, fast=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_of_another_plan_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a demo of another plan"):
        demo(tmp_path, fast=True)


def test_fast_and_full_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        demo(tmp_path / "x", fast=True, full=True)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_plan_names_its_runs_apart(plan: Plan) -> None:
    names = [run.name for run in plan.runs]
    assert len(set(names)) == len(names)
    assert {run.optimizer for run in plan.runs} == {"adamw", "rmsprop"}
