"""Weights of any step: what is kept, by which figure, how a run ends early, and RUN@N wherever a model is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.config.load import load_config
from preftree.config.reward import RewardConfig
from preftree.errors import ConfigError, DataError
from preftree.evaluate.export import export_run
from preftree.models.load import load_model
from preftree.run_folder.steps import best_step, find_step, steps_on_disk
from preftree.train import loop
from preftree.train.dpo import run_dpo
from preftree.train.reward import run_reward
from preftree.train.sft import run_sft
from preftree.train.snapshots import BestSoFar, snapshot_factor
from preftree.train.step.supervised import SupervisedSteps
from preftree.train.step_model import model_at
from support.small_runs import dpo_config, make_model, make_pairs, rows_of, sft_config

KEPT = ("max_steps=6", "save_every=3", "snapshots=2", "eval_data=.3", "keep_best=loss", "schedule=constant")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 20)
    run_dpo(dpo_config(folder, "run", *KEPT))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def straight_to(place: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights of a run of that many steps: under a constant rate they are those of a longer run at that step."""
    out = f"straight-{step}"
    if not (place / out).exists():
        run_dpo(dpo_config(place, out, f"max_steps={step}", *KEPT[3:4], "schedule=constant"))
    return weights(place / out / "model")


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_any_step_on_disk_is_a_model_folder_with_the_weights_of_that_step(place: Path) -> None:
    run = place / "run"
    assert list(steps_on_disk(run)) == [1, 2, 3, 4, 6]
    assert model_at(str(run)) == model_at(f"{run}@6") == str(run / "model")
    for step in (2, 3):
        folder = Path(model_at(f"{run}@{step}"))
        assert folder == run / f"steps/step-00000{step}"
        assert equal(weights(folder), straight_to(place, step))
        assert not equal(weights(folder), weights(run / "model"))
        load_model(folder)
    assert model_at(str(run), "2") == str(run / "steps/step-000002")
    (run / "steps/step-000002/model.safetensors").write_bytes(b"broken")
    assert equal(weights(Path(model_at(f"{run}@2"))), straight_to(place, 2))


def test_a_step_that_is_not_there_is_refused_with_those_that_are(place: Path) -> None:
    run = place / "run"
    with pytest.raises(DataError, match=r"no weights of step 5 on disk; it has those of steps 1, 2, 3, 4, 6$"):
        model_at(f"{run}@5")
    with pytest.raises(ConfigError, match=r"names a step and --step 3 another"):
        model_at(f"{run}@2", "3")
    with pytest.raises(ConfigError, match=r"--step must be a number of steps or best, got '-1'"):
        model_at(str(run), "-1")
    with pytest.raises(DataError, match=r"is no folder of a run, so it has no step 3"):
        model_at(f"{place / 'model'}@3")
    assert model_at("gpt2") == "gpt2"


def test_a_step_is_exported_with_its_own_figures_on_the_card(place: Path) -> None:
    row = next(row for row in rows_of(place / "run") if row.get("split") == "eval" and row["step"] == 2)
    export_run(Path(f"{place / 'run'}@2"), place / "exported", "merged")
    assert equal(weights(place / "exported"), straight_to(place, 2))
    card = (place / "exported/README.md").read_text()
    assert "| steps | 2 |" in card and f"| held out: loss | {row['loss']:.6g} |" in card


