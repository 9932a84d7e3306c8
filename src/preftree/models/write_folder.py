"""Writing model folders that transformers, peft and vLLM load as they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import ConfigError
from preftree.models.adapter_folder import write_adapter
from preftree.models.beside_weights import copy_beside, copy_files, write_generation, write_tokenizer
from preftree.storage.atomic import disk_faults, staged_dir
from preftree.storage.manifest import write_manifest

log = logging.getLogger("preftree")

SHARD = "5GB"
"""Largest size of a file of weights."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    card: str,
    source: str | None = None,
    dtype: torch.dtype | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files of `write_model`, and README.md, into `out`; the folder is complete or absent.

    Args:
      model: The model to write; its weights stay as they are in memory.
      tokenizer: The model's tokenizer, chat template included.
      out: The folder; replaced where it exists.
      card: Text of README.md, the model card.
      source: Folder or hub id of the model that this one was trained from: its processors and other files beside the
        weights are copied.
      dtype: Dtype of the stored weights; None keeps that of the model.
      tensors: Tensors to store in place of those of the model, by name.
    """
    with staged_dir(out) as folder:
        write_model(model, tokenizer, folder, source=source, dtype=dtype, tensors=tensors)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder)


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    source: str | None = None,
    dtype: torch.dtype | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write safetensors weights, configurations and tokenizer; arguments as of `save_model`.

    The generation settings hold every token that ends a response, so that other programs stop where training did.
    """
    state = dict(tensors or model.state_dict())
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    generates = model.can_generate()
    settings = model.generation_config if generates else None
    if generates:  # transformers refuses to save settings that it was content to load
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
    finally:
        if generates:
            model.generation_config = settings  # pyright: ignore[reportAttributeAccessIssue]  # a model that generates has some
    if generates:
        write_generation(settings, tokenizer, folder)
    write_tokenizer(tokenizer, folder)
    if source is not None and (copied := copy_beside(source, folder)):
        log.info("copied from %s: %s", source, ", ".join(copied))
    path = folder / "config.json"
    config = _readable(json.loads(path.read_bytes()))
    if dtype is not None:  # transformers writes the dtype that the model has in memory
        config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _readable(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the angles of positions under the names of transformers 4 too.

    It does not know `rope_parameters`, and takes its defaults without a word where `rope_theta` is missing.
    """
    config = {name: _readable(value) if isinstance(value, dict) else value for name, value in config.items()}
    angles = config.get("rope_parameters")
    if not isinstance(angles, dict) or not isinstance(angles.get("rope_theta"), int | float):
        return config
    known = {"rope_theta": angles["rope_theta"]}
    if angles.get("rope_type", "default") != "default":
        known["rope_scaling"] = {name: value for name, value in angles.items() if name != "rope_theta"}
    return known | config


def save_new(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write the files of `write_model` into a new folder.

    Raises:
      ConfigError: the folder is there and not empty.
      WriteError: it cannot be written.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; give the name of a new folder")
    with disk_faults(), staged_dir(out) as folder:
        write_model(model, tokenizer, folder)
        write_manifest(folder)


def save_adapter(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    base: str,
    card: str,
    beside: Mapping[str, Path],
) -> None:
    """Write the model's adapter in peft's format, with tokenizer and README.md; the folder is complete or absent.

    Args:
      model: The model with the adapter.
      tokenizer: The model's tokenizer, chat template included.
      out: The folder; replaced where it exists.
      base: Folder or hub id of the model under the adapter.
      card: Text of README.md, the model card.
      beside: Folders of other adapters of the same base, by the names of the subfolders that they are copied into.
    """
    with staged_dir(out) as folder:
        write_adapter(model, base, folder)
        write_generation(model.generation_config, tokenizer, folder)
        write_tokenizer(tokenizer, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        for name, other in beside.items():
            (folder / name).mkdir()
            copy_files(other, folder / name)
        write_manifest(folder)
