"""Models as GGUF files for llama.cpp, by the library gguf: Llama, Qwen2 and Qwen3 with byte-level vocabularies.

What differs from transformers (llama.cpp's conversion/llama.py and base.py): the rows of Llama's queries and keys stand
in the pairs that are rotated together; the embedding stands for the head where both are one; vectors are fp32; Llama
3's scaling of positions is a tensor of factors. Everything else that a file could not say is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import ModelError
from preftree.models.gguf.header import require_library
from preftree.models.gguf.pre_tokenizers import name_splitting
from preftree.models.gguf.rope import FACTORS, llama3_factors, scaling_keys

GgufType = Literal["f16", "bf16", "q8_0"]
"""Types of the matrices in a file."""

_FAMILIES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""Model types, which are also the names of the architectures in a file, and the library's names of them."""

_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_ODD = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
"""Options of a BPE that a file does not say."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    kind: GgufType,
    *,
    ends: list[int],
    name: str,
    licence: str | None = None,
) -> None:
    """Write a model with its tokenizer into one file.

    Args:
      model: The model, on the CPU.
      tokenizer: Its tokenizer, chat template included.
      path: The file.
      kind: Type of the matrices; where blocks do not divide the rows of one, it is f16, as in llama.cpp. Vectors are
        fp32.
      ends: Tokens that end a response, the tokenizer's EOS first.
      name: Name of the model.
      licence: Its licence, as the hub names it.
    Raises:
      ModelError: the library is not installed, or the file could not say what the model or the tokenizer is.
    """
    gguf = require_library()
    keys = {**_sizes(model), **_vocabulary(tokenizer, model, ends)}
    architecture = str(model.config.model_type)
    about = {
        "general.type": "model",
        "general.name": name,
        "general.license": licence,
        "general.file_type": int(getattr(gguf.LlamaFileType, f"MOSTLY_{kind.upper()}")),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (about | keys).items():
        if value is not None:
            _add(gguf, writer, key, value)
    for tensor_name, values in _tensors(gguf, model):
        stored = _type_of(gguf, values, kind)
        num_bytes = math.prod(gguf.quant_shape_to_byte_shape(values.shape, stored))
        writer.add_tensor_info(tensor_name, values.shape, np.dtype(np.float32), num_bytes, stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor_name, values in _tensors(gguf, model):
            stored = _type_of(gguf, values, kind)
            if stored == gguf.GGMLQuantizationType.F16 and np.abs(values).max() > np.finfo(np.float16).max:
                raise ModelError(f"{tensor_name} has values beyond fp16; export the model with --gguf bf16")
            writer.write_tensor_data(np.ascontiguousarray(gguf.quants.quantize(values, stored)))
    finally:
        writer.close()


def require_writable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Refuse what `write_gguf` would refuse, before anything is computed.

    Raises:
      ModelError: as of `write_gguf`.
    """
    require_library()
    _sizes(model)
    _vocabulary(tokenizer, model, ends)


def round_weights(model: PreTrainedModel, kind: GgufType) -> None:
    """Give a model's weights the values that a file of this type stores, in place."""
    gguf = require_library()
    with torch.no_grad():
        for parameter in model.parameters():
            values = parameter.detach().float().cpu().numpy()
            stored = _type_of(gguf, values, kind)
            parameter.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored)))


def plain_template(template: str) -> str:
    """A chat template without the marks of what the assistant says, which only transformers knows.

    Conditions that are always true stand in their place, so that white space is trimmed as before.
    """
    return _GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", template)