def test_verbs_take_a_step(place: Path) -> None:
    (place / "prompts.txt").write_text("good\nbad\n")
    words = (str(place / "prompts.txt"), "--max-new-tokens", "4", "--temperature", "0")
    texts = []
    for name, step in ((f"{place / 'run'}@1", ()), (str(place / "run"), ("--step", "1"))):
        out = place / f"out{len(step)}.jsonl"
        done = CliRunner().invoke(app, ["generate", name, *words[:1], str(out), *words[1:], *step])
        assert done.exit_code == 0, done.output
        texts.append([json.loads(line)["response"] for line in out.read_text().splitlines()])
    assert texts[0] == texts[1]
    pairs = str(place / "pairs.jsonl")
    done = CliRunner().invoke(app, ["eval", "rewards", str(place / "run"), "--data", pairs, "--step", "1"])
    assert done.exit_code == 0 and (place / "run/rewards-1.json").is_file(), done.output
    out = str(place / "winrate")
    sides = [f"{place / 'run'}@1", str(place / "run"), "--prompts", str(place / "prompts.txt")]
    judge = ["--judge", f"{place / 'judge.py'}:length", "--out", out]
    (place / "judge.py").write_text("def length(prompt, response):\n    return float(len(response))\n")
    done = CliRunner().invoke(app, ["eval", "winrate", *sides, *judge, "--max-new-tokens", "4"])
    assert done.exit_code == 0 and "run@1 against run" in done.output, done.output
    with pytest.raises(ConfigError, match="a report is on a whole run"):
        CliRunner().invoke(app, ["report", f"{place / 'run'}@1", "-o", out], catch_exceptions=False)


def test_a_run_evaluates_before_its_first_step_and_ten_times(place: Path) -> None:
    assert [row["step"] for row in rows_of(place / "run") if "split" in row] == list(range(7))
    run_dpo(dpo_config(place, "longer", "max_steps=23", "eval_data=.3"))
    steps = [row["step"] for row in rows_of(place / "longer") if "split" in row]
    assert steps == [*range(0, 23, 2), 23]
    first = rows_of(place / "longer")[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5) and first["margin"] == pytest.approx(0, abs=1e-5)


def test_the_best_evaluation_keeps_its_weights(place: Path) -> None:
    rows = [row for row in rows_of(place / "run") if row.get("split") == "eval"]
    best = min(rows, key=lambda row: row["loss"])["step"]
    assert best_step(place / "run") == best and find_step(place / "run", "best")[0] == best
    folders = list((place / "run/checkpoints/best").iterdir())
    assert [path.name for path in folders] == [f"step-{best:06d}"]


def test_what_keep_best_needs_is_said_before_the_run(place: Path) -> None:
    for words in (("keep_best=loss",), ("stop_after=2",)):
        with pytest.raises(ConfigError, match=f"{words[0].partition('=')[0]} counts only with eval_data"):
            dpo_config(place, "none", *words)
    with pytest.raises(
        ConfigError, match="keep_best=accuracy: evaluations of this run have no accuracy; they have loss"
    ):
        run_sft(sft_config(place, "no-accuracy", "eval_data=.3", "keep_best=accuracy", "max_steps=3"))
    assert rows_of(place / "no-accuracy") == []


