"""Every recipe that comes with the program runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.config.load import load_config
from preftree.config.schema import DpoConfig
from preftree.train.dpo import run_dpo
from support.small_runs import load_trained, make_model, make_pairs, rows_of

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_two_steps(recipe: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 80)
    own = [f"model={tmp_path / 'model'}", f"data={tmp_path / 'pairs.jsonl'}", f"out={tmp_path / 'run'}"]
    config = load_config(DpoConfig, [str(recipe), *own, f"cache={tmp_path / 'cache'}", "max_steps=2"])
    run_dpo(config)
    first, second = rows_of(tmp_path / "run")
    assert (first["step"], second["step"]) == (1, 2)
    assert second["lr"] == pytest.approx(2e-6 / 151)  # 150 steps of warm-up to 1e-6
    load_trained(tmp_path / "run")
