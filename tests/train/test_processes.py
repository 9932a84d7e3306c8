"""Whole runs in two processes: one trajectory, one writer, and a stop that every rank takes at the same step."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preftree.storage.checkpoint import list_checkpoints
from preftree.train.dpo import run_dpo
from preftree.train.step import supervised
from support.ranks import run_processes
from support.small_runs import dpo_config, load_trained, make_model, make_pairs, rows_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 22)
    return folder


WORDS = ("eval_data=.2", "eval_every=3", "max_steps=6", "batch_size=8", "micro_batch_tokens=96")


def assert_same_course(ours: Path, theirs: Path) -> None:
    """fp32 sums in another order: equal but for rounding."""
    for a, b in zip(rows_of(ours), rows_of(theirs), strict=True):
        numbers = {name for name in a if isinstance(a[name], float | int)}
        assert {n: a[n] for n in numbers} == pytest.approx({n: b[n] for n in numbers}, rel=1e-4, abs=1e-4)
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    pairs = zip(load_trained(ours).parameters(), load_trained(theirs).parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_two_processes_train_as_one(place: Path) -> None:
    run_dpo(dpo_config(place, "one", *WORDS))

    def work(rank: int) -> None:
        outcome = run_dpo(dpo_config(place, "two", *WORDS))
        assert outcome.progress.step == 6

    run_processes(2, work)
    assert_same_course(place / "two", place / "one")
    assert len([row for row in rows_of(place / "two") if row.get("split") == "eval"]) == 3


def test_two_processes_train_an_adapter_as_one(place: Path) -> None:
    words = (*WORDS, "lora.r=4", "batch_size=3")  # of three pairs, a rank has none now and then
    words = tuple(word for word in words if word != "batch_size=8")
    run_dpo(dpo_config(place, "lora-one", *words))

    def work(rank: int) -> None:
        run_dpo(dpo_config(place, "lora-two", *words))

    run_processes(2, work)
    for a, b in zip(rows_of(place / "lora-two"), rows_of(place / "lora-one"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    folders = [place / out / "model" / "adapter_model.safetensors" for out in ("lora-one", "lora-two")]
    one, two = (load_file(path) for path in folders)
    assert one.keys() == two.keys()
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())


def test_a_signal_to_one_rank_stops_all_and_one_process_goes_on(place: Path) -> None:
    words = (*WORDS, "save_every=null")
    real = supervised.take_step

    def work(rank: int) -> None:
        def take_step(*args: object, **options: object) -> object:
            if rank == 1 and options["name"] == "step 2":
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*args, **options)  # pyright: ignore[reportArgumentType]

        supervised.take_step = take_step  # pyright: ignore[reportAttributeAccessIssue]
        outcome = run_dpo(dpo_config(place, "handed-over", *words))
        assert (outcome.signum, outcome.progress.step) == (signal.SIGTERM, 2)

    run_processes(2, work)
    (saved,) = list_checkpoints(place / "handed-over" / "checkpoints")
    assert saved.name == "step-000002"
    run_dpo(dpo_config(place, "handed-over", *words))
    run_dpo(dpo_config(place, "kept", *words))
    assert_same_course(place / "handed-over", place / "kept")
