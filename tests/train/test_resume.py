"""A run that was stopped and taken up again is, bit for bit, the run that was not."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from preftree.config.base import RunConfig
from preftree.config.dpo import DpoConfig
from preftree.errors import CheckpointError, ConfigError, HalfwayError, ModelError, TrainingError, UserError
from preftree.run_folder.metrics_file import Tracker
from preftree.scoring.scorer import Scorer
from preftree.storage.checkpoint import CheckpointState, LoadedCheckpoint, list_checkpoints
from preftree.train import loop
from preftree.train.dpo import run_dpo
from preftree.train.loop import Outcome
from preftree.train.sft import run_sft
from preftree.train.state import Progress
from preftree.train.step import supervised
from support.small_runs import dpo_config, load_trained, make_model, make_pairs, rows_of, sft_config

STEPS = 7  # with 18 training pairs: 5 steps an epoch, so the run crosses into the second


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 22)
    return folder


def config_of(place: Path, out: str, *words: str) -> DpoConfig:
    base = (f"max_steps={STEPS}", "eval_data=.2", "eval_every=3", "save_every=null", "schedule=linear")
    given = {word.partition("=")[0] for word in words}
    return dpo_config(place, out, *(word for word in base if word.partition("=")[0] not in given), *words)


def run(config: RunConfig) -> Outcome:
    return run_dpo(config) if isinstance(config, DpoConfig) else run_sft(config)


def stop_during(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> Callable[[], None]:
    """Send this process a signal in the middle of an update; gives back what undoes it."""
    real = supervised.take_step

    def take_step(*args: object, **options: object) -> object:
        if options["name"] == f"step {step}":
            signal.raise_signal(number)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", take_step)
    return lambda: monkeypatch.setattr(supervised, "take_step", real)


def final_state(out: Path) -> dict[str, object]:
    """Hashes of everything the last checkpoint and the model hold, the clock left out."""
    last = list_checkpoints(out / "checkpoints")[-1]
    meta = json.loads((last / "meta.json").read_text())
    assert meta["meta"]["progress"].pop("seconds") > 0
    assert len(meta["meta"]["progress"].pop("rows_sha256")) == 64  # over the clock's fields, too
    del meta["meta"]["config"]["out"], meta["meta"]["config"]["micro_batch_tokens"]
    files = {path.name: path for path in (*last.glob("*.safetensors"), *(out / "model").glob("*.safetensors"))}
    return {"meta": meta, **{name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}}


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    outcome = run(config_of(place, "straight"))
    assert (outcome.signum, outcome.progress.step) == (0, STEPS)
    return place / "straight"


@pytest.mark.parametrize("step", range(1, STEPS))
def test_three_stops_in_a_row_change_no_bit(
    place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out = place / f"stopped-{step}"
    for number, at in ((signal.SIGTERM, step), (signal.SIGINT, step + 1), (signal.SIGTERM, step + 2)):
        if at > STEPS:
            break
        undo = stop_during(monkeypatch, at, number)
        outcome = run(config_of(place, out.name))
        undo()
        assert (outcome.signum, outcome.progress.step) == (number, at)
        assert list_checkpoints(out / "checkpoints")[-1].name == f"step-{at:06d}"
        assert not (out / "model").exists()
    assert run(config_of(place, out.name)).signum == 0
    assert final_state(out) == final_state(straight)
    assert rows_of(out) == rows_of(straight)
    assert sum(row.get("split") == "eval" for row in rows_of(out)) == 4


def test_sft_resumes_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("max_steps=6", "eval_data=.2", "eval_every=2", "save_every=2")
    run(sft_config(place, "sft-straight", *words))
    undo = stop_during(monkeypatch, 3, signal.SIGTERM)
    assert run(sft_config(place, "sft-stopped", *words)).signum == signal.SIGTERM
    undo()
    run(sft_config(place, "sft-stopped", *words))
    assert final_state(place / "sft-stopped") == final_state(place / "sft-straight")
    assert rows_of(place / "sft-stopped") == rows_of(place / "sft-straight")


@pytest.mark.parametrize("words", [("loss=constrained_dpo", "loss.bound=.2", "loss.step_size=.5"), ("loss=beta_dpo",)])
def test_a_loss_with_a_running_state_goes_on_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    costs = [row | {"cost_chosen": index % 3 / 2, "cost_rejected": 0.25} for index, row in enumerate(rows)]
    (place / "costs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in costs))
    name = words[0].removeprefix("loss=")
    words = (*words, f"data={place / 'costs.jsonl'}", "lr=1e-2")
    run(config_of(place, f"{name}-straight", *words))
    undo = stop_during(monkeypatch, 4, signal.SIGTERM)
    assert run(config_of(place, f"{name}-stopped", *words)).signum == signal.SIGTERM
    undo()
    state = run(config_of(place, f"{name}-stopped", *words)).progress.state
    told = rows_of(place / f"{name}-straight")
    assert rows_of(place / f"{name}-stopped") == told
    assert final_state(place / f"{name}-stopped") == final_state(place / f"{name}-straight")
    last = [row for row in told if "split" not in row][-1]
    assert {key: last[key] for key in state} == dict(state)
    assert all(key.startswith(f"{name}.") for key in state) and any(state.values())


def test_rows_after_the_checkpoint_are_cut_off(place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **options: object) -> None:
        if options["name"] == "step 6":
            raise KeyError("as good as a power cut: nothing is saved any more")
        return real(*_, **options)  # pyright: ignore[reportReturnType, reportArgumentType]

    real = supervised.take_step
    monkeypatch.setattr(supervised, "take_step", die)
    with pytest.raises(KeyError):
        run(config_of(place, "killed", "save_every=2"))
    monkeypatch.setattr(supervised, "take_step", real)
    with (place / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a torn line
    assert len(rows_of_torn(place / "killed")) == 7
    run(config_of(place, "killed", "save_every=2"))
    assert rows_of(place / "killed") == rows_of(straight)


def rows_of_torn(out: Path) -> list[str]:
    return [line for line in (out / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]


def test_what_may_change_when_a_run_goes_on(place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = stop_during(monkeypatch, 2, signal.SIGTERM)
    run(config_of(place, "moved"))
    undo()
    shutil.move(place / "moved", place / "elsewhere")
    run(config_of(place, "elsewhere", "save_every=1", "keep_checkpoints=1", "gradient_checkpointing=true"))
    assert len(list_checkpoints(place / "elsewhere" / "checkpoints")) == 1
    assert rows_of(place / "elsewhere") == rows_of(straight)
    ours, theirs = load_trained(place / "elsewhere"), load_trained(straight)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lr=2e-3",), "lr was 0.001, is 0.002"),
        (("beta=.2",), "beta was 0.1, is 0.2"),
        (("loss=ipo",), "loss was dpo, is ipo"),
        (("batch_size=5",), "batch_size was 4, is 5"),
        (("seed=1",), "seed was 0, is 1"),
        (("optimizer=adamw",), "optimizer was rmsprop, is adamw"),
        (("precision=bf16",), "precision was fp32, is bf16"),
        (("max_steps=8",), "steps of the schedule was 7, is 8"),
        (("warmup_steps=3",), "steps of warm-up was 2, is 3"),
        (("max_length=30",), "max_length was 1024, is 30"),
        (("eval_data=.3",), "held-out share was 0.2, is 0.3"),
        (("data.order=example",), "data.order was prompt, is example"),
    ],
)
def test_another_trajectory_is_refused_by_name(place: Path, straight: Path, words: tuple[str, ...], said: str) -> None:
    before = (straight / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError) as caught:
        run(config_of(place, "straight", "data.max_rejected=1.0", *words))
    assert said in str(caught.value)
    assert "put that back to resume, or choose another out=" in str(caught.value)
    assert (straight / "config.yaml").read_bytes() == before


def test_another_start_is_refused(place: Path, straight: Path) -> None:
    make_model(place / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"weights of the model was \w{8}\.\., is \w{8}\.\."):
        run(config_of(place, "straight", f"model={place / 'other'}"))


def test_a_finished_run_is_left_as_it_is(place: Path, straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(config_of(place, "straight")).progress.step == STEPS
    with pytest.raises(ConfigError, match="holds a finished run"):
        run(config_of(place, "straight", "resume=never"))
    after = {path: path.stat().st_mtime_ns for path in straight.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_never_starts_over_and_says_so(
    place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undo = stop_during(monkeypatch, 4, signal.SIGTERM)
    run(config_of(place, "again", "beta=.5", "save_every=2"))
    undo()
    run(config_of(place, "again", "resume=never"))
    assert "deleting 2 checkpoints of an earlier run" in caplog.text
    assert rows_of(place / "again") == rows_of(straight)


@pytest.mark.parametrize("warmup", ["2", "0.5"])
def test_a_finished_run_goes_on_under_a_constant_rate(place: Path, warmup: str) -> None:
    words, short = ("schedule=constant", f"warmup_steps={warmup}"), f"short-{warmup}"
    run(config_of(place, short, *words, "max_steps=4"))
    run(config_of(place, short, *words, "max_steps=5"))
    run(config_of(place, short, *words, "max_steps=6"))
    run(config_of(place, f"long-{warmup}", "schedule=constant", "warmup_steps=2", "max_steps=6"))
    with pytest.raises(CheckpointError, match="steps of warm-up was 2, is 5"):
        run(config_of(place, short, "schedule=constant", "warmup_steps=0.9", "max_steps=6"))
    ours, theirs = load_trained(place / short), load_trained(place / f"long-{warmup}")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_model_without_checkpoints_is_not_overwritten(place: Path, straight: Path) -> None:
    shutil.copytree(straight, place / "bare")
    shutil.rmtree(place / "bare" / "checkpoints")
    with pytest.raises(ConfigError, match="holds a model but no checkpoint"):
        run(config_of(place, "bare"))


def test_a_named_checkpoint_in_a_fresh_folder(place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = stop_during(monkeypatch, 4, signal.SIGTERM)
    run(config_of(place, "source"))
    undo()
    run(config_of(place, "branch", f"resume={place / 'source' / 'checkpoints' / 'step-000004'}"))
    assert rows_of(place / "branch") == rows_of(straight)[-5:]
    assert final_state(place / "branch")["model.safetensors"] == final_state(straight)["model.safetensors"]
    with pytest.raises(CheckpointError, match="holds later checkpoints than step-000004"):
        run(config_of(place, "straight", f"resume={place / 'source' / 'checkpoints' / 'step-000004'}"))


def test_a_damaged_checkpoint_is_passed_over_and_said(
    place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undo = stop_during(monkeypatch, 5, signal.SIGTERM)
    run(config_of(place, "damaged", "save_every=3"))
    undo()
    path = place / "damaged" / "checkpoints" / "step-000005" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    run(config_of(place, "damaged", "save_every=3"))
    assert "step-000005" in caplog.text
    assert rows_of(place / "damaged") == rows_of(straight)


@pytest.mark.parametrize("error", [TrainingError, ModelError])
def test_a_step_that_fails_leaves_the_state_before_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: type[UserError]
) -> None:
    real = supervised.take_step

    def fail(*args: object, **options: object) -> object:
        if options["name"] == "step 3":
            raise error("step 3: loss is nan for pairs.jsonl:1")
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", fail)
    out = f"failed-{error.__name__}"
    with pytest.raises(error, match="step 3"):
        run(config_of(place, out))
    assert [path.name for path in list_checkpoints(place / out / "checkpoints")] == ["step-000002"]


SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB. See https://pytorch.org"


def test_a_lack_of_memory_costs_nothing_and_smaller_micro_batches_go_on(
    place: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, forward, short = supervised.take_step, Scorer.forward, False

    def take_step(*args: object, **options: object) -> object:
        nonlocal short
        short = options["name"] == "step 3"
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    def lacks_memory(self: Scorer, *args: Any) -> Tensor:
        if short:
            raise torch.OutOfMemoryError(SAID)
        return forward(self, *args)

    monkeypatch.setattr(supervised, "take_step", take_step)
    monkeypatch.setattr(Scorer, "forward", lacks_memory)
    with pytest.raises(TrainingError) as caught:
        run(config_of(place, "memory"))
    assert str(caught.value) == (
        "the device ran out of memory (CUDA out of memory, Tried to allocate 2.00 GiB, GPU 0 has a total capacity of "
        "79.1 GiB); lower micro_batch_tokens, or raise gradient_checkpointing: neither changes the result of training"
    )
    assert [path.name for path in list_checkpoints(place / "memory" / "checkpoints")] == ["step-000002"]
    monkeypatch.undo()
    run(config_of(place, "memory", "micro_batch_tokens=96"))
    found, expected = rows_of(place / "memory"), rows_of(straight)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)


def test_a_lack_of_memory_for_the_optimiser_is_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks_memory(*_: object) -> None:
        raise torch.OutOfMemoryError(SAID)

    monkeypatch.setattr(torch.optim.RMSprop, "step", lacks_memory)
    with pytest.raises(HalfwayError, match="while the weights were updated; use optimizer=rmsprop or adamw_8bit, or"):
        run(config_of(place, "moments"))
    assert not list_checkpoints(place / "moments" / "checkpoints")


def test_an_evaluation_that_fails_leaves_the_state_before_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **options: object) -> None:
        raise TrainingError(f"{options['name']}: loss is inf for pairs.jsonl:1")

    monkeypatch.setattr(supervised, "measure", fail)
    with pytest.raises(TrainingError, match="evaluation after step 0: loss is inf"):
        run(config_of(place, "unmeasured"))
    assert [path.name for path in list_checkpoints(place / "unmeasured" / "checkpoints")] == ["step-000000"]


@pytest.mark.parametrize("held_out", [True, False])
def test_weights_that_are_not_finite_are_never_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    real = supervised.take_step

    def spoil(*args: object, **options: object) -> object:
        result = real(*args, **options)  # pyright: ignore[reportArgumentType]
        if options["name"] == "step 4":
            scorer = args[1]
            assert isinstance(scorer, Scorer)
            with torch.no_grad():
                next(scorer.parameters())[0] = torch.inf
        return result

    monkeypatch.setattr(supervised, "take_step", spoil)
    out = place / f"spoilt-{held_out}"
    words = ("eval_data=.2", "eval_every=4") if held_out else ("eval_data=null", "eval_every=null")
    with pytest.raises(TrainingError, match=r"after step 4 1 of the model's tensors are not finite, first model\.\S+;"):
        run(config_of(place, out.name, *words, "max_steps=4", "save_every=2"))
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step-000002"]
    assert not (out / "model").exists()


def test_a_run_lets_the_checkpoint_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = stop_during(monkeypatch, 2, signal.SIGTERM)
    run(config_of(place, "let-go"))
    undo()
    starts: list[LoadedCheckpoint] = []
    real, restore = supervised.take_step, loop.restore

    def keep(
        model: nn.Module, optimizer: Optimizer, checkpoint: LoadedCheckpoint, reference: nn.Module | None
    ) -> Progress:
        starts.append(checkpoint)
        return restore(model, optimizer, checkpoint, reference)

    def look(*args: object, **options: object) -> object:
        assert not starts[0].state.tensors
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loop, "restore", keep)
    monkeypatch.setattr(supervised, "take_step", look)
    assert run(config_of(place, "let-go")).progress.step == STEPS
    assert len(starts) == 1


def test_rows_are_on_disk_before_a_checkpoint_counts_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    sync, save = Tracker.sync, loop.save_checkpoint

    def note_sync(tracker: Tracker) -> None:
        told.append(f"rows {tracker.num_rows}")
        sync(tracker)

    def note_save(root: Path, step: int, state: CheckpointState, *, keep: int) -> Path:
        told.append(f"counts {state.meta['progress']['rows']}")
        return save(root, step, state, keep=keep)

    monkeypatch.setattr(Tracker, "sync", note_sync)
    monkeypatch.setattr(loop, "save_checkpoint", note_save)
    run(config_of(place, "synced", "max_steps=4", "save_every=2", "eval_data=null", "eval_every=null"))
    assert told == ["rows 2", "counts 2", "rows 4", "counts 4", "rows 4"]


def test_two_trainers_in_one_folder(place: Path) -> None:
    import fcntl

    folder = place / "taken"
    folder.mkdir()
    with (folder / ".lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="in use"):
            run(config_of(place, "taken"))
