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
def test_every_plan_has_four_betas_both_optimizers_and_preferred_ft(plan: Plan) -> None:
    by_name = {method.name: method for method in plan.methods}
    assert by_name.keys() == {"dpo_adamw", "dpo_rmsprop", "preferred_ft"}
    assert len(set(by_name["dpo_adamw"].betas)) >= 4
    assert by_name["dpo_rmsprop"].betas
    assert by_name["dpo_rmsprop"].optimizer == "rmsprop"
    assert len(PLANS["full"].seeds) >= 3
