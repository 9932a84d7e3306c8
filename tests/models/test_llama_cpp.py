"""The real model as a GGUF file under llama.cpp, which Ollama runs: the same tokens, and the same greedy texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.models.beside_weights import end_tokens
from preftree.models.gguf.write import write_gguf
from preftree.models.load import load_model, load_tokenizer
from support.gguf_files import real_model
from support.gguf_round_trips import (
    compare_greedy,
    greedy_here,
    greedy_llama,
    greedy_there,
    prompts_of,
    some_texts,
    tokens_llama,
)

ROUNDING = 0.2
"""Two best logits as near as this may change places: llama.cpp rounds activations to fp16 under weights of fp16."""


@pytest.mark.real
def test_greedy_texts_and_tokens(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'preftree[llama]'")
    start, tokenizer = load_model(real_model()), load_tokenizer(real_model())
    path = tmp_path / "x.gguf"
    write_gguf(start, tokenizer, path, "f16", ends=end_tokens(start.generation_config, tokenizer), name="real")
    model = load_model(path)
    texts, prompts = some_texts(), prompts_of(tokenizer)
    assert tokens_llama(path, texts) == [tokenizer.encode(text) for text in texts]
    ours = greedy_here(model, tokenizer, prompts)
    assert compare_greedy(model, prompts, ours, greedy_there(model, prompts)) == []
    parted = compare_greedy(model, prompts, ours, greedy_llama(path, prompts))
    assert len(parted) <= 3 and all(each.gap < ROUNDING for each in parted), parted
