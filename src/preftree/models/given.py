"""Models and tokenizers that a caller has in memory: written as a model folder, from which a run starts and resumes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.data.tokens.encoder import make_encoder
from preftree.errors import ConfigError, ModelError
from preftree.models.adapter_folder import find_adapter
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_model
from preftree.storage.atomic import disk_faults
from preftree.storage.own_folder import own_folder

log = logging.getLogger("preftree")


def check_given(model: object) -> None:
    """Refuse what is neither a name nor a transformers model.

    Raises:
      ConfigError: it is something else; the adapter of peft's wrapper is named.
    """
    if isinstance(model, str | Path | PreTrainedModel):
        return
    if hasattr(model, "peft_config"):
        raise ConfigError(
            f"the model is a {type(model).__name__}, which holds an adapter already: give the model under it and the "
            "adapter's LoraConfig, or the folder of the adapter"
        )
    raise ConfigError(f"the model must be a folder, a hub id or a transformers model, got {type(model).__name__}")


def is_other_tokenizer(model: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a tokenizer encodes or renders otherwise than the one in a model's folder.

    Raises:
      ModelError: one of them cannot be used.
    """
    return tokenizer is not None and make_encoder(tokenizer).digest != make_encoder(load_tokenizer(model)).digest


def write_given(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> PreTrainedTokenizerBase:
    """Write a model in memory, or a folder's model with another tokenizer, as a folder inside a run's folder.

    Args:
      model: The model; it stays as it is.
      tokenizer: Its tokenizer; None loads that of the folder or hub id that the model was loaded from.
      folder: RUN/NAME; where it exists it must hold these weights.
    Returns:
      The tokenizer that was written.
    Raises:
      ModelError: the model has an adapter or quantised weights in it, or comes without a tokenizer.
      ConfigError: RUN holds files of something else, or the folder other weights.
      WriteError: the folder cannot be written.
    """
    if not isinstance(model, PreTrainedModel):
        if find_adapter(model) is not None:
            raise ModelError(f"{model} is an adapter, and keeps the tokenizer of its folder; leave tokenizer out")
        model = load_model(model)
    if hasattr(model, "peft_config") or getattr(model, "is_quantized", False):
        what = "an adapter" if hasattr(model, "peft_config") else "quantised weights"
        raise ModelError(f"the model in memory holds {what}; give the folder or hub id that it was loaded from")
    if model.dtype != torch.float32:
        log.warning(
            "the model in memory is %s: its weights are trained in fp32, since small updates vanish in half precision",
            str(model.dtype).removeprefix("torch."),
        )
    if folder.is_dir() and not _holds(folder, model):
        raise ConfigError(
            f"{folder} holds other weights, of an earlier call that began with them and may need them; give another out"
        )
    place = getattr(model.config, "_name_or_path", "")
    if tokenizer is None and not place:
        raise ModelError("a model in memory needs its tokenizer; give tokenizer=")
    tokenizer = tokenizer or load_tokenizer(place)
    with own_folder(folder.parent), disk_faults():
        save_model(model, tokenizer, folder, card=f"# {folder.name}\n\nA model that was given in memory.\n")
    return tokenizer


def _holds(folder: Path, model: PreTrainedModel) -> bool:
    """Whether a model folder holds the weights of a model in memory."""
    saved, ours = load_model(folder).state_dict(), model.state_dict()
    same = (torch.equal(saved[name].cpu().float(), ours[name].cpu().float()) for name in ours if name in saved)
    return saved.keys() == ours.keys() and all(same)
