"""Models from GGUF files are the ones that were written, end where the file says, and are saved as ordinary folders."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from preftree.errors import ModelError
from preftree.models.beside_weights import end_tokens
from preftree.models.gguf.header import gguf_header
from preftree.models.gguf.pre_tokenizers import SPLITTINGS, apply_splitting
from preftree.models.gguf.read import describe_types, load_gguf, load_gguf_tokenizer
from preftree.models.gguf.rope import llama3_factors
from preftree.models.load import load_model, load_tokenizer
from preftree.models.reward_model import grow_reward_model
from preftree.models.write_folder import save_new
from support.gguf_files import QUANTS, dequantised, real_model, write_gguf
from support.tiny_gguf import TEXTS, llama, logits, qwen2, qwen3, tokenizer_for
from support.tokenizers import END, START, chat_tokenizer


def load_both(path: Path) -> None:
    load_tokenizer(path)
    load_model(path)


@pytest.mark.parametrize(
    ("make", "name", "pre"), [(llama, "llama", "smollm"), (qwen2, "qwen2", "qwen2"), (qwen3, "qwen3", "qwen2")]
)
def test_a_model_comes_back(make: Any, name: str, pre: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(pre)
    model = make(len(tokenizer))
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, architecture=name, pre=pre)
    loaded = load_model(path)
    assert torch.equal(logits(loaded), logits(model))
    assert type(loaded) is type(model) and loaded.config.rms_norm_eps == model.config.rms_norm_eps
    again = load_tokenizer(tmp_path)  # the folder holds the one file
    assert again.chat_template == tokenizer.chat_template
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_quantised_weights_are_those_of_the_library(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    model = llama(len(tokenizer))
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, kind=QUANTS.Q8_0)
    loaded = load_gguf(path)
    assert not torch.equal(logits(loaded), logits(model))
    torch.testing.assert_close(logits(loaded), logits(dequantised(model, QUANTS.Q8_0)), rtol=0, atol=1e-6)
    shares = gguf_header(path).shares()
    matrices = sum(value.numel() for value in model.parameters() if value.ndim > 1)
    assert shares["Q8_0"] == matrices / sum(value.numel() for value in model.parameters())
    assert describe_types(path) == "Q8_0 (100 % of the weights)" or describe_types(path) == "Q8_0"


def test_ends_are_those_of_the_file_and_a_saved_folder_is_ordinary(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    end, start = tokenizer.convert_tokens_to_ids([END, START])
    more = {"tokenizer.ggml.eot_token_id": end, "tokenizer.ggml.eom_token_id": start}
    path = write_gguf(tmp_path / "x.gguf", llama(len(tokenizer)), tokenizer, more=more)
    model, read = load_model(path), load_tokenizer(path)
    assert end_tokens(model.generation_config, read) == [tokenizer.eos_token_id, end, start]
    save_new(model, read, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not [name for name in config if "quantization" in name or "name_or_path" in name or "gguf" in name]
    assert "gguf" not in (tmp_path / "out" / "tokenizer_config.json").read_text()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(plain), logits(model))
    assert plain.generation_config.eos_token_id == [tokenizer.eos_token_id, end, start]
    texts = [*TEXTS, tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)]
    other = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts:
        assert other(text)["input_ids"] == read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert other.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("adds", [True, False, None])
def test_a_bos_where_the_file_says_so(adds: bool | None, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(bos=True)
    apply_splitting(tokenizer.backend_tokenizer, SPLITTINGS["llama-bpe"])
    more = {"tokenizer.ggml.add_bos_token": adds}
    path = write_gguf(tmp_path / "x.gguf", llama(len(tokenizer)), tokenizer, pre="llama-bpe", more=more)
    ids = load_tokenizer(path)("a b")["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == (adds is not False)  # Llama 3 adds one where the file is silent
    assert ids.count(tokenizer.bos_token_id) == int(adds is not False)


def test_digits_are_split_as_smollm_does() -> None:
    pieces = tokenizer_for("smollm").backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12½")
    assert [piece for piece, _ in pieces] == ["a", "Ġ", "1", "2", "Â½"]


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            {"type": "yarn", "factor": 4.0, "original_context_length": 64},
        ),
    ],
)
def test_scaled_positions(options: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    model = llama(len(tokenizer), rope_parameters={"rope_theta": 500.0, **options})
    keys = {f"llama.rope.scaling.{name}": value for name, value in more.items()}
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, more=keys)
    assert torch.equal(logits(load_gguf(path)), logits(model))


def test_factors_of_llama_3(tmp_path: Path) -> None:
    """transformers' own reader passes over them: the positions would be those of another model."""
    tokenizer = tokenizer_for("llama-bpe")
    options = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0} | {
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = llama(len(tokenizer), rope_parameters=options)
    plain = 5e5 ** -(torch.arange(0, 16, 2) / 16)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    np.testing.assert_allclose(llama3_factors(options, 16), factors, rtol=1e-6)
    assert factors.max() > 31 and factors.min() < 1.001
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer, pre="llama-bpe", tensors={"rope_freqs.weight": factors})
    assert torch.equal(logits(load_gguf(path)), logits(model))
    wrong = write_gguf(
        tmp_path / "y.gguf", model, tokenizer, pre="llama-bpe", tensors={"rope_freqs.weight": factors * 1.01}
    )
    with pytest.raises(ModelError, match=r"by factors \(up to 32.32\) that are not those of Llama 3.1"):
        load_gguf(wrong)


