"""References that score beside the policy: for a KL over the vocabulary, or since they follow the policy."""

from __future__ import annotations

import math
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from preftree.config.lora import LoraOptions
from preftree.errors import CheckpointError, ConfigError, TrainingError
from preftree.models.adapter_folder import write_adapter
from preftree.models.adapters import add_adapter
from preftree.models.load import load_model
from preftree.reference.moving import MovingReference
from preftree.scoring.scorer import Scorer
from preftree.storage.checkpoint import load_checkpoint
from preftree.train import policy
from preftree.train.dpo import build_reference_table, run_dpo
from preftree.train.step import supervised
from support.adapters import moved
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

WORDS = ("max_steps=5", "schedule=constant", "lr=3e-3", "warmup_steps=0")
FOLLOWING = (*WORDS, "reference.sync_every=2", "reference.mixup=.25")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    return folder


@pytest.mark.parametrize("words", [("loss=tdpo1",), ("loss=tdpo2",), ("loss=tdpo2", "lora.r=4"), FOLLOWING[3:]])
def test_a_run_starts_where_its_live_reference_is(
    place: Path, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = "-".join(word.replace("=", "-").replace(".", "-") for word in words)
    run_dpo(dpo_config(place, out, *WORDS[:3], *words, *(("warmup_steps=0",) if "loss" in words[0] else ())))
    rows = rows_of(place / out)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-9) and rows[0]["chosen_logratio"] == 0
    assert rows[-1]["loss"] != rows[0]["loss"]
    kind = "the policy without its adapter" if "lora.r=4" in words else "a second model in memory"
    assert f"the reference scores beside the policy in every step: {kind}" in caplog.text
    assert not (place / "cache" / "tables").exists()
    assert "policy equals reference: 0.0e+00 nats of" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        ("loss=tdpo1",),
        ("loss=tdpo1", "lora={}", "precision=bf16"),
        ("loss=tdpo2", "lora.r=4", "lora.new=true"),
        FOLLOWING[4:],
    ],
)
def test_a_start_with_an_adapter_is_compared_as_well(
    place: Path, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Merged into the weights, trained further, or merged under a new one."""
    caplog.set_level("INFO")
    folder = place / "adapter"
    if not folder.exists():
        model = load_model(place / "model")
        add_adapter(model, LoraOptions(r=2).filled(), seed=3)
        moved(model)
        folder.mkdir()
        write_adapter(model, str(place / "model"), folder)
    out = f"start-{'-'.join(words)}".replace("=", "").replace(".", "")
    run_dpo(dpo_config(place, out, f"model={folder}", "max_steps=1", *words))
    assert "policy equals reference" in caplog.text


@pytest.mark.parametrize("word", ["loss=tdpo2", "reference.sync_every=2"])
def test_a_live_reference_that_is_not_the_start_stops_the_run(
    place: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = policy.load_frozen

    def other(*args: Any, **options: Any) -> Any:
        scorer, weights = real(*args, **options)
        with torch.no_grad():
            next(iter(scorer.parameters())).mul_(1.01)
        return scorer, weights

    monkeypatch.setattr(policy, "load_frozen", other)
    with pytest.raises(TrainingError, match="before the first step the policy differs from its reference by"):
        run_dpo(dpo_config(place, "broken", *WORDS, word))


def test_a_live_reference_that_is_another_model_is_not_compared(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_model(place / "other", seed=5)
    run_dpo(dpo_config(place, "elsewhere", "max_steps=1", "loss=tdpo1", f"reference={place / 'other'}"))
    assert "not compared with the reference: it is" in caplog.text


def test_the_reference_follows_by_the_formula(place: Path) -> None:
    run_dpo(dpo_config(place, "every", *FOLLOWING, "save_every=1", "keep_checkpoints=9"))
    root = place / "every" / "checkpoints"
    found = [load_checkpoint(root, root / f"step-{step:06d}") for step in range(1, 6)]
    states = [loaded.state.tensors for loaded in found if loaded is not None]
    for step, (before, now) in enumerate(zip([states[0], *states[:-1]], states, strict=True), start=1):
        for name, value in now["reference"].items():
            expected = before["reference"][name]
            if step % 2 == 0:
                expected = 0.25 * now["model"][name] + 0.75 * expected
            assert torch.equal(value, expected) or (value - expected).abs().max() < 1e-7
    name = next(iter(states[0]["model"]))
    assert not torch.equal(states[4]["reference"][name], states[0]["reference"][name])
    rows = rows_of(place / "every")
    run_dpo(dpo_config(place, "fixed", *WORDS))
    fixed = rows_of(place / "fixed")
    assert [row["loss"] for row in rows[:2]] == pytest.approx([row["loss"] for row in fixed[:2]], abs=1e-5)
    assert abs(float(rows[4]["chosen_logratio"]) - float(fixed[4]["chosen_logratio"])) > 1e-3


def test_a_stop_changes_no_bit_of_a_reference_that_follows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dpo(dpo_config(place, "straight", *FOLLOWING, "eval_data=.3"))
    real = supervised.take_step

    def take_step(*args: object, **options: object) -> object:
        if options["name"] == "step 3":
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", take_step)
    assert run_dpo(dpo_config(place, "stopped", *FOLLOWING, "eval_data=.3")).progress.step == 3
    monkeypatch.setattr(supervised, "take_step", real)
    with pytest.raises(CheckpointError, match=r"reference.mixup was 0.25, is 0.5"):
        run_dpo(dpo_config(place, "stopped", *FOLLOWING[:-1], "reference.mixup=.5", "eval_data=.3"))
    run_dpo(dpo_config(place, "stopped", *FOLLOWING, "eval_data=.3"))
    assert rows_of(place / "stopped") == rows_of(place / "straight")
    ends = [load_checkpoint(place / out / "checkpoints") for out in ("straight", "stopped")]
    tensors = [end.state.tensors for end in ends if end is not None]
    for file in ("model", "reference"):
        assert all(torch.equal(value, tensors[1][file][name]) for name, value in tensors[0][file].items())


def test_a_mixup_of_one_is_a_copy() -> None:
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    reference = MovingReference(lambda: nullcontext(Scorer(other)), other, 3, 1.0)
    reference.follow(one, 2)
    assert not torch.equal(one.weight, other.weight)
    reference.follow(one, 3)
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("reference.sync_every=2", "lora.r=4"), "reference.sync_every moves all weights of the reference, and lora"),
        (("reference.sync_every=2", "loss=simpo"), "loss simpo uses no reference, got a schedule for it"),
    ],
)
def test_what_cannot_follow_is_a_sentence(place: Path, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_dpo(dpo_config(place, "refused", *words))


@pytest.mark.parametrize("word", ["loss=tdpo1", "reference.sync_every=2"])
def test_a_live_reference_has_no_table(place: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="scores beside the policy in every step: there is no table to build"):
        build_reference_table(dpo_config(place, "none", word))
