"""Adapters that have moved, and peft's own way to load them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from transformers import PreTrainedModel

from preftree.models.adapters import trained_parameters


def moved(model: PreTrainedModel, *, seed: int = 0, by: float = 0.05) -> None:
    """Give everything that is trained a push, so that the adapter changes something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter += by * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def auto_peft(folder: Path) -> PreTrainedModel:
    """The model as peft loads the folder, without anything of ours."""
    from peft import AutoPeftModelForCausalLM  # seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names
        return AutoPeftModelForCausalLM.from_pretrained(folder).eval()  # pyright: ignore[reportReturnType]
