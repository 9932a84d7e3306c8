"""Every kind of damage to every file of a checkpoint: none of it may load."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from preftree.errors import CheckpointError
from preftree.storage.checkpoint import CheckpointState, LoadedCheckpoint, load_checkpoint, save_checkpoint
from preftree.storage.manifest import write_manifest

FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "meta.json", "MANIFEST.json")
FLIPS = 110


def make_state(step: int) -> CheckpointState:
    generator = torch.Generator().manual_seed(step)
    weights = {f"layer.{index}": torch.randn(8, 8, generator=generator) for index in range(3)}
    return CheckpointState(
        {
            "model": weights,
            "optimizer": {f"{name}.exp_avg": value * 0.1 for name, value in weights.items()},
            "rng": {"cpu": generator.get_state()},
        },
        {"examples": step * 64, "epoch": 0, "loss_sum": 0.69 * step},
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("damage")
    for step in (1, 2):
        save_checkpoint(root, step, make_state(step), keep=2)
    return root


def damages(name: str) -> Iterator[tuple[str, Callable[[bytes, bytes], bytes | None]]]:
    """Ways to harm a file: from its bytes and those of the same file at another step to new bytes, or to nothing."""
    yield "missing", lambda own, other: None
    yield "empty", lambda own, other: b""
    yield "half", lambda own, other: own[: len(own) // 2]
    yield "last byte lost", lambda own, other: own[:-1]
    yield "one byte more", lambda own, other: own + b"\0"
    yield "all zero", lambda own, other: bytes(len(own))
    yield "of another step", lambda own, other: other
    random_places = random.Random(name)
    for _ in range(FLIPS):
        where = random_places.random()
        bit = random_places.randrange(8)

        def flip(own: bytes, other: bytes, where: float = where, bit: int = bit) -> bytes:
            place = int(where * len(own))
            return own[:place] + bytes([own[place] ^ (1 << bit)]) + own[place + 1 :]

        yield f"bit {bit} flipped at {where:.3f}", flip


@pytest.mark.parametrize("name", FILES)
def test_no_damage_is_silent(checkpoints, name):
    good, bad = checkpoints / "step-000001", checkpoints / "step-000002"
    own, other = (bad / name).read_bytes(), (good / name).read_bytes()
    silent = []
    count = 0
    for what, damage in damages(name):
        harmed = damage(own, other)
        assert harmed != own, what
        if harmed is None:
            (bad / name).unlink()
        else:
            (bad / name).write_bytes(harmed)
        count += 1
        loaded = load_checkpoint(checkpoints)
        if loaded is None or loaded.step != 1 or len(loaded.skipped) != 1 or str(bad) not in loaded.skipped[0]:
            silent.append(what)
        elif not _is_intact(loaded):
            silent.append(f"{what}: fell back to something else")
        with pytest.raises(CheckpointError):
            load_checkpoint(checkpoints, bad)
    (bad / name).write_bytes(own)
    restored = load_checkpoint(checkpoints)
    assert restored is not None
    assert restored.step == 2
    assert silent == []
    assert count == FLIPS + 7  # times five files: 585


def test_two_steps_with_swapped_names(checkpoints):
    one, two, aside = checkpoints / "step-000001", checkpoints / "step-000002", checkpoints / "aside"
    swaps = [(one, aside), (two, one), (aside, two)]
    for source, target in swaps:
        os.rename(source, target)
    with pytest.raises(CheckpointError, match="holds step"):
        load_checkpoint(checkpoints)
    for source, target in swaps:
        os.rename(source, target)
    loaded = load_checkpoint(checkpoints)
    assert loaded is not None
    assert loaded.step == 2


def _is_intact(loaded: LoadedCheckpoint) -> bool:
    wanted = make_state(loaded.step)
    if wanted.meta != loaded.state.meta:
        return False
    return all(
        torch.equal(loaded.state.tensors[file][name], tensor)
        for file, tensors in wanted.tensors.items()
        for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("name", ["model", "optimizer", "rng", "meta.json"])
@pytest.mark.parametrize("source", ["another step", "another run", "another file"])
def test_a_mix_up_is_found_though_the_manifest_was_made_to_match(tmp_path: Path, name: str, source: str) -> None:
    for run in ("one", "two"):
        for step in (1, 2):
            state = make_state(step)
            about = CheckpointState(state.tensors, {**state.meta, "trajectory": {"weights of the model": run}})
            save_checkpoint(tmp_path / run, step, about, keep=2)
    bad = tmp_path / "one" / "step-000002"
    file = name if name == "meta.json" else f"{name}.safetensors"
    taken = {
        "another step": tmp_path / "one" / "step-000001" / file,
        "another run": tmp_path / "two" / "step-000002" / file,
        "another file": bad / ("rng.safetensors" if name == "model" else "model.safetensors"),
    }[source]
    (bad / file).write_bytes(taken.read_bytes())
    write_manifest(bad)
    with pytest.raises(CheckpointError, match=r"step-000002"):
        load_checkpoint(tmp_path / "one", bad)
    loaded = load_checkpoint(tmp_path / "one")
    assert loaded is not None
    assert loaded.step == 1
    assert len(loaded.skipped) == 1


def test_a_checkpoint_of_an_earlier_version_is_read_and_says_so(tmp_path: Path) -> None:
    state = make_state(1)
    path = save_checkpoint(tmp_path, 1, state, keep=1)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"format": 1}))
    for name, tensors in state.tensors.items():
        save_file(dict(tensors), path / f"{name}.safetensors", metadata={"ties": "{}"})
    write_manifest(path)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert not loaded.named
    assert _is_intact(loaded)
