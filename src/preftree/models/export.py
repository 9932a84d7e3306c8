"""Write a model folder that transformers and vLLM load as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.storage.atomic import staged_dir


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    card: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write safetensors weights, configuration, tokenizer and README.md into `out`, whole or not at all.

    Args:
      model: The model to write; its weights stay as they are in memory.
      tokenizer: Goes with it, chat template included.
      out: The folder; replaced where it exists.
      card: Text of README.md, the model card.
      dtype: Of the stored weights; None keeps the model's own.
    """
    state = model.state_dict()
    if dtype is not None:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    before = model.config.dtype
    try:
        model.config.dtype = dtype or model.dtype
        with staged_dir(out) as folder:
            model.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)
            (folder / "README.md").write_text(card, encoding="utf-8")
    finally:
        model.config.dtype = before
