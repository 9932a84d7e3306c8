"""Exported folders: what is in them, who can load them, and that a wrong one is not kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError, DataError, ModelError
from preftree.evaluate import export
from preftree.evaluate.export import export_run
from preftree.models import adapters
from preftree.models.load import load_model
from preftree.models.serving import adapter_commands
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from support.adapters import auto_peft
from support.examples import random_pairs
from support.models import plain_logps
from support.small_runs import dpo_config, make_model, make_pairs, sft_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    run_sft(sft_config(folder, "sft", "max_steps=2"))
    run_dpo(dpo_config(folder, "lora", f"model={folder / 'sft' / 'model'}", "lora.r=4", "max_steps=3"))
    return folder


def test_adapter_and_merged_folder_give_the_same_logps(place: Path) -> None:
    one, other = place / "out" / "adapter", place / "out" / "merged"
    for out, kind in ((one, "adapter"), (other, "merged")):
        found = export_run(place / "lora", out, kind)
        assert 0 <= found.difference < 1e-4
        assert found.num_prompts == 6
    adapted, merged = auto_peft(one), AutoModelForCausalLM.from_pretrained(other).eval()
    start = load_model(place / "sft" / "model")
    with torch.no_grad():
        for pair in random_pairs(6).items:
            for sequence in pair.sequences:
                logps = [plain_logps(model, sequence) for model in (adapted, merged, start)]
                assert abs(logps[0] - logps[1]) < 1e-5 * int(sequence.scored.sum())
                assert abs(logps[0] - logps[2]) > 1e-3


def test_what_lies_in_a_merged_folder(place: Path) -> None:
    out = place / "Half"
    found = export_run(place / "lora", out, "merged", dtype="bfloat16")
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoTokenizer.from_pretrained(out).eos_token == "<|endoftext|>"
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] is not None
    assert (out / "Modelfile").read_text() == 'FROM .\nTEMPLATE "{{ .Prompt }}"\nPARAMETER stop "<|endoftext|>"\n'
    card = (out / "README.md").read_text()
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() in card
    assert "The weights are bfloat16 in safetensors format" in card
    assert f"folder = {str(out)!r}" in card
    lineage = card[card.index("## Lineage") : card.index("## This folder")]
    names = (f"1. `{place / 'model'}`", f"2. `{place / 'sft'}`: sft", f"3. `{place / 'lora'}`: dpo")
    assert [lineage.find(name) > 0 for name in names] == [True] * 3
    assert f"by at most {found.difference:.3g} (allowed: 0.5)" in card
    for command in found.commands.values():
        assert command in card
    assert found.commands["vLLM"] == f"vllm serve {out} --dtype bfloat16"
    assert found.commands["llama.cpp"].endswith(f"{out} --outfile {out / 'Half.gguf'} --outtype bf16")


def test_a_run_of_all_weights_is_copied(place: Path) -> None:
    export_run(place / "sft", place / "plain", "merged")
    ours, theirs = (load_file(place / name / "model.safetensors") for name in ("sft/model", "plain"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(ConfigError, match="trained all weights, it has no adapter; export it with --merged"):
        export_run(place / "sft", place / "none", "adapter")


def test_a_folder_that_computes_something_else_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"off by .* \(allowed: 1e-12\), so it was not kept"):
        export_run(place / "lora", place / "bad", "merged", dtype="bfloat16", tolerance=1e-12)
    monkeypatch.setattr(export, "merge_adapter", lambda *_: None)  # the trap: the base alone
    with pytest.raises(ModelError, match="the exported merged gives logits that are off by"):
        export_run(place / "lora", place / "bad", "merged")
    assert not (place / "bad").exists()
    assert [path.name for path in place.iterdir() if "bad" in path.name] == []
    assert adapters.merge_adapter is not export.merge_adapter


def test_what_cannot_be_exported(place: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already and not empty; export into a new folder"):
        export_run(place / "lora", tmp_path / "full", "merged")
    with pytest.raises(DataError, match="does not exist"):
        export_run(place / "nothing", tmp_path / "x", "merged")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_the_command_line(place: Path, tmp_path: Path) -> None:
    def call(*words: str) -> str:
        done = CliRunner().invoke(app, ["export", str(place / "lora"), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = call(str(tmp_path / "a"), "--adapter")
    assert f"{tmp_path / 'a'}: logits differ by at most " in said
    assert "--enable-lora --max-lora-rank 8 --lora-modules a=" in said
    assert f"convert_lora_to_gguf.py {tmp_path / 'a'} --base {place / 'sft' / 'model'}" in said
    assert (tmp_path / "a" / "Modelfile").read_text().startswith(f"FROM {place / 'sft' / 'model'}\nADAPTER .\n")
    with pytest.raises(ConfigError, match="takes one of --adapter, --merged and --gguf"):
        call(str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="--dtype float16 is for --merged"):
        call(str(tmp_path / "b"), "--adapter", "--dtype", "float16")


def test_what_vllm_and_llama_cpp_do_not_take_is_said() -> None:
    told = adapter_commands(Path("out"), "base", {"r": 16, "use_dora": True, "modules_to_save": ["lm_head"]})
    assert list(told.values()) == ["none for an adapter with DoRA and modules saved whole: export it with --merged"]
    assert "--max-lora-rank 64 " in adapter_commands(Path("out"), "base", {"r": 33})["vLLM"]
