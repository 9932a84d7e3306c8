"""A run's folder: what is damaged in it is found, what is owed is made up for, and nobody else's files are touched."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from preftree.errors import CacheError, CheckpointError, ConfigError, DataError, ModelError
from preftree.evaluate.in_memory import after_training
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.models.load import load_model, load_tokenizer
from preftree.reference.store import ReferenceTable
from preftree.run_folder.reader import read_run
from preftree.storage.manifest import write_manifest
from support.small_runs import dpo_config, make_model, make_pairs

WORDS = ("max_steps=2", "save_every=1", "schedule=constant", "eval_data=.2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    make_model(folder / "model")
    make_model(folder / "model2", seed=1)
    make_pairs(folder / "pairs.jsonl", 12)
    run_recipe(dpo_config(folder, "run", *WORDS))
    return folder


@pytest.fixture
def run(place: Path) -> Path:
    """A copy of the finished run, under its own name."""
    shutil.rmtree(place / "run-whole", ignore_errors=True)
    shutil.copytree(place / "run", place / "run-whole")
    shutil.copytree(place / "model2", place / "other", dirs_exist_ok=True)
    yield place / "run"
    shutil.rmtree(place / "run")
    (place / "run-whole").rename(place / "run")


def test_a_kill_between_model_and_summary_owes_the_measured_figures(
    place: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = json.loads((run / "measured.json").read_text())["token_rewards"]
    for name in ("measured.json", "summary.json"):
        (run / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(after_training, "token_rewards", _killed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(dpo_config(place, "run", *WORDS))
    assert not (run / "summary.json").exists()
    run_recipe(dpo_config(place, "run", *WORDS))
    assert json.loads((run / "measured.json").read_text())["token_rewards"] == wanted


def test_measured_figures_that_are_gone_are_missed_and_made_again(
    run: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = (run / "measured.json").read_text()
    (run / "measured.json").unlink()
    assert read_run(run).notes == ("measured.json is missing: what was measured after training is not known.",)
    run_recipe(dpo_config(place, "run", *WORDS))
    assert "measured.json is missing, though" in caplog.text
    assert (run / "measured.json").read_text() == wanted


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_another_models_weights_are_found_though_the_manifest_was_made_to_match(run: Path, place: Path) -> None:
    shutil.copyfile(place / "model2" / "model.safetensors", run / "model" / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_model(run / "model")
    load_tokenizer(run / "model")  # the small files are whole
    write_manifest(run / "model")
    with pytest.raises(ModelError, match="is not the model that its run ended with"):
        load_model(run / "model")
    shutil.copytree(run / "model", place / "elsewhere")
    (place / "elsewhere" / "MANIFEST.json").unlink()
    load_model(place / "elsewhere")


def test_the_command_of_a_finished_run_mends_it(run: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (run / "model" / "model.safetensors").read_bytes()
    (run / "model" / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    logging.getLogger("preftree").propagate = True
    run_recipe(dpo_config(place, "run", *WORDS))
    assert "what belongs to the end of the run is made again" in caplog.text
    assert (run / "model" / "model.safetensors").read_bytes() == whole


def test_other_rows_are_found_on_resuming_and_by_the_report(run: Path, place: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace("0.6931", "0.6932", 1))
    with pytest.raises(DataError, match=r"metrics\.jsonl does not hold the rows that summary\.json knows of"):
        read_run(run)
    (run / "summary.json").unlink()
    with pytest.raises(DataError, match="does not hold the rows that its newest checkpoint knows of"):
        read_run(run)
    with pytest.raises(CheckpointError, match="holds other rows where the checkpoint counted"):
        run_recipe(dpo_config(place, "run", "max_steps=3", *WORDS[1:]))


def test_a_table_of_another_model_is_found_by_a_resumed_run(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ReferenceTable.gather
    monkeypatch.setattr(ReferenceTable, "gather", lambda table, sequences: real(table, sequences) - 0.01)
    with pytest.raises(CacheError, match="differs from its model by"):
        run_recipe(dpo_config(place, "run", "max_steps=3", *WORDS[1:]))
    with pytest.raises(CacheError, match="differs from its model by"):  # a fresh run with another reference
        run_recipe(dpo_config(place, "fresh", f"reference={place / 'model2'}", *WORDS))


def test_a_foreign_folder_is_left_alone_and_deletions_are_named(
    run: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "thesis").mkdir()
    (place / "thesis" / "config.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds config\.yaml, and no run or result of Preftree"):
        run_recipe(dpo_config(place, "thesis", *WORDS))
    assert [path.name for path in (place / "thesis").iterdir()] == ["config.yaml"]
    shutil.rmtree(run / "model")
    logging.getLogger("preftree").propagate = True
    run_recipe(dpo_config(place, "run", *WORDS, "resume=never"))
    assert f"deleting {run / 'tensorboard'} of an earlier run" in caplog.text
    assert "metrics.jsonl: dropping 5 rows after no checkpoint" in caplog.text
