"""A `peft.LoraConfig` as the options of `lora`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, TaskType
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS

from preftree.errors import ConfigError

_NAMES = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "use_dora": "dora",
    "use_rslora": "rslora",
    "modules_to_save": "modules_to_save",
}
"""Our option by peft's field."""

_WITHOUT_EFFECT = frozenset(
    ("peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "runtime_config")
)
"""Fields that say where an adapter comes from or how it is served."""

_OF_ANY_LORA = (("task_type", TaskType.CAUSAL_LM), ("task_type", TaskType.SEQ_CLS))


def lora_options_of(config: LoraConfig, model_type: str) -> dict[str, Any]:
    """The options of an adapter that peft would make from a configuration.

    Args:
      config: peft's configuration.
      model_type: `model_type` of the model's configuration; peft's targets depend on it where none are named.
    Raises:
      ConfigError: a field is set that has no counterpart.
    """
    usual = LoraConfig()
    options: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        if field.name in _NAMES:
            options[_NAMES[field.name]] = value
        elif field.name in _WITHOUT_EFFECT or value == _plain(getattr(usual, field.name)):
            continue
        elif field.name != "peft_type" and (field.name, value) not in _OF_ANY_LORA:
            raise ConfigError(
                f"peft's {field.name}={value!r} has no counterpart here; leave it out (lora has {', '.join(_NAMES)})"
            )
    if options["dropout"]:
        raise ConfigError(
            f"peft's lora_dropout={options['dropout']}: responses share their prompt's activations, so the adapter has "
            "no dropout here; set lora_dropout=0"
        )
    targets = options["targets"]
    if targets is None:
        targets = USUAL_TARGETS.get(model_type)
        if targets is None:
            raise ConfigError(f"peft has no usual targets for {model_type}; set target_modules")
    if isinstance(targets, str) and targets != "all-linear":
        raise ConfigError(
            f"target_modules={targets!r} is a regular expression, and patterns here are like those of files; give a "
            "list of names or patterns such as ['model.layers.1*.q_proj']"
        )
    options["targets"] = targets if isinstance(targets, str) else sorted(targets)
    options["alpha"] = float(options["alpha"])
    return options | {"dropout": 0}


def _plain(value: object) -> object:
    """Sets as sorted lists, configurations as mappings, empty ones as None."""
    if isinstance(value, set):
        value = sorted(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return None if isinstance(value, Mapping | list) and not value else value
