"""What the constructors of TRL's trainers take, in types, and the folder of results that they choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedModel, TrainerCallback

GivenModel: TypeAlias = str | Path | PreTrainedModel
"""A folder, a hub id, or a model in memory."""

GivenCallbacks: TypeAlias = Sequence[TrainerCallback | type[TrainerCallback]] | None
"""Callbacks, or their classes."""

NO_OPTIMIZERS = (None, None)
"""TRL's default of `optimizers`."""


def name_of(model: GivenModel, suffix: str) -> str:
    """TRL's folder of results where no arguments are given."""
    name = str(model) if isinstance(model, str | Path) else str(getattr(model.config, "_name_or_path", "model"))
    return f"{name.rstrip('/').rpartition('/')[2]}-{suffix}"
