"""Models and tokenizers from GGUF files, by transformers' reader, as ordinary ones that can be trained and saved.

The reader passes over what it does not know. What is left out would change the model silently, so keys and tensors that
it has not taken are refused by name, and the tokenizer is compared with the file's vocabulary.
"""

from __future__ import annotations

import json
import logging
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from preftree.errors import ModelError
from preftree.models.check_folder import compare_sizes
from preftree.models.foreign import foreign, without_load_warnings
from preftree.models.gguf.header import GgufHeader, gguf_header, require_library
from preftree.models.gguf.pre_tokenizers import apply_splitting, splitting_named
from preftree.models.gguf.rope import FACTORS, rope_parameters

log = logging.getLogger("preftree")

_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_DESCRIBES = re.compile(
    r"vocab_size|tensor_data_layout|attention\.(key|value)_length|attention\.causal|rope\.(dimension_count|scaling\..*)"
    r"|rope\.scale_linear|nextn_predict_layers"
)
"""Keys below the architecture's name that transformers' mappings do not take everywhere, and that are compared here or
say nothing more."""
_NEUTRAL = (None, 0, 0.0, False, "none", "", [])
_ENDS = ("eos", "eot", "eom")
_CONTROL, _USER_DEFINED = 3, 4


def load_gguf(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal language model in a GGUF file, its weights dequantised, its generation ending where the file says.

    Raises:
      ModelError: the file is damaged, of an architecture that transformers does not read, or says something that
        transformers does not take.
    """
    header, config = gguf_header(path), gguf_config(path)
    log.info("reading %s: %s M weights, %s", path, f"{header.num_weights / 1e6:,.1f}", describe_types(path))
    with foreign(f"model '{path}' cannot be loaded as a causal language model"), _alone(path) as (folder, name):
        compare_sizes(path, json.loads(config.to_json_string(use_diff=False)), header.tensors)
        with without_load_warnings():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=name, config=config, dtype=dtype, output_loading_info=True
            )
        read, loading = loaded
        if missing := sorted(loading["missing_keys"]):
            raise ModelError(f"{path} lacks weights for {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
        _require_all_taken(header, read)
        # A model that was read from GGUF counts as quantised, and cannot be saved.
        kind: Any = type(read)
        model = kind.from_pretrained(None, config=gguf_config(path), state_dict=read.state_dict(), dtype=dtype)
    model.generation_config = _generation(header)
    model.config.name_or_path = str(path)
    return model.eval()


def gguf_config(path: Path) -> PretrainedConfig:
    """The configuration that a GGUF file describes; a new object each time.

    Raises:
      ModelError: as of `load_gguf`.
    """
    header = gguf_header(path)
    with foreign(f"{path} describes no model that transformers reads"):
        options = dict(_options(path, path.stat().st_size, path.stat().st_mtime_ns))
        config = AutoConfig.for_model(options.pop("model_type"), **options)
        _require_all_keys(header, config)
    return config


@lru_cache(maxsize=4)
def _options(path: Path, _size: int, _time: int) -> tuple[tuple[str, Any], ...]:
    """The options of the configuration; transformers takes seconds to read them."""
    header = gguf_header(path)
    with _alone(path) as (folder, name):
        read: Any = AutoConfig.from_pretrained(folder, gguf_file=name)
    options = {
        key: _shortest(value) if isinstance(value, float) else value
        for key, value in read.to_diff_dict().items()
        if key not in ("_model_name_or_path", "_name_or_path", "unk_token_id", "transformers_version")
    }
    prefix = header.architecture
    if isinstance(width := header.metadata.get(f"{prefix}.attention.key_length"), int) and "head_dim" in options:
        options["head_dim"] = width
    theta = header.metadata.get(f"{prefix}.rope.freq_base")
    if isinstance(theta, float):
        width = options.get("head_dim") or options["hidden_size"] // options["num_attention_heads"]
        options["rope_parameters"] = rope_parameters(header, _shortest(theta), int(width))
    return tuple(options.items())


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with its chat template, compared with the vocabulary of the file.

    Raises:
      ModelError: the file says that text is split in a way that is not known, or what transformers makes of it is not
        what the file says.
    """
    header = gguf_header(path)
    metadata = header.metadata
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelError(f"{path} holds no vocabulary (tokenizer.ggml.tokens); give the file of a whole model")
    splitting, pre = None, metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") == "gpt2" and (splitting := splitting_named(pre)) is None:
        raise ModelError(
            f"{path} says that text is split as {pre!r} (tokenizer.ggml.pre), which is not known here; give the folder "
            "that the file was made from"
        )
    with foreign(f"no tokenizer can be loaded from '{path}'"), _alone(path) as (folder, name):
        read: Any = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=name)
        adds_bos = metadata.get("tokenizer.ggml.add_bos_token")
        if splitting is not None:
            apply_splitting(read.backend_tokenizer, splitting)
            if adds_bos is None and splitting.adds_bos:
                read.add_bos_token = adds_bos = True
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        special = {name: token for name in names if (token := getattr(read, name)) is not None}
        # Without the options that name the file, so that it is saved as any other tokenizer is.
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=read.backend_tokenizer, **special)
        tokenizer.chat_template = metadata.get("tokenizer.chat_template")
        _require_same(path, tokenizer, header)
    tokenizer.name_or_path = str(path)
    return tokenizer