LOSSES = (0.7, 0.6, 0.65, 0.5, 0.55, 0.51, 0.52, 0.4)
"""Held-out losses of steps 0, 1, ...: three evaluations in a row without a gain end the run at step 6."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SupervisedSteps, "evaluate", lambda self, progress, stop: {"loss": LOSSES[progress.step]})


def test_a_run_ends_after_evaluations_without_gain_and_resumes_exactly(
    place: Path, scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("max_steps=7", "eval_data=.3", "keep_best=loss", "stop_after=3", "schedule=constant", "save_every=2")
    run_dpo(dpo_config(place, "early", *words))
    rows = rows_of(place / "early")
    assert [row["step"] for row in rows if row.get("split") == "eval"] == [*range(7)]
    assert max(row["step"] for row in rows) == 6 and best_step(place / "early") == 3
    summary = json.loads((place / "early/summary.json").read_text())
    assert summary["steps"] == 6 and summary["ended_early"] is True
    assert equal(weights(place / "early/model"), straight_to(place, 6))
    before = (place / "early/model/model.safetensors").stat().st_mtime_ns
    run_dpo(dpo_config(place, "early", *words))  # it is finished
    assert (place / "early/model/model.safetensors").stat().st_mtime_ns == before

    write = loop.Tracker.write

    def stop_at_five(self: loop.Tracker, row: loop.Row) -> None:
        write(self, row)
        if row.get("split") == "eval" and row["step"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Tracker, "write", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        run_dpo(dpo_config(place, "killed", *words))
    monkeypatch.setattr(loop.Tracker, "write", write)
    run_dpo(dpo_config(place, "killed", *words))
    assert rows_of(place / "killed") == rows
    assert equal(weights(place / "killed/model"), weights(place / "early/model"))
    run_dpo(dpo_config(place, "killed", *(word.replace("after=3", "after=4") for word in words)))
    assert json.loads((place / "killed/summary.json").read_text())["steps"] == 7


def test_an_evaluation_that_is_repeated_counts_once() -> None:
    best = BestSoFar("loss")
    assert best.add(0, {"loss": 2.0}) and not best.add(0, {"loss": 2.0}) and best.without_gain == 0
    assert not best.add(1, {"loss": 3.0}) and not best.add(1, {"loss": 3.0}) and best.without_gain == 1


def test_another_figure_on_resume_keeps_the_best_by_that_figure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [{"loss": 1 - n / 10, "accuracy": value} for n, value in enumerate((0.9, 0.5, 0.6, 0.7, 0.65))]
    monkeypatch.setattr(SupervisedSteps, "evaluate", lambda self, progress, stop: figures[progress.step])
    words = ("eval_data=.3", "eval_every=1", "schedule=constant")
    run_dpo(dpo_config(place, "figure", *words, "max_steps=2", "keep_best=loss"))
    assert best_step(place / "figure") == 2
    run_dpo(dpo_config(place, "figure", *words, "max_steps=4", "keep_best=accuracy"))
    assert best_step(place / "figure") == 3, "the best of the evaluations whose weights could be kept"


def test_a_run_from_step_0_is_not_taken_for_an_earlier_one(place: Path) -> None:
    out = place / "again"
    (out / "steps" / "step-000002").mkdir(parents=True)
    (out / ".lock").write_text("process 1 on here\n")
    (out / "trackers.json").write_text("{}")
    run_dpo(dpo_config(place, "again", "max_steps=1"))
    assert not (out / "steps").exists() and not (out / "trackers.json").exists()


def test_snapshots_are_kept_by_default_where_they_are_small() -> None:
    small, large = torch.nn.Linear(10, 10), torch.nn.Linear(1, 1, device="meta")
    assert snapshot_factor("auto", small, 1000) == 2
    assert snapshot_factor(None, small, 1000) is None
    assert snapshot_factor(3.0, large, 1000) == 3
    # 2^25 weights of 4 bytes are 1/8 GiB: steps 1, 2, 4 .. 128 are eight of them, 256 is a ninth.
    wide = torch.nn.Linear(2**12, 2**13, bias=False, device="meta")
    assert snapshot_factor("auto", wide, 255) == 2
    assert snapshot_factor("auto", wide, 256) is None


def test_an_adapter_and_a_stopped_run_and_a_reward_model_have_steps(place: Path) -> None:
    run_dpo(dpo_config(place, "lora", "lora.r=2", "max_steps=3", "snapshots=2", "save_every=1"))
    folder = Path(model_at(f"{place / 'lora'}@2"))
    assert (folder / "adapter_config.json").exists() and not (folder / "model.safetensors").exists()
    run_dpo(dpo_config(place, "lora-2", "lora.r=2", "max_steps=2"))
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (folder, place / "lora-2/model"))
    assert equal(ours, theirs)
    words = [f"model={place / 'model'}", f"data={place / 'pairs.jsonl'}", f"out={place / 'rm'}", "max_steps=3"]
    run_reward(load_config(RewardConfig, [*words, "batch_size=4", f"cache={place / 'cache'}"]))
    assert (Path(model_at(f"{place / 'rm'}@2")) / "config.json").exists()
    (place / "rm/summary.json").unlink()
    with pytest.raises(DataError, match="it has those of steps 1, 2, 3"):
        model_at(f"{place / 'rm'}@7")
