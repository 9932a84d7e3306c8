"""Loading a reward model: a causal language model whose head gives one number, read at the last token.

It is transformers' AutoModelForSequenceClassification with num_labels=1. Its forward reads the number at the rightmost
token that is not `config.pad_token_id`: with the EOS as padding it would never see a response's end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from preftree.data.tokens.template import closing_token
from preftree.errors import ModelError
from preftree.models.adapter_folder import find_adapter
from preftree.models.foreign import foreign, without_load_warnings
from preftree.models.gguf.header import find_gguf
from preftree.models.gguf.read import gguf_config, load_gguf
from preftree.models.load import check_name, is_reward_config, remove_dropout


def is_reward_model(name: str | Path) -> bool:
    """Whether a folder or hub id holds a model that gives one number for a text.

    Raises:
      ModelError: there is no model of this name.
    """
    return find_adapter(name) is None and is_reward_config(_config(name))


def load_reward_model(name: str | Path, *, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A reward model, fp32, in evaluation mode and without dropout.

    Args:
      name: A folder, or a hub id.
      device: Device of the model.
    Raises:
      ModelError: there is no model that can be loaded, it is not a reward model, or weights are missing.
    """
    if not is_reward_model(name):
        raise ModelError(
            f"model '{name}' is a language model, wanted a reward model; train one with `preftree reward model={name}`"
        )
    config = _config(name)
    labels = [str(label) for label in (config.id2label or {}).values()]
    if len(labels) > 1:
        raise ModelError(
            f"model '{name}' is a classifier of {', '.join(labels)}, wanted a reward model; its probability of a label "
            f"is a reward as rm:{name}:{labels[-1]}"
        )
    model, missing = _load(name, config)
    if missing:
        raise ModelError(f"model '{name}' lacks weights for {', '.join(missing[:3])}; they would be random")
    return _ready(model, name, device)


def grow_reward_model(
    name: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A causal language model whose LM head is replaced by a new reward head.

    Args:
      name: A folder, or a hub id.
      tokenizer: The model's tokenizer; a token of it that ends no response becomes the padding, if there is one.
      seed: Seed of the head's weights, normal with variance 1 / (width + 1); None makes weights and rewards 0.
      device: Device of the model.
    Raises:
      ModelError: there is no model that can be loaded, or transformers has no classifier of its architecture.
    """
    if find_adapter(name) is not None:
        raise ModelError(
            f"model '{name}' is an adapter, wanted whole weights; write them with `preftree export RUN OUT --merged`"
        )
    config = _config(name)
    config.num_labels = 1
    rows = config.get_text_config().vocab_size
    config.get_text_config().pad_token_id = config.pad_token_id = _padding(tokenizer, rows)
    model, missing = _load(name, config)
    if missing != ["score.weight"]:
        reason = f"lacks weights for {missing[0]}" if missing else "has a reward head already"
        raise ModelError(f"model '{name}' cannot become a reward model: it {reason}; give a causal language model")
    weight = reward_head(model).weight
    with torch.no_grad():
        if seed is None:
            weight.zero_()
        else:
            weight.normal_(std=(weight.shape[1] + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
    return _ready(model, name, device)


def reward_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns a hidden state into a reward.

    Raises:
      ModelError: the model has none.
    """
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise ModelError(f"{type(model).__name__} has no head `score` with one output, so it is no reward model")
    return head


def padding_of(model: PreTrainedModel) -> int | None:
    """Token id of the model's padding."""
    return model.config.get_text_config().pad_token_id


def _padding(tokenizer: PreTrainedTokenizerBase, rows: int) -> int | None:
    """A token with a row in the embedding that ends no response: the tokenizer's padding, or another special token."""
    ends = (tokenizer.eos_token_id, closing_token(tokenizer))
    unknown = tokenizer.unk_token_id
    others = [token for token in tokenizer.all_special_ids if token != unknown]
    candidates = [tokenizer.pad_token_id, tokenizer.bos_token_id, *others, unknown]
    return next((token for token in candidates if isinstance(token, int) and token < rows and token not in ends), None)


def _config(name: str | Path) -> PretrainedConfig:
    check_name(name)
    if gguf := find_gguf(name):
        return gguf_config(gguf)
    with foreign(f"model '{name}' cannot be loaded"):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _load(name: str | Path, config: PretrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, "output_loading_info": True}
    with foreign(f"model '{name}' cannot be loaded as a reward model"), without_load_warnings():
        if gguf := find_gguf(name):
            with torch.device("meta"):
                kind: Any = type(AutoModelForSequenceClassification.from_config(config))
            loaded: Any = kind.from_pretrained(None, state_dict=load_gguf(gguf).state_dict(), **options)
        else:
            loaded = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=False, **options)
    model, loading = loaded
    return model, sorted(loading["missing_keys"])


def _ready(model: PreTrainedModel, name: str | Path, device: torch.device | str) -> PreTrainedModel:
    try:
        reward_head(model)
    except ModelError as error:
        raise ModelError(f"model '{name}': {error}") from error
    remove_dropout(model)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps the method
    return model.eval()
