"""Checkpoints: what goes in comes out, and the order of writing and deleting."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from preftree.errors import CheckpointError
from preftree.storage import atomic, checkpoint
from preftree.storage.checkpoint import CheckpointState, list_checkpoints, load_checkpoint, save_checkpoint


def state_at(step: int) -> CheckpointState:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(3, 5, generator=generator)
    return CheckpointState(
        {"model": {"weight": weight}, "optimizer": {"exp_avg": weight * 2, "step": torch.tensor(float(step))}},
        {"examples": step * 8, "lr": 0.1 + step, "names": ["a", None, True]},
    )


def same(left: CheckpointState, right: CheckpointState) -> bool:
    if left.meta != right.meta or left.tensors.keys() != right.tensors.keys():
        return False
    pairs = [(left.tensors[file], right.tensors[file]) for file in left.tensors]
    return all(a.keys() == b.keys() and all(identical(a[name], b[name]) for name in a) for a, b in pairs)


def identical(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_round_trip_of_every_dtype_and_shape(tmp_path):
    tensors = {
        "bf16": torch.randn(7, 3).bfloat16(),
        "f16": torch.randn(4).half(),
        "f32": torch.randn(2, 3, 4),
        "f64": torch.randn(5, dtype=torch.float64),
        "i64": torch.tensor([-(2**62), 2**62]),
        "i32": torch.arange(3, dtype=torch.int32),
        "u8": torch.get_rng_state(),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5),
        "scalar.int": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "empty.too": torch.empty(0),
        "transposed": torch.randn(3, 4).T,
        "with space / slash": torch.ones(1),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    meta = {"step": 3, "big": 2**80, "small": 5e-324, "third": 1 / 3, "text": "ä\n", "nested": {"list": [1, [2, {}]]}}
    save_checkpoint(tmp_path, 3, CheckpointState({"model": tensors}, meta), keep=1)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.skipped, loaded.path) == (3, (), tmp_path / "step-000003")
    assert loaded.state.meta == meta
    back = loaded.state.tensors["model"]
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert back[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    weight = torch.randn(1000, 10, requires_grad=True)
    flat = torch.arange(12.0)
    tensors = {"embed": weight, "head": weight, "head.data": weight.detach(), "left": flat[:8], "right": flat[4:]}
    path = save_checkpoint(tmp_path, 0, CheckpointState({"model": tensors}, {}), keep=1)
    assert (path / "model.safetensors").stat().st_size < 2 * weight.numel() * 4
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    back = loaded.state.tensors["model"]
    assert back["embed"] is back["head"] is back["head.data"]
    assert torch.equal(back["head"], weight)
    # Tensors that merely overlap are values of their own.
    assert torch.equal(back["left"], flat[:8])
    assert torch.equal(back["right"], flat[4:])
    back["left"].zero_()
    assert torch.equal(back["right"], flat[4:])


def test_loaded_memory_outlives_the_file(tmp_path):
    path = save_checkpoint(tmp_path, 1, state_at(1), keep=1)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    file = path / "model.safetensors"
    with open(file, "r+b") as handle, mmap.mmap(handle.fileno(), 0) as view:
        view[-60:] = bytes(60)  # an alias of the file would see this
    os.truncate(file, 0)  # and would die of this
    shutil.rmtree(path)
    assert same(loaded.state, state_at(1))
    loaded.state.tensors["model"]["weight"].add_(1)


def test_files_and_manifest(tmp_path):
    path = save_checkpoint(tmp_path, 12, state_at(12), keep=1)
    assert names(tmp_path) == ["step-000012"]
    assert names(path) == ["MANIFEST.json", "meta.json", "model.safetensors", "optimizer.safetensors"]
    files = json.loads((path / "MANIFEST.json").read_text())["files"]
    assert sorted(files) == ["meta.json", "model.safetensors", "optimizer.safetensors"]
    assert all(files[name]["size"] == (path / name).stat().st_size for name in files)


def test_nothing_there_is_none_and_a_missing_path_is_an_error(tmp_path):
    assert load_checkpoint(tmp_path / "absent") is None
    assert load_checkpoint(tmp_path) is None
    with pytest.raises(CheckpointError, match="step-000007 does not exist"):
        load_checkpoint(tmp_path, tmp_path / "step-000007")
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match="named step-NNNNNN"):
        load_checkpoint(tmp_path, tmp_path / "model")


def test_falls_back_and_says_so_but_never_from_a_named_one(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state_at(step), keep=3)
    (tmp_path / "step-000003" / "optimizer.safetensors").unlink()
    os.truncate(tmp_path / "step-000002" / "model.safetensors", 40)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert same(loaded.state, state_at(1))
    assert len(loaded.skipped) == 2
    assert "step-000003/optimizer.safetensors is missing" in loaded.skipped[0]
    assert "step-000002/model.safetensors is damaged: it should have" in loaded.skipped[1]
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is missing"):
        load_checkpoint(tmp_path, tmp_path / "step-000003")
    (tmp_path / "step-000001" / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint .* can be used .*resume=never"):
        load_checkpoint(tmp_path)


def test_a_renamed_folder_is_not_another_step(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state_at(step), keep=2)
    (tmp_path / "step-000001").rename(tmp_path / "step-000009")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 2
    assert "holds step 1" in loaded.skipped[0]


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 1, state_at(5), keep=2)
    save_checkpoint(tmp_path, 1, state_at(1), keep=2)
    assert names(tmp_path) == ["step-000001"]
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert same(loaded.state, state_at(1))


@pytest.mark.parametrize(
    ("state", "keep", "message"),
    [
        (state_at(1), 0, "keep must be >= 1"),
        (CheckpointState({}, {"pair": (1, 2)}), 1, "plain JSON"),
        (CheckpointState({}, {"by_number": {1: 2}}), 1, "plain JSON"),
        (CheckpointState({}, {"loss": float("nan")}), 1, "JSON"),
        (CheckpointState({"../model": {}}, {}), 1, "not a name for a file"),
    ],
)
def test_what_could_not_come_back_is_refused(tmp_path, state, keep, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, 1, state, keep=keep)
    assert names(tmp_path) == []


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=8), keep=st.integers(1, 4))
def test_retention(tmp_path_factory, steps, keep):
    """Against a list: after each save, the newest `keep` of the steps up to this one, and all later ones."""
    root = tmp_path_factory.mktemp("checkpoints")
    expected: set[int] = set()
    for step in steps:
        save_checkpoint(root, step, CheckpointState({}, {"step": step}), keep=keep)
        expected.add(step)
        upto = sorted(s for s in expected if s <= step)
        expected -= set(upto[:-keep])
        assert [path.name for path in list_checkpoints(root)] == [f"step-{s:06d}" for s in sorted(expected)]
        loaded = load_checkpoint(root, root / f"step-{step:06d}")
        assert loaded is not None
        assert loaded.state.meta == {"step": step}


def test_the_old_one_goes_only_after_the_new_one_is_in_place(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state_at(1), keep=1)
    seen = []

    def watch(path: Path) -> None:
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        seen.append((path.name, loaded.step))
        atomic.remove_dir(path)

    monkeypatch.setattr(checkpoint, "remove_dir", watch)
    save_checkpoint(tmp_path, 2, state_at(2), keep=1)
    assert seen == [("step-000001", 2)]
    assert names(tmp_path) == ["step-000002"]
