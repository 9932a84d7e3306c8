"""A loss that remembers earlier steps goes on, after a stop, as if there had been none."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from preftree.losses.registry import LOSSES
from preftree.storage.checkpoint import load_checkpoint
from preftree.train.dpo import run_dpo
from preftree.train.step import supervised
from support.small_runs import dpo_config, make_model, make_pairs, rows_of
from support.step_losses import SPECS

WORDS = ("max_steps=5", "save_every=null", "eval_data=.2", "eval_every=2")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 22)
    for name, spec in SPECS.items():
        monkeypatch.setitem(LOSSES, name, spec)
    return tmp_path


@pytest.mark.parametrize("loss", ["lagging", "{lagging: 1, centred: .5}"])
def test_a_stop_changes_no_bit_of_the_state(place: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    words = (*WORDS, f"loss={loss}")
    run_dpo(dpo_config(place, "straight", *words))
    real = supervised.take_step

    def take_step(*args: object, **options: object) -> object:
        if options["name"] == "step 3":
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(supervised, "take_step", take_step)
    assert run_dpo(dpo_config(place, "stopped", *words)).progress.step == 3
    monkeypatch.setattr(supervised, "take_step", real)
    ended = run_dpo(dpo_config(place, "stopped", *words)).progress

    rows = [row for row in rows_of(place / "straight") if "split" not in row]
    assert rows_of(place / "stopped") == rows_of(place / "straight")
    assert [row["lagging.steps"] for row in rows] == [1, 2, 3, 4, 5]
    assert ended.state == {"lagging.mean": rows[-1]["lagging.mean"], "lagging.steps": 5}
    assert ended.state["lagging.mean"] not in (0.0, rows[-2]["lagging.mean"])
    models = [(place / out / "model" / "model.safetensors").read_bytes() for out in ("straight", "stopped")]
    assert models[0] == models[1]
    last = load_checkpoint(place / "stopped" / "checkpoints")
    assert last is not None and last.state.meta["progress"]["state"] == ended.state
