"""A run as a GGUF file: what lies in the folder, and that a wrong file is not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError, ModelError
from preftree.evaluate.export import export_run
from preftree.evaluate.gguf import to_file
from preftree.evaluate.gguf.to_file import export_run_gguf
from preftree.models.gguf import write
from preftree.models.load import load_model, load_tokenizer
from preftree.train.dpo import run_dpo
from preftree.train.sft import run_sft
from support.small_runs import dpo_config, make_model, make_pairs, sft_config
from support.tokenizers import CHAT_TEMPLATE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("to_gguf")
    make_model(folder / "model")
    (folder / "model" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    make_pairs(folder / "pairs.jsonl", 12)
    run_dpo(dpo_config(folder, "lora", "lora.r=4", "max_steps=3"))
    return folder


def test_what_lies_in_the_folder(place: Path) -> None:
    shown = CliRunner().invoke(app, ["export", str(place / "lora"), str(place / "Out"), "--gguf", "q8_0"])
    assert shown.exit_code == 0, shown.output
    assert "from the run's own (allowed: 2)" in shown.output
    files = sorted(path.name for path in (place / "Out").iterdir())
    assert files == ["MANIFEST.json", "Modelfile", "Out-q8_0.gguf", "README.md"]
    model = (place / "Out" / "Modelfile").read_text()
    assert model == 'FROM ./Out-q8_0.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER stop "<|endoftext|>"\n'
    card = (place / "Out" / "README.md").read_text()
    assert "license: apache-2.0\nlibrary_name: gguf" in card
    assert "The weights are q8_0 in `Out-q8_0.gguf`" in card
    assert f"Llama({str(place / 'Out' / 'Out-q8_0.gguf')!r}" in card
    assert f"llama-server -m {place / 'Out' / 'Out-q8_0.gguf'}" in card
    assert json.loads((place / "Out" / "MANIFEST.json").read_text())
    assert load_tokenizer(place / "Out").encode("good 12") == AutoTokenizer.from_pretrained(place / "model").encode(
        "good 12"
    )


@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 0.05)])
def test_the_file_computes_what_the_merged_folder_computes(kind: Any, most: float, place: Path) -> None:
    if not (place / "merged").exists():
        export_run(place / "lora", place / "merged", "merged")
    found = export_run_gguf(place / "lora", place / kind, kind)
    assert 0 < found.difference < most and found.num_prompts == 6
    ids = torch.tensor([[5, 9, 31, 90]])
    with torch.no_grad():
        logits = [load_model(place / name)(input_ids=ids).logits for name in (kind, "merged", "model")]
    assert (logits[0] - logits[1]).abs().max() < most
    assert (logits[0] - logits[2]).abs().max() > 1e-3  # of the run, not of its base


def test_a_run_of_all_weights_with_a_template(place: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    model = load_model(place / "model")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(place / "chat")
    tokenizer.save_pretrained(place / "chat")
    run_sft(sft_config(place, "sft", f"model={place / 'chat'}", "max_steps=2"))
    export_run_gguf(place / "sft", place / "chatty", "f16")
    again = load_tokenizer(place / "chatty")
    assert "{% generation %}" in CHAT_TEMPLATE and "{% generation %}" not in again.chat_template
    chat = [{"role": "user", "content": "a 12"}]
    text = again.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert load_model(place / "chatty").generation_config.eos_token_id == [tokenizer.eos_token_id, end]


def unpaired(gguf: Any, model: Any) -> Any:
    """Tensors with rows of queries and keys as transformers has them."""
    kind, model.config.model_type = model.config.model_type, "qwen2"
    try:
        yield from REAL_TENSORS(gguf, model)
    finally:
        model.config.model_type = kind


REAL_TENSORS = write._tensors


def test_a_wrong_file_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(write, "_tensors", unpaired)
        with pytest.raises(ModelError, match=r"off by .* from those of the same model with weights rounded to f16"):
            export_run_gguf(place / "lora", place / "wrong", "f16")
    with pytest.raises(ModelError, match=r"rounding to q8_0 moves logits by up to .* choose --gguf f16 or bf16"):
        export_run_gguf(place / "lora", place / "wrong", "q8_0", tolerance=1e-6)
    real = to_file.write_gguf

    def other_ends(*given: Any, ends: list[int], **more: Any) -> None:
        real(*given, ends=[*ends, 7], **more)

    with monkeypatch.context() as patched:
        patched.setattr(to_file, "write_gguf", other_ends)
        with pytest.raises(ModelError, match=r"ends responses at tokens \[0, 7\], and the run at \[0\]"):
            export_run_gguf(place / "lora", place / "wrong", "f16")
    assert not (place / "wrong").exists() and not list(place.glob("*wrong*"))


def test_options_that_do_not_go_together(place: Path) -> None:
    for words, fault in (
        (["--gguf", "f16", "--merged"], "one of --adapter, --merged and --gguf"),
        (["--gguf", "f16", "--dtype", "bfloat16"], "--dtype bfloat16 is for --merged; --gguf f16 says the type"),
    ):
        shown = CliRunner().invoke(app, ["export", str(place / "lora"), str(place / "no"), *words])
        assert isinstance(shown.exception, ConfigError) and fault in str(shown.exception)
