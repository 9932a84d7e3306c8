"""Quantisation of frozen weights to 4 or 8 bits, by bitsandbytes and torchao through transformers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from preftree.config.lora import Quantization
from preftree.errors import ConfigError

_LIBRARY = {"nf4": "bitsandbytes", "int8": "torchao", "int4": "torchao"}


def quantization_options(kind: Quantization, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a quantisation.

    nf4     4-bit normal floats with doubly quantised scales (Dettmers et al. 2023, arXiv:2305.14314); products in fp32,
            or in bf16 under autocast
    int8    8-bit integers, weights only: packing cannot change a result
    int4    4-bit integers in groups of 128, weights only; on CUDA

    Args:
      kind: Storage of the linear layers' weights; LM head and embeddings keep their dtype.
      device: Device that the model is loaded to.
    Raises:
      ConfigError: the library is not installed, or does not support the device.
    """
    library = _LIBRARY[kind]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"quantize={kind} needs {library}, which is not installed; pip install 'preftree[quant]'")
    if kind == "int4" and device.type != "cuda":
        raise ConfigError(f"quantize=int4 needs a CUDA device, and this run is on {device.type}; use nf4 or int8")
    config: Any
    if kind == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    else:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]  # an extra

        config = TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Int4WeightOnlyConfig(group_size=128))
    return {"quantization_config": config, "device_map": {"": str(device)}}


def quantization_of(model: PreTrainedModel) -> str | None:
    """Description of the weights' quantisation, different wherever log-probs could be; None without quantisation."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    options = config if isinstance(config, dict) else config.to_dict()
    library = str(getattr(options.get("quant_method"), "value", options.get("quant_method")))
    version = importlib.metadata.version(library) if importlib.util.find_spec(library) else "?"
    return f"{library} {version}/{json.dumps(options, sort_keys=True, default=str)}"
