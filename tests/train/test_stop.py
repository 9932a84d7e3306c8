"""A run that cannot go on says so in its rows, where diagnose finds it; a run that is taken up again drops that."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.dpo import DpoConfig
from preftree.errors import TrainingError
from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run
from preftree.report.page import write_report
from preftree.run_folder.metrics_file import Tracker
from preftree.run_folder.reader import read_run
from preftree.storage.checkpoint import list_checkpoints
from preftree.train.dpo import run_dpo
from preftree.train.step import supervised
from support.small_runs import dpo_config, make_model, make_pairs, rows_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stop")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 22)
    return folder


def config_of(place: Path, out: str, *words: str) -> DpoConfig:
    base = ("max_steps=6", "eval_data=.2", "eval_every=2", "save_every=2", "schedule=constant")
    given = {word.partition("=")[0] for word in words}
    return dpo_config(place, out, *(word for word in base if word.partition("=")[0] not in given), *words)


def test_a_run_that_explodes_is_named_by_diagnose_and_has_a_page(place: Path) -> None:
    config = config_of(place, "exploded", "lr=1e30", "max_grad_norm=null", "warmup_steps=0", "save_every=1")
    with pytest.raises(TrainingError):
        run_dpo(config)
    with pytest.raises(TrainingError) as caught:  # a second attempt meets the same end, and leaves one such row again
        run_dpo(config)
    rows = rows_of(place / "exploded")
    assert [row for row in rows if row.get("split") == "stop"] == [rows[-1]]
    assert rows[-1] == {"split": "stop", "step": rows[-2]["step"], "error": str(caught.value)}
    run = read_run(place / "exploded")
    assert run.steps == rows[-2]["step"]
    (found,) = [diagnosis for diagnosis in diagnoses_in(examine_run(run)) if diagnosis.name == "non_finite"]
    assert found.message == str(caught.value)
    said = json.loads(CliRunner().invoke(app, ["eval", "diagnose", "--json", str(place / "exploded")]).stdout)
    assert said["found"][0]["name"] == "non_finite"
    write_report([place / "exploded"], place / "page.html")
    assert "Non-finite figures" in (place / "page.html").read_text()


@pytest.mark.parametrize("at", ["step 4", "evaluation after step 4"])
def test_a_resumed_run_drops_the_row(place: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    out = at.replace(" ", "-")
    with monkeypatch.context() as patch:
        for name in ("take_step", "measure"):
            real = getattr(supervised, name)

            def fail(*args: object, real=real, **options: object) -> object:
                if options["name"] == at:
                    raise TrainingError(f"{at}: loss is nan for pairs.jsonl:1")
                return real(*args, **options)

            patch.setattr(supervised, name, fail)
        with pytest.raises(TrainingError):
            run_dpo(config_of(place, out))
    done = 3 if at == "step 4" else 4
    error = f"{at}: loss is nan for pairs.jsonl:1"
    assert rows_of(place / out)[-1] == {"split": "stop", "step": done, "error": error}
    assert list_checkpoints(place / out / "checkpoints")[-1].name == f"step-{done:06d}"
    run_dpo(config_of(place, out))
    run_dpo(config_of(place, "straight"))
    assert rows_of(place / out) == rows_of(place / "straight")
    assert not [row for row in rows_of(place / out) if row.get("split") == "stop"]


def test_a_disk_that_is_full_is_not_asked_to_hold_the_row() -> None:
    with io.FileIO("/dev/full", "w") as full:
        tracker = Tracker(file=full)
        with pytest.raises(TrainingError, match=os.strerror(errno.ENOSPC)):
            tracker.write({"step": 1})
        tracker.write({"split": "stop", "step": 1, "error": "no space"})
