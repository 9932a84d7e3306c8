"""Scaling of rotary positions in GGUF files: keys for linear and YaRN, a tensor of factors for Llama 3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from preftree.errors import ModelError
from preftree.models.gguf.header import GgufHeader, require_library

FACTORS = "rope_freqs.weight"
"""Tensor of the divisors of the rotary frequencies."""

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Options of Llama 3.1 to 3.3; a file holds the divisors that follow from them and from the factor."""


def rope_parameters(header: GgufHeader, theta: float, width: int) -> dict[str, Any]:
    """The rotary options of transformers for a file.

    Args:
      header: The file's header.
      theta: Base of the frequencies.
      width: Rotary width of a head.
    Raises:
      ModelError: the file scales positions in a way that has no such options.
    """
    prefix = f"{header.architecture}.rope.scaling."
    scaling = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    options: dict[str, Any] = {"rope_theta": theta, "rope_type": "default"}
    kind, factor = scaling.get("type", "none"), float(scaling.get("factor", 0.0))
    linear = float(header.metadata.get(f"{header.architecture}.rope.scale_linear", 1.0))
    if kind == "linear" or linear != 1.0:
        options |= {"rope_type": "linear", "factor": factor or linear}
    elif kind == "yarn":
        original = scaling.get("original_context_length")
        options |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    unread = set(scaling) - {"type", "factor", "original_context_length", "finetuned"}
    if kind not in ("none", "linear", "yarn") or unread:
        what = f"{prefix}{min(unread)}" if unread else f"{prefix}type={kind}"
        raise ModelError(f"{header.path} says {what}, which is not known here; give the folder that it was made from")
    if FACTORS in header.tensors:
        options |= _llama3(header, theta, width)
    return options


def scaling_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keys below `rope.scaling.` for the rotary options of transformers; none for Llama 3's, which are a tensor.

    Raises:
      ModelError: positions are scaled in a way that a file does not say, or that is not read back.
    """
    kind = options.get("rope_type", "default")
    known: dict[str, tuple[str, ...]] = {
        "default": (),
        "linear": ("factor",),
        "yarn": ("factor", "original_max_position_embeddings"),
        "llama3": ("factor", *_LLAMA3),
    }
    beside = {name: value for name, value in options.items() if name not in ("rope_type", "type", "rope_theta")}
    odd = [name for name, value in beside.items() if name not in known.get(str(kind), ()) and value not in (None, 1.0)]
    if kind == "llama3":
        odd += [name for name, value in _LLAMA3.items() if options.get(name) != value]
    if kind not in known or odd:
        what = f"rope_type={kind}" + "".join(f", {name}={options.get(name)}" for name in odd)
        raise ModelError(
            f"no GGUF file can be written of positions with {what}; export with --merged, and convert the folder with "
            "llama.cpp: python llama.cpp/convert_hf_to_gguf.py FOLDER --outfile FILE.gguf"
        )
    if kind in ("default", "llama3"):
        return {}
    keys: dict[str, Any] = {"type": kind, "factor": float(options["factor"])}
    if kind == "yarn":
        keys["original_context_length"] = int(options["original_max_position_embeddings"])
    return keys


def llama3_factors(options: Mapping[str, Any], width: int) -> Float[np.ndarray, " F"]:
    """Divisors of the frequencies for `rope_type: llama3` (Llama 3.1): long waves by the factor, short ones not at all,
    and those between linearly in the number of waves in the original context.

    Args:
      options: rope_theta, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings.
      width: Rotary width of a head; F is half of it.
    """
    theta, factor = float(options["rope_theta"]), float(options["factor"])
    low, high = float(options["low_freq_factor"]), float(options["high_freq_factor"])
    waves = options["original_max_position_embeddings"] / (2 * math.pi * theta ** (np.arange(0, width, 2) / width))
    share = np.clip((waves - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def _llama3(header: GgufHeader, theta: float, width: int) -> dict[str, Any]:
    (stored,) = (tensor.data for tensor in require_library().GGUFReader(header.path).tensors if tensor.name == FACTORS)
    factors = np.asarray(stored, np.float32).reshape(-1)
    options: dict[str, Any] = {"rope_theta": theta, "rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if factors.shape != (width // 2,) or not np.allclose(factors, llama3_factors(options, width), rtol=1e-4):
        raise ModelError(
            f"{header.path} scales rotary frequencies by factors (up to {factors.max():g}) that are not those of Llama "
            "3.1 to 3.3; give the folder that it was made from"
        )
    return options
