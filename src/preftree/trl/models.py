"""Models of a trainer: what the caller gives, what a run starts from, and what it leaves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from preftree.errors import ConfigError
from preftree.models.given import check_given
from preftree.models.load import load_model, load_tokenizer
from preftree.models.peft_options import lora_options_of
from preftree.models.reward_model import is_reward_model, load_reward_model
from preftree.trl.configs import TrlArguments

log = logging.getLogger("preftree")

_DTYPES = ("float32", "bfloat16", "float16", "auto")


def check_model(model: object, args: TrlArguments) -> None:
    """Refuse a model, or arguments of its loading, that cannot be honoured.

    Raises:
      ConfigError: the model is of another kind, or a key of `model_init_kwargs` has no counterpart.
    """
    check_given(model)
    wanted: Mapping[str, Any] = args.model_init_kwargs if isinstance(args.model_init_kwargs, Mapping) else {}
    if wanted and not isinstance(model, str | Path):
        raise ConfigError("model_init_kwargs is of a model that is loaded by its name, and the model is loaded already")
    for name, value in wanted.items():
        if name not in ("dtype", "torch_dtype"):
            raise ConfigError(
                f"model_init_kwargs[{name!r}] cannot be honoured: models are loaded whole, in fp32, from the main "
                "revision; load the model yourself and give it as model="
            )
        dtype = str(value).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ConfigError(f"model_init_kwargs[{name!r}]={value!r} must be one of {', '.join(_DTYPES)}")
        if dtype != "float32":
            log.warning("model_init_kwargs: weights are trained in fp32, not in %s; bf16=True is for products", dtype)


def check_adapter(adapter: object, config: PretrainedConfig) -> None:
    """Refuse an adapter that cannot be trained.

    Raises:
      ConfigError: it is no LoRA, or a field of its configuration has no counterpart.
    """
    if adapter is None:
        return
    if not isinstance(adapter, LoraConfig):
        raise ConfigError(f"peft_config must be a LoraConfig, got {type(adapter).__name__}")
    lora_options_of(adapter, str(config.model_type))


def quantize_option(config: object) -> str | None:
    """Storage of frozen weights, from transformers' quantisation.

    Raises:
      ConfigError: there is no such storage.
    """
    if config is None:
        return None
    if isinstance(config, BitsAndBytesConfig):
        if config.load_in_8bit:
            return "int8"
        if config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant:
            return "nf4"
    raise ConfigError(
        "this quantization_config cannot be honoured: there are 8 bits (load_in_8bit), and nf4 with double "
        "quantisation (load_in_4bit, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True)"
    )


def grown_reward_model(name: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedModel:
    """A reward model from a language model, with the head that transformers draws from torch's generator, as in TRL.

    Args:
      name: The folder or hub id.
      tokenizer: Its padding, or its EOS where it has none, becomes the model's padding, as in TRL.
    """
    if is_reward_model(name):
        model = load_reward_model(name)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=torch.float32)
    tokenizer = tokenizer or load_tokenizer(name)
    padding = tokenizer.eos_token_id if tokenizer.pad_token is None else tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = padding
    return model


def trained_model(folder: Path, start: str | Path | PreTrainedModel, recipe: str) -> PreTrainedModel | PeftModel:
    """The model that a run has left: the caller's own object with the trained weights, where it gave one.

    Args:
      folder: RUN/model.
      start: What the trainer was given.
      recipe: The run's recipe.
    """
    is_adapter = (folder / "adapter_config.json").exists()
    if isinstance(start, str | Path):
        return load_reward_model(folder) if recipe == "reward" else load_model(folder)
    if is_adapter:
        with warnings.catch_warnings():  # of names that transformers deprecates and peft reads
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(start, str(folder))
    weights = {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
    with torch.no_grad():
        for name, value in start.state_dict().items():
            if name in weights:  # of tied tensors one is stored
                value.copy_(weights[name])
    return start
