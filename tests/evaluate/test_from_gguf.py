"""Runs that start from a GGUF file, and a GGUF file as an ordinary folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError
from preftree.evaluate.export import export_run
from preftree.models.load import load_model
from preftree.reference.key import weights_digest
from preftree.train.dpo import run_dpo
from support.adapters import auto_peft
from support.gguf_files import QUANTS, dequantised, write_gguf
from support.small_runs import dpo_config, make_model, make_pairs, rows_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    write_gguf(folder / "tiny.gguf", model, tokenizer, kind=QUANTS.Q8_0)
    dequantised(model, QUANTS.Q8_0).save_pretrained(folder / "same")
    tokenizer.save_pretrained(folder / "same")
    return folder


def test_a_run_is_that_of_the_dequantised_folder(place: Path) -> None:
    run_dpo(dpo_config(place, "gguf", f"model={place / 'tiny.gguf'}", "max_steps=3"))
    run_dpo(dpo_config(place, "folder", f"model={place / 'same'}", "max_steps=3"))
    assert rows_of(place / "gguf") == rows_of(place / "folder")
    ours, theirs = (load_file(place / name / "model" / "model.safetensors") for name in ("gguf", "folder"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    run_dpo(dpo_config(place, "ref", f"model={place / 'same'}", f"reference={place / 'tiny.gguf'}", "max_steps=3"))
    assert rows_of(place / "ref") == rows_of(place / "folder")
    assert "training started from weights dequantised from Q8_0" in (place / "gguf" / "model" / "README.md").read_text()


def test_an_adapter_gets_its_base_as_a_folder(place: Path) -> None:
    run_dpo(dpo_config(place, "lora", f"model={place / 'tiny.gguf'}", "lora.r=4", "max_steps=3"))
    config = json.loads((place / "lora" / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place / "lora" / "base")
    assert "over weights dequantised from Q8_0" in (place / "lora" / "model" / "README.md").read_text()
    assert "dequantised from Q8_0" in (place / "lora" / "base" / "README.md").read_text()
    base = load_file(place / "lora" / "base" / "model.safetensors")
    same = load_file(place / "same" / "model.safetensors")
    assert all(torch.equal(base[name], same[name]) for name in same)
    ids = torch.tensor([[5, 9, 31]])
    with torch.no_grad():
        assert torch.equal(
            auto_peft(place / "lora" / "model")(ids).logits, load_model(place / "lora" / "model")(ids).logits
        )
    export_run(place / "lora", place / "merged", "merged")


def test_the_key_of_a_reference_is_of_the_content(place: Path, tmp_path: Path) -> None:
    shutil.copyfile(place / "tiny.gguf", tmp_path / "other name.gguf")
    other = tmp_path / "changed.gguf"
    content = bytearray((place / "tiny.gguf").read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    digests = [
        weights_digest(path, memo=tmp_path) for path in (place / "tiny.gguf", tmp_path / "other name.gguf", other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_file_becomes_a_folder(place: Path) -> None:
    shown = CliRunner().invoke(app, ["export", str(place / "tiny.gguf"), str(place / "made")])
    assert shown.exit_code == 0, shown.output
    assert "logits differ by at most 0 from the file's model" in shown.output
    made, same = (load_file(place / name / "model.safetensors") for name in ("made", "same"))
    assert all(torch.equal(made[name], same[name]) for name in same)
    card = (place / "made" / "README.md").read_text()
    assert "The weights are float32 in safetensors format, dequantised from Q8_0" in card
    ids = torch.tensor([[5, 9, 31]])
    with torch.no_grad():
        assert torch.equal(load_model(place / "made")(ids).logits, load_model(place / "tiny.gguf")(ids).logits)
    again = CliRunner().invoke(app, ["export", str(place / "tiny.gguf"), str(place / "made")])
    assert isinstance(again.exception, ConfigError) and "not empty" in str(again.exception)
    wrong = CliRunner().invoke(app, ["export", str(place / "tiny.gguf"), str(place / "no"), "--adapter"])
    assert isinstance(wrong.exception, ConfigError) and "--adapter is for a run" in str(wrong.exception)
    assert not (place / "no").exists()


@pytest.mark.parametrize("words", [["generate", "--max-new-tokens", "3", "--temperature", "0"], ["data", "inspect"]])
def test_other_verbs_take_it(words: list[str], place: Path, tmp_path: Path) -> None:
    gguf, data = str(place / "tiny.gguf"), str(place / "pairs.jsonl")
    if words[0] == "generate":
        command = [*words, gguf, data, str(tmp_path / "out.jsonl")]
    else:
        command = [*words, data, "--model", gguf]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
