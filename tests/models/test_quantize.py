"""Quantised bases: the sentences without the libraries, and the real thing where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from preftree.config.dpo import DpoConfig
from preftree.errors import ConfigError
from preftree.evaluate.frontier import policies
from preftree.models import quantize
from preftree.models.load import load_base
from preftree.scoring.scorer import Scorer
from preftree.train.dpo import build_reference_table, run_dpo
from support.small_runs import dpo_config, make_model, make_pairs, rows_of


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 8)
    return tmp_path


def config_of(place: Path, kind: str) -> DpoConfig:
    return dpo_config(place, kind, f"quantize={kind}", "lora.r=4", "max_steps=3", "snapshots=2")


@pytest.mark.parametrize(("kind", "library"), [("nf4", "bitsandbytes"), ("int8", "torchao"), ("int4", "torchao")])
def test_a_missing_library_is_one_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        run_dpo(config_of(place, kind))
    said = f"quantize={kind} needs {library}, which is not installed; pip install 'preftree[quant]'"
    assert str(caught.value) == said


def test_int4_wants_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="quantize=int4 needs a CUDA device, and this run is on cpu; use nf4 or int8"):
        quantize.quantization_options("int4", torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(("kind", "library"), [("nf4", "bitsandbytes"), ("int8", "torchao")])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_quantised_base_trains_and_has_a_table_of_its_own(
    place: Path, kind: str, library: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plain = load_base(place / "model")
    stored = load_base(place / "model", quantize=kind, device=device)  # pyright: ignore[reportArgumentType]
    assert Scorer(stored).numeric_mode != Scorer(plain.to(device)).numeric_mode  # pyright: ignore[reportArgumentType]

    first = build_reference_table(dpo_config(place, "full"))
    config = config_of(place, kind)
    assert build_reference_table(config).num_scored == first.num_scored  # the full model's table is not taken for it
    run_dpo(config)
    losses = [float(row["loss"]) for row in rows_of(place / kind)]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.69
    assert [step for step, _ in policies(place / kind, device)] == [1, 2, 3]