def _sizes(model: PreTrainedModel) -> dict[str, Any]:
    """The keys of the model's sizes."""
    config = model.config
    name = str(config.model_type)
    if name not in _FAMILIES:
        raise _unsupported(f"{type(model).__name__} is not of the families {', '.join(_FAMILIES)}")
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    for option, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if (value := getattr(config, option, wanted)) != wanted:
            raise _unsupported(f"its {option} is {value}")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
        raise _unsupported("it has sliding windows")
    rope = dict(config.rope_parameters or {})
    return {
        f"{name}.block_count": config.num_hidden_layers,
        f"{name}.context_length": config.max_position_embeddings,
        f"{name}.embedding_length": config.hidden_size,
        f"{name}.feed_forward_length": config.intermediate_size,
        f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": config.num_key_value_heads,
        f"{name}.attention.key_length": width,
        f"{name}.attention.value_length": width,
        f"{name}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{name}.rope.dimension_count": width,
        f"{name}.rope.freq_base": float(rope["rope_theta"]),
        **{f"{name}.rope.scaling.{key}": value for key, value in scaling_keys(rope).items()},
        f"{name}.vocab_size": _rows(model),
    }


def _vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, ends: list[int]) -> dict[str, Any]:
    """The keys of the tokenizer."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    described = {} if backend is None else json.loads(backend.to_str())
    bpe = described.get("model", {})
    odd = [option for option in _ODD if bpe.get(option)]
    if bpe.get("type") != "BPE" or odd or (described.get("decoder") or {}).get("type") != "ByteLevel":
        kind = f"{bpe.get('type', 'slow')} with {odd[0]}" if odd else bpe.get("type", "slow")
        raise _unsupported(f"its tokenizer ({type(tokenizer).__name__}, {kind}) is no byte-level BPE")
    if backend is None or (pre := name_splitting(backend)) is None:
        what = json.dumps(described.get("pre_tokenizer"), ensure_ascii=False)
        raise _unsupported(f"its tokenizer splits text in a way that has no known name there: {what[:160]}")
    rows = _rows(model)
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = dict(tokenizer.added_tokens_decoder)
    for token in added.values():
        if token.lstrip or token.rstrip or token.single_word:
            raise _unsupported(f"its token {token.content!r} takes the space beside it, or stands alone only")
    kinds = [
        _UNUSED
        if number not in by_id
        else _NORMAL
        if number not in added
        else _CONTROL
        if added[number].special
        else _USER_DEFINED
        for number in range(rows)
    ]
    alone, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    bos = tokenizer.bos_token_id
    if whole not in (alone, [bos, *alone]):
        raise _unsupported(f"its tokenizer puts tokens around a text: {whole} for 'a'")
    if len(ends) > 3:
        raise _unsupported(f"it ends responses at {len(ends)} tokens, and a file names three")
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [by_id.get(number, f"[PAD{number}]") for number in range(rows)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.unknown_token_id": tokenizer.unk_token_id,
        **{f"tokenizer.ggml.{key}_token_id": end for key, end in zip(("eos", "eot", "eom"), ends, strict=False)},
        "tokenizer.ggml.add_bos_token": whole != alone,
        "tokenizer.chat_template": None if template is None else plain_template(str(template)),
    }


def _tensors(gguf: Any, model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of the tensors, in fp32, one at a time."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type") == "llama3":
        yield FACTORS, llama3_factors(rope, width)
    name = str(config.model_type)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, _FAMILIES[name]), config.num_hidden_layers)
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if (target := names.get_name(key, (".weight", ".bias"))) is None:
            raise _unsupported(f"it has the tensor {key}")
        values = value.detach().float().cpu().numpy()
        if name == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            # transformers rotates row i of a head with row i + width / 2, llama.cpp row 2i with row 2i + 1.
            halves = values.reshape(-1, 2, width // 2, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        yield target, values


def _rows(model: PreTrainedModel) -> int:
    """Rows of the embedding."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])


def _type_of(gguf: Any, values: np.ndarray, kind: GgufType) -> Any:
    types = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return types.F32
    wanted = types[kind.upper()]
    return wanted if values.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else types.F16


def _add(gguf: Any, writer: Any, key: str, value: Any) -> None:
    kinds = gguf.GGUFValueType
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        of = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}
        writer.add_key_value(key, value, of[type(value)])


def _unsupported(reason: str) -> ModelError:
    return ModelError(
        f"no GGUF file can be written of this model: {reason}; export it with --merged, and convert the folder with "
        "llama.cpp: python llama.cpp/convert_hf_to_gguf.py FOLDER --outfile FILE.gguf"
    )