def test_a_reward_model_grows_from_it(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    model = llama(len(tokenizer))
    path = write_gguf(tmp_path / "x.gguf", model, tokenizer)
    grown = grow_reward_model(str(path), load_tokenizer(path), seed=0)
    assert torch.equal(grown.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert grown.score.weight.shape == (1, 64)


@pytest.mark.parametrize(
    ("more", "tensors", "words"),
    [
        ({"llama.attention.sliding_window": 16}, {}, "sliding_window=16, which transformers does not take"),
        ({"llama.logit_scale": 2.0}, {}, "llama.logit_scale=2.0, which transformers does not take"),
        ({"llama.rope.dimension_count": 8}, {}, "dimension_count=8, and the model .* heads of width 16"),
        ({"llama.rope.scaling.type": "longrope"}, {}, "scaling.type=longrope, which is not known"),
        ({"llama.block_count": 10**6}, {}, "num_hidden_layers=1e.06, and the weights beside it are"),
        ({"llama.block_count": 3}, {}, "lacks weights for model.layers.2"),
        ({"tokenizer.ggml.pre": "default"}, {}, "split as 'default'"),
        ({"tokenizer.ggml.tokens": None}, {}, "holds no vocabulary"),
        ({"tokenizer.ggml.eot_token_id": [1, 2]}, {}, r"names '\[1, 2\]' as eot"),
        ({"tokenizer.ggml.eom_token_id": 10**9}, {}, "names '1000000000' as eom"),
        ({"split.count": 3}, {}, "one of 3 parts of a model"),
        ({"general.type": "adapter"}, {}, "is of type 'adapter'"),
        ({}, {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}, "holds .* weights, and the model .* has"),
    ],
)
def test_what_would_be_passed_over_is_refused(
    more: dict[str, Any], tensors: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_for("gpt-2")
    path = write_gguf(tmp_path / "x.gguf", llama(len(tokenizer)), tokenizer, more=more, tensors=tensors)
    with pytest.raises(ModelError, match=words) as caught:
        load_both(path)
    assert "\n" not in str(caught.value)


def test_broken_files_end_in_one_sentence(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    whole = write_gguf(tmp_path / "whole", llama(len(tokenizer)), tokenizer).read_bytes()
    path = tmp_path / "x.gguf"

    def fault(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_both(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    assert "is cut: it has" in fault(whole[:-1000])
    assert "its header ends after" in fault(whole[:5000])
    assert "it has 0 bytes" in fault(b"")
    assert "it begins with b'PK" in fault(b"PK\x03\x04" + whole[4:])
    assert "version 1 of the GGUF format" in fault(whole[:4] + struct.pack("<I", 1) + whole[8:])
    assert "another byte order" in fault(whole[:4] + struct.pack(">I", 3) + whole[8:])
    assert "its header ends after" in fault(whole[:8] + struct.pack("<QQ", 2**60, 2**60) + whole[24:])
    rng = np.random.default_rng(0)
    for _ in range(30):
        content = bytearray(whole)
        for place in rng.integers(0, 12000, 3):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content))
        with suppress(ModelError):  # any other error fails; a flipped bit of a name or a number may be readable
            load_both(path)


def test_which_file_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"2 GGUF files, a.gguf, b.gguf; give one of them"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"model file 'none.gguf' does not exist"):
        load_model("none.gguf")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file, and not a GGUF file"):
        load_model(tmp_path / "x.bin")
    tokenizer = tokenizer_for("gpt-2")
    path = write_gguf(tmp_path / "c.gguf", llama(len(tokenizer)), tokenizer)
    with pytest.raises(ModelError, match=r"quantize=int8 needs a model folder.*preftree export"):
        load_model(path, quantize="int8")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'preftree\[gguf\]'"):
        load_tokenizer(path)


def test_another_tokenizer_beside_the_file_is_not_taken(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("gpt-2")
    path = write_gguf(tmp_path / "x.gguf", llama(len(tokenizer)), tokenizer)
    chat_tokenizer(texts=["zzz qqq zzz qqq " * 9]).save_pretrained(tmp_path)
    assert load_tokenizer(path).get_vocab() == tokenizer.get_vocab()


@pytest.mark.real
def test_the_real_model() -> None:
    path = real_model()
    metadata = {field.name: field.contents() for field in gguf.GGUFReader(path).fields.values()}
    tokenizer = load_gguf_tokenizer(path)
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[token] for token in metadata["tokenizer.ggml.tokens"]] == list(range(49152))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert [" ".join(pair) for pair in merges] == metadata["tokenizer.ggml.merges"]
    assert tokenizer.chat_template == metadata["tokenizer.chat_template"]
    for text in ("In 2024, ½¼ of 12345 people", "Hello  world\n\tétait 練習 🙂", "don't <|im_start|>user\nstop"):
        assert tokenizer.encode(text) == by_hand(text, metadata)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(text) == by_hand(text, metadata)
    assert describe_types(path) == "Q4_1 (79 % of the weights, Q8_0 21 %)"
    model = load_model(path)
    assert sum(value.numel() for value in model.parameters()) == 134_515_008
    assert end_tokens(model.generation_config, tokenizer) == [2]
    ids = torch.tensor([tokenizer.encode(text)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == "The capital of France is Paris.<|im_end|>"


def by_hand(text: str, metadata: dict[str, Any]) -> list[int]:
    """Byte-level BPE as it is defined, from the file: special tokens, digits, GPT-2's pieces, merges by rank."""
    import re as plain

    import regex

    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    ids = {token: number for number, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    special = [token for token, kind in zip(tokens, kinds) if kind == 3]
    letters = alphabet()
    out = []
    for part in plain.split("(" + "|".join(map(plain.escape, sorted(special, key=len, reverse=True))) + ")", text):
        if part in special:
            out.append(ids[part])
            continue
        for run in regex.findall(r"\p{N}|[^\p{N}]+", part):
            for piece in regex.findall(
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", run
            ):
                symbols = [letters[byte] for byte in piece.encode()]
                while len(symbols) > 1:
                    pairs = list(pairwise(symbols))
                    best = min(pairs, key=lambda pair: ranks.get(pair, 10**9))
                    if best not in ranks:
                        break
                    at = pairs.index(best)
                    symbols[at : at + 2] = ["".join(best)]
                out += [ids[symbol] for symbol in symbols]
    return out


def alphabet() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones for themselves, the others from 256 on, in order."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + at) for at, byte in enumerate(others)}
