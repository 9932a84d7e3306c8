"""A run's folder is read as it is: finished, broken off, damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from preftree.errors import DataError
from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run
from preftree.run_folder.reader import read_run
from preftree.storage.checkpoint import CheckpointState, save_checkpoint
from support.runs import dpo_rows, write_run


def test_a_whole_run(tmp_path: Path) -> None:
    rows = dpo_rows(40, eval_every=20)
    folder = write_run(tmp_path / "run", rows, beta=0.3, measured={"sampled_tokens": 61.0})
    state = CheckpointState({"model": {"w": torch.ones(3)}}, {"trajectory": {"seed": 0}})
    save_checkpoint(folder / "checkpoints", 40, state, keep=2)
    run = read_run(folder)
    assert (run.name, run.recipe.name, run.loss, run.steps) == ("run", "dpo", "dpo", 40)
    assert list(run.rows) == rows
    assert run.config["beta"] == 0.3
    assert run.model_files == {"model.safetensors": 4096}
    assert run.measured.sampled_tokens == 61.0
    (saved,) = run.checkpoints
    assert (saved.step, saved.meta, saved.fault) == (40, {"trajectory": {"seed": 0}}, "")
    assert len(saved.digest) == 64
    assert run.notes == ()


def test_a_run_that_was_broken_off(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    (folder / "summary.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    run = read_run(folder)
    assert run.steps == 20
    assert [note.split()[0] for note in run.notes] == ["The", "summary.json"]
    assert run.recipe.name == "dpo"  # from the options


def test_a_damaged_checkpoint_is_a_note(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    path = save_checkpoint(folder / "checkpoints", 20, CheckpointState({"model": {"w": torch.ones(3)}}, {}), keep=2)
    (path / "MANIFEST.json").unlink()
    (note,) = read_run(folder).notes
    assert note.startswith("Checkpoint 20: ") and "MANIFEST.json" in note


def test_the_reference_in_the_options_decides_what_step_1_must_show(tmp_path: Path) -> None:
    rows = dpo_rows(chosen=lambda t: 5 + 3 * t)
    start = read_run(write_run(tmp_path / "start", rows))
    other = read_run(write_run(tmp_path / "other", rows, reference="models/other"))
    assert [diagnosis.name for diagnosis in diagnoses_in(examine_run(start))] == ["reference_drift"]
    assert diagnoses_in(examine_run(other)) == []


@pytest.mark.parametrize("line", ["[]", "{}", '{"step": "3"}', '{"step": true}', "{", '{"step": 1.5}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20, eval_every=50))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:22: must be a JSON object with a \"step\""):
        read_run(folder)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no metrics\.jsonl; give the folder of a run"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"samples": [{"prompt": "p", "reference": "r"}]}', "samples.0.policy"),
        ('{"unseen_mass": 1.5}', "unseen_mass"),
        ('{"frontier": [{"kl": NaN, "reward": 0}]}', "frontier.0.kl"),
        ('{"surprise": 1}', "surprise"),
        ("{", "the file"),
    ],
)
def test_measured_figures_of_another_form_are_named(tmp_path: Path, content: str, fault: str) -> None:
    folder = write_run(tmp_path / "run", dpo_rows(20))
    (folder / "measured.json").write_text(content)
    with pytest.raises(DataError, match=f"measured.json: {fault}"):
        read_run(folder)
