"""GGUF files of small models, written with the library gguf alone: independent of the exporter."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUANTS = gguf.GGMLQuantizationType


def real_model() -> Path:
    """The real model's GGUF file; the test is skipped where there is none."""
    path = Path(os.environ.get("PREFTREE_REAL_MODEL", "runs/real/SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not path.is_file():
        pytest.skip(f"{path} is not there; benchmarks/real/prepare.py fetches it")
    return path


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: QUANTS = QUANTS.F32,
    architecture: str = "llama",
    pre: str = "gpt-2",
    more: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a model of the Llama or Qwen families and its byte-level tokenizer.

    Args:
      path: The file.
      model: The model, in fp32.
      tokenizer: Its tokenizer.
      kind: Type of the matrices; vectors are fp32.
      architecture: Name in the file; Llama's rows of queries and keys are in pairs there.
      pre: How the text is split, by name.
      more: Further keys, written as they are; None leaves a key out.
      tensors: Further tensors.
    """
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    tokens = [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))]
    special = set(tokenizer.get_added_vocab())
    backend = tokenizer.backend_tokenizer.to_str()
    keys: dict[str, Any] = {
        "general.name": "tiny",
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{architecture}.attention.key_length": width,
        f"{architecture}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{architecture}.rope.dimension_count": width,
        f"{architecture}.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in json.loads(backend)["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    } | dict(more or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _pair_rows(values, width)
        stored = _kind_of(values, kind)
        writer.add_tensor(
            names.get_name(name, (".weight", ".bias")), gguf.quants.quantize(values, stored), raw_dtype=stored
        )
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dequantised(model: PreTrainedModel, kind: QUANTS) -> PreTrainedModel:
    """The model with matrices as they are after quantising and back, by the library."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                used = _kind_of(parameter.numpy(), kind)
                stored = gguf.quants.quantize(parameter.numpy(), used)
                parameter.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(stored, used))))
    return model


def _kind_of(values: np.ndarray, kind: QUANTS) -> QUANTS:
    """F32 for a vector, F16 for rows that blocks do not divide."""
    if values.ndim == 1:
        return QUANTS.F32
    return kind if values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else QUANTS.F16


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds.get(type(value), writer.add_array)(key, value)


def _pair_rows(weight: np.ndarray, width: int) -> np.ndarray:
    """Rows of each head so that the two halves of a rotated pair follow one another, as llama.cpp rotates them."""
    rows = np.arange(weight.shape[0]).reshape(-1, 2, width // 2)
    return weight[rows.transpose(0, 2, 1).reshape(-1)]
