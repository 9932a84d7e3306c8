"""GGUF files hold the weights, vocabulary and options of the model, and what they could not hold is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from preftree.errors import ModelError
from preftree.models.gguf.pre_tokenizers import SPLITTINGS, name_splitting
from preftree.models.gguf.write import GgufType, plain_template, require_writable, round_weights, write_gguf
from preftree.models.load import load_model, load_tokenizer
from support.gguf_files import QUANTS, dequantised
from support.gguf_files import write_gguf as write_otherwise
from support.models import tiny
from support.tiny_gguf import TEXTS, llama, logits, qwen2, qwen3, tokenizer_for
from support.tokenizers import CHAT_TEMPLATE, END, START, chat_tokenizer

LLAMA3 = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0} | {
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def written(model: PreTrainedModel, tokenizer: Any, path: Path, kind: GgufType = "f16") -> Path:
    write_gguf(model, tokenizer, path, kind, ends=[tokenizer.eos_token_id], name="tiny", licence="mit")
    return path


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize(
    ("make", "pre"),
    [
        (llama, "smollm"),
        (lambda vocab: llama(vocab, rope_parameters=LLAMA3), "llama-bpe"),
        (lambda vocab: llama(vocab, rope_parameters=YARN, tie_word_embeddings=True), "gpt-2"),
        (qwen2, "qwen2"),
        (qwen3, "qwen2"),
    ],
    ids=["llama", "llama3", "yarn", "qwen2", "qwen3"],
)
def test_a_model_comes_back_as_the_format_rounds_it(make: Any, pre: str, kind: GgufType, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(pre)
    model = make(len(tokenizer))
    exact = logits(model)
    loaded = load_model(written(model, tokenizer, tmp_path / "x.gguf", kind))
    rounded = {name: value.clone() for name, value in dequantised(model, QUANTS[kind.upper()]).state_dict().items()}
    assert loaded.state_dict().keys() == rounded.keys()
    assert all(torch.equal(value, rounded[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))  # `dequantised` has changed the model in place
    difference = float((logits(loaded) - exact).abs().max())
    assert 0 < difference < {"f16": 1e-3, "bf16": 1e-2, "q8_0": 2e-2}[kind]
    again = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    chat = [{"role": "user", "content": "Hi ½"}, {"role": "assistant", "content": "Yes"}]
    assert again.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)


@pytest.mark.parametrize(
    ("make", "name", "pre"), [(llama, "llama", "smollm"), (qwen2, "qwen2", "qwen2"), (qwen3, "qwen3", "qwen2")]
)
def test_the_file_is_that_of_an_independent_writer(make: Any, name: str, pre: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(pre)
    model = make(len(tokenizer))
    ours = gguf.GGUFReader(written(model, tokenizer, tmp_path / "ours.gguf", "q8_0"))
    path = write_otherwise(tmp_path / "x.gguf", model, tokenizer, kind=QUANTS.Q8_0, architecture=name, pre=pre)
    theirs = gguf.GGUFReader(path)
    tensors, others = ({tensor.name: tensor for tensor in reader.tensors} for reader in (ours, theirs))
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        assert tensor.tensor_type == others[key].tensor_type and np.array_equal(tensor.data, others[key].data), key
    keys, wanted = ({field.name: field.contents() for field in reader.fields.values()} for reader in (ours, theirs))
    differ = {key for key in keys.keys() | wanted.keys() if keys.get(key) != wanted.get(key)}
    about = {"general.license", "general.type", "general.file_type", "general.quantization_version", "GGUF.kv_count"}
    template = {"tokenizer.chat_template", "tokenizer.ggml.add_bos_token", f"{name}.attention.value_length"}
    assert differ == about | template
    assert keys["general.license"] == "mit" and keys["general.file_type"] == 7


def test_end_tokens_padding_and_added_tokens(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    end, start = tokenizer.convert_tokens_to_ids([END, START])
    model = llama(len(tokenizer) + 5)  # rows that no token has
    path = tmp_path / "x.gguf"
    write_gguf(model, tokenizer, path, "f16", ends=[0, end, start], name="tiny")
    keys = {field.name: field.contents() for field in gguf.GGUFReader(path).fields.values()}
    named = [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert named == [0, end, start]
    kinds = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]))
    assert [kinds[token] for token in (END, "<think>", "a", f"[PAD{len(tokenizer)}]")] == [3, 4, 1, 5]
    again = load_tokenizer(path)
    assert again.encode("a<think>b") == tokenizer.encode("a<think>b")
    assert load_model(path).generation_config.eos_token_id == [0, end, start]


def test_a_bos_is_written_as_it_is_put(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(bos=True)
    again = load_tokenizer(written(llama(len(tokenizer)), tokenizer, tmp_path / "x.gguf"))
    assert again.encode("a b") == tokenizer.encode("a b") and again.encode("a b")[0] == tokenizer.bos_token_id


def test_marks_of_the_assistant_leave_the_template() -> None:
    plain, marked = tokenizer_for("gpt-2"), tokenizer_for("gpt-2")
    for source in (CHAT_TEMPLATE, CHAT_TEMPLATE.replace("{% generation %}", "x  {%- generation +%}\n\n y")):
        marked.chat_template, plain.chat_template = source, plain_template(source)
        assert "generation %}" not in plain.chat_template.replace("add_generation_prompt %}", "")
        chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Yes\n"}]
        assert plain.apply_chat_template(chat, tokenize=False) == marked.apply_chat_template(chat, tokenize=False)


def odd_tokenizer(change: Any) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_for("gpt-2")
    change(tokenizer)
    return tokenizer


def isolate_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="isolated")


def lower(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def strip(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([AddedToken("<x>", lstrip=True)])


def no_decoder(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.decoder = None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (isolate_spaces, "splits text in a way that has no known name there"),
        (lower, "splits text in a way"),
        (strip, "token '<x>' takes the space beside it"),
        (no_decoder, "is no byte-level BPE"),
    ],
)
def test_other_tokenizers_are_refused(change: Any, words: str) -> None:
    tokenizer = odd_tokenizer(change)
    with pytest.raises(ModelError, match=f"{words}.*convert_hf_to_gguf.py FOLDER"):
        require_writable(llama(len(tokenizer)), tokenizer, [0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda vocab: tiny("gpt2"), "GPT2LMHeadModel is not of the families llama, qwen2, qwen3"),
        (lambda vocab: tiny("mistral"), "MistralForCausalLM is not of the families"),
        (lambda vocab: tiny("qwen2"), "it has sliding windows"),
        (lambda vocab: llama(vocab, attention_bias=True), "its attention_bias is True"),
        (lambda vocab: llama(vocab, hidden_act="gelu"), "its hidden_act is gelu"),
        (
            lambda vocab: llama(vocab, rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}),
            "dynamic",
        ),
        (lambda vocab: llama(vocab, rope_parameters=YARN | {"beta_fast": 16.0}), "rope_type=yarn, beta_fast=16"),
        (lambda vocab: llama(vocab, rope_parameters=LLAMA3 | {"low_freq_factor": 2.0}), "low_freq_factor=2.0"),
    ],
)
def test_other_models_are_refused(make: Any, words: str) -> None:
    tokenizer = tokenizer_for("gpt-2")
    with pytest.raises(ModelError, match=f"{words}.*convert_hf_to_gguf.py FOLDER"):
        require_writable(make(len(tokenizer)), tokenizer, [0])


def test_values_beyond_fp16_are_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    model = llama(len(tokenizer))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 3] = 1e5
    with pytest.raises(ModelError, match=r"blk.0.ffn_up.weight has values beyond fp16; .*--gguf bf16"):
        written(model, tokenizer, tmp_path / "x.gguf")
    round_weights(model, "bf16")
    assert model.model.layers[0].mlp.up_proj.weight[3, 3] == 99840  # bf16 has 8 bits


def test_splittings_are_named_and_no_other_is() -> None:
    for name in SPLITTINGS:
        assert name_splitting(tokenizer_for(name).backend_tokenizer) == name
    other = tokenizer_for("qwen2").backend_tokenizer
    other.normalizer = None
    assert name_splitting(other) is None
    other = tokenizer_for("llama-bpe").backend_tokenizer
    other.model.ignore_merges = False
    assert name_splitting(other) is None
