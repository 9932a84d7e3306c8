"""Writing model folders that transformers, peft and vLLM load as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.errors import ConfigError
from preftree.models.adapter_folder import write_adapter
from preftree.storage.atomic import disk_faults, staged_dir
from preftree.storage.manifest import write_manifest

SHARD = "5GB"
"""Largest size of a file of weights."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    card: str,
    dtype: torch.dtype | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files of `write_model`, and README.md, into `out`; the folder is complete or absent.

    Args:
      model: The model to write; its weights stay as they are in memory.
      tokenizer: The model's tokenizer, chat template included.
      out: The folder; replaced where it exists.
      card: Text of README.md, the model card.
      dtype: Dtype of the stored weights; None keeps that of the model.
      tensors: Tensors to store in place of those of the model, by name.
    """
    with staged_dir(out) as folder:
        write_model(model, tokenizer, folder, dtype=dtype, tensors=tensors)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder)


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write safetensors weights, configurations and tokenizer; arguments as of `save_model`."""
    state = dict(tensors or model.state_dict())
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
    if dtype is not None:  # transformers writes the dtype that the model has in memory
        path = folder / "config.json"
        config = json.loads(path.read_bytes()) | {"dtype": str(dtype).removeprefix("torch.")}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


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
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        for name, other in beside.items():
            (folder / name).mkdir()
            for path in sorted(other.iterdir()):
                if path.is_file():
                    shutil.copyfile(path, folder / name / path.name)
        write_manifest(folder)
