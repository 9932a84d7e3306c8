"""docs/run_files.md names every file of a run and every field in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.losses import LOSSES
from preftree.losses.metrics import columns_of
from preftree.report.page import write_report
from preftree.run_folder.measured_file import Measured
from support.small_runs import dpo_config, make_model, make_pairs

PAGE = (Path(__file__).parents[2] / "docs" / "run_files.md").read_text("utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    run_recipe(dpo_config(folder, "run", "snapshots=2", "max_steps=2", "eval_data=0.3", "loss={dpo: 1, sft: .1}"))
    write_report([folder / "run"], folder / "run" / "report.html")
    return folder / "run"


def in_section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def lacking(names: Any, text: str) -> list[str]:
    return [name for name in names if f"`{name}`" not in text and f"`{name}/" not in text]


def test_every_file_is_named(run: Path) -> None:
    assert lacking([path.name for path in run.iterdir() if path.is_file()], PAGE) == []
    assert lacking([path.name for path in run.iterdir() if path.is_dir()], PAGE) == []
    assert lacking([path.name for path in (run / "model").iterdir()], in_section("model")) == []
    saved = [path.name for folder in ("checkpoints", "snapshots") for path in (run / folder).rglob("*.*")]
    assert lacking({*saved}, in_section("checkpoints and snapshots")) == []


def test_every_field_of_the_metrics_is_named(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row if not name.startswith("loss/")} | {*columns_of(LOSSES["dpo"])}
    assert lacking(names - {"split"}, in_section("metrics.jsonl")) == []


def test_every_field_of_the_summary_and_of_the_figures_is_named(run: Path) -> None:
    assert lacking(json.loads((run / "summary.json").read_text()), in_section("summary.json")) == []
    measured = in_section("measured.json")
    assert lacking({*json.loads((run / "measured.json").read_text())} - {"format", "sha256"}, measured) == []
    assert {name for name in Measured.model_fields if f"`{name}`" in measured} >= {"how", "frontier", "answers", "of"}


def test_every_field_of_a_checkpoint_is_named(run: Path) -> None:
    (meta,) = (run / "checkpoints").glob("*/meta.json")
    text = in_section("checkpoints and snapshots")
    content = json.loads(meta.read_text())
    assert lacking([*content["meta"], "step"], text) == []
