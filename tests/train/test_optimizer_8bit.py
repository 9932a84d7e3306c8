"""Moments of 8 bits: torchao's where it is installed (slow), and our side of it with a stand-in everywhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preftree.config.base import Optimisation
from preftree.errors import CheckpointError, ConfigError
from preftree.storage.checkpoint import load_checkpoint
from preftree.train.dpo import run_dpo
from preftree.train.step.optimizer import build_optimizer, optimizer_tensors, restore_optimizer, set_learning_rate
from support import fake_torchao
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

WORDS = ("optimizer=adamw_8bit", "save_every=2")


@pytest.fixture(params=["stand-in", pytest.param("torchao", marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stand-in":
        fake_torchao.install(monkeypatch)
    elif importlib.util.find_spec("torchao") is None:
        pytest.skip("the quant extra is not installed")
    return request.param


def options(**changes: Any) -> Optimisation:
    base = {"lr": 0.01, "optimizer": "adamw_8bit", "max_grad_norm": None, "schedule": "constant", "warmup_steps": 0}
    return Optimisation(**base | changes)


def net(seed: int = 0) -> nn.Module:
    """One matrix large enough to be quantised, and what is too small for it."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 2))


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        set_learning_rate(optimizer, 0.01 / (step + 1))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.filterwarnings("ignore")  # of torchao, about its own insides
def test_state_survives_a_round_trip_bitwise(library: str) -> None:
    straight, again = net(), net(seed=1)
    one, other = build_optimizer(straight, options()), build_optimizer(again, options())
    take_steps(straight, one, range(3))
    again.load_state_dict(straight.state_dict())
    stored = {name: value.clone() for name, value in optimizer_tensors(straight, one).items()}
    assert all(type(value) is torch.Tensor for value in stored.values())
    assert stored["0.weight/exp_avg.codes"].dtype == torch.uint8
    assert stored["2.weight/exp_avg"].dtype == torch.float32
    restore_optimizer(again, other, stored)
    take_steps(straight, one, range(3, 6))
    take_steps(again, other, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))
    for name, value in optimizer_tensors(straight, one).items():
        assert torch.equal(value, optimizer_tensors(again, other)[name]), name
    with pytest.raises(CheckpointError, match=r"'0.weight/exp_avg.codes' fits no parameter"):
        restore_optimizer(again, other, {"0.weight/exp_avg.codes": torch.zeros(2, 2, dtype=torch.uint8)})


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_run_that_stopped_goes_on_to_the_same_bits(tmp_path: Path, library: str) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl")
    run_dpo(dpo_config(tmp_path, "straight", *WORDS, "max_steps=4"))
    run_dpo(dpo_config(tmp_path, "stopped", *WORDS, "max_steps=2"))
    run_dpo(dpo_config(tmp_path, "stopped", *WORDS, "max_steps=4"))
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert rows_of(stopped) == rows_of(straight)
    file = Path("model") / "model.safetensors"
    assert (stopped / file).read_bytes() == (straight / file).read_bytes()
    ends = [load_checkpoint(out / "checkpoints") for out in (straight, stopped)]
    states = [end.state.tensors["optimizer"] for end in ends if end is not None]
    assert any(value.dtype == torch.uint8 for value in states[0].values())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="the quant extra is not installed")
def test_torchaos_is_adamw_in_two_bytes_a_weight() -> None:
    short, long = net(), net()
    mine, full = build_optimizer(short, options()), build_optimizer(long, options(optimizer="adamw"))
    start = [parameter.detach().clone() for parameter in short.parameters()]
    take_steps(short, mine, range(5))
    take_steps(long, full, range(5))
    assert not torch.equal(short[0].weight, long[0].weight)  # pyright: ignore[reportArgumentType]  # a tensor
    for a, b, before in zip(short.parameters(), long.parameters(), start, strict=True):
        assert (a - b).norm() < 0.05 * (b - before).norm()
    weight = {name: value for name, value in optimizer_tensors(short, mine).items() if name.startswith("0.weight/")}
    moments = [value for name, value in weight.items() if name.endswith((".codes", ".scale"))]
    assert sum(value.nbytes for value in moments) == 2 * (64 * 128 + 4 * 64 * 128 // 256)
    assert float(weight["0.weight/step"]) == 5


def test_a_missing_library_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs torchao, which is not installed; pip install 'preftree\[quant\]'"):
        build_optimizer(net(), options())
    with pytest.raises(ConfigError, match="optimizer=adamw_8bit needs torchao"):
        run_dpo(dpo_config(tmp_path, "out", "optimizer=adamw_8bit"))  # neither model nor data are there