def describe_types(path: Path) -> str:
    """How the weights of a GGUF file are stored, such as "Q4_1 (79 % of the weights, Q8_0 21 %)"."""
    (first, most), *others = gguf_header(path).shares().items()
    rest = [f"{name} {share:.0%}".replace("%", " %") for name, share in others if share >= 0.005]
    return first if not rest else f"{first} ({most:.0%}".replace("%", " %") + f" of the weights, {', '.join(rest)})"


def stored_type(path: Path) -> str:
    """Dtype of the weights in a GGUF file: a name of torch, or the words that they are dequantised from."""
    largest = next(iter(gguf_header(path).shares()))
    return _FLOATS.get(largest) or f"dequantised from {describe_types(path)}"


@contextmanager
def _alone(path: Path) -> Iterator[tuple[str, str]]:
    """The file in a folder without others, whose configuration or tokenizer transformers would take instead."""
    require_library()
    with tempfile.TemporaryDirectory(prefix="preftree-gguf-") as folder:
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        yield folder, "model.gguf"


def _shortest(value: float) -> float:
    """The shortest decimal number that rounds to the same fp32: 1e-05 for 9.99999974e-06."""
    return float(str(np.float32(value))) if math.isfinite(value) else value


def _generation(header: GgufHeader) -> GenerationConfig:
    """Settings that end a response at the tokens that the file names: end of sequence, of turn, and of message.

    Raises:
      ModelError: one of them is not the number of a token.
    """
    ids = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in (*_ENDS, "bos", "padding")}
    most = len(header.metadata.get("tokenizer.ggml.tokens") or [])
    for name, number in ids.items():
        if number is not None and not (type(number) is int and 0 <= number < most):
            raise ModelError(
                f"{header.path} names {str(number)[:40]!r} as {name} (tokenizer.ggml.{name}_token_id), wanted the "
                f"number of one of its {most} tokens"
            )
    ends = list(dict.fromkeys(ids[name] for name in _ENDS if ids[name] is not None))
    return GenerationConfig(
        bos_token_id=ids["bos"],
        pad_token_id=ids["padding"],
        eos_token_id=None if not ends else ends if len(ends) > 1 else ends[0],
    )


def _require_all_keys(header: GgufHeader, config: PretrainedConfig) -> None:
    """Refuse a file with a property of the model that the configuration does not have.

    Raises:
      ModelError: the key and its value are in the message.
    """
    prefix = f"{header.architecture}."
    taken = GGUF_CONFIG_MAPPING.get(str(config.model_type), {}) | GGUF_CONFIG_MAPPING.get(header.architecture, {})
    for key, value in header.metadata.items():
        if not key.startswith(prefix) or value in _NEUTRAL:
            continue
        name = key.removeprefix(prefix)
        if name not in taken and not _DESCRIBES.fullmatch(name):
            raise ModelError(
                f"{header.path} says {key}={value}, which transformers does not take from a GGUF file, so its model "
                "would compute something else; give the folder that the file was made from"
            )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        stated = header.metadata.get(prefix + name)
        if stated is not None and stated != width and not getattr(config, "partial_rotary_factor", None):
            raise ModelError(
                f"{header.path} says {prefix}{name}={stated}, and the model that transformers makes of it has heads "
                f"of width {width}; give the folder that the file was made from"
            )


def _require_all_taken(header: GgufHeader, model: PreTrainedModel) -> None:
    """Refuse a file with weights that the model has not taken.

    Raises:
      ModelError: both numbers are in the message.
    """
    ours = sum(parameter.numel() for parameter in model.parameters())
    theirs = header.num_weights - (math.prod(header.tensors[FACTORS].shape) if FACTORS in header.tensors else 0)
    if ours != theirs:
        raise ModelError(
            f"{header.path} holds {theirs} weights, and the model that transformers makes of it has {ours}; give the "
            "folder that the file was made from"
        )


def _require_same(path: Path, tokenizer: PreTrainedTokenizerBase, header: GgufHeader) -> None:
    """Compare a tokenizer with the vocabulary, the special tokens and the BOS that the file names.

    Raises:
      ModelError: one of them differs.
    """
    metadata = header.metadata
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type") or []
    is_bytes = metadata.get("tokenizer.ggml.model") == "gpt2"
    ids, bytes_of = tokenizer.get_vocab(), bytes_to_unicode()
    alphabet = set(bytes_of.values())
    if is_bytes:
        for number, token in enumerate(tokens):
            spelled = token if set(token) <= alphabet else "".join(bytes_of[byte] for byte in token.encode())
            if ids.get(token, ids.get(spelled)) != number:
                raise ModelError(f"{path}: token {number} is {token!r}, and transformers gives it {ids.get(token)}")
        for number, kind in enumerate(kinds):
            if kind in (_CONTROL, _USER_DEFINED):
                got = tokenizer.encode(tokens[number], add_special_tokens=False)
                if got != [number]:
                    raise ModelError(
                        f"{path}: the special token {tokens[number]!r} ({number}) becomes {got[:4]} in the tokenizer "
                        "that transformers makes of it; give the folder that the file was made from"
                    )
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        stated, got = metadata.get(f"tokenizer.ggml.{key}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if stated is not None and stated != got:
            raise ModelError(f"{path} names token {stated} as {name.upper()}, and transformers takes {got}")
    adds = metadata.get("tokenizer.ggml.add_bos_token")
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]  # pyright: ignore[reportIndexIssue]
    if adds is not None and bool(adds) != begins:
        words = ("puts", "puts none") if adds else ("puts no", "puts one")
        raise ModelError(f"{path} {words[0]} a BOS before a text, and the tokenizer that transformers makes {words[1]}")
