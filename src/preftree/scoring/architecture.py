"""Limits of a model's architecture: trees, attention paths, number of positions."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from preftree.scoring.attention.types import AttentionPath


def why_not_tree(model: PreTrainedModel) -> str | None:
    """Reason why this model cannot attend over trees, in words; None where it can.

    The attention interface is not sufficient: recurrent and convolutional layers carry state from one branch into the
    next, and some models chunk their attention in the mask alone.
    """
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention has no interface to plug a tree into"
    if getattr(model, "_is_stateful", False):
        return "it carries a recurrent state along the row"
    if not getattr(config, "is_causal", True):
        return "its attention is not causal"
    kinds = set(getattr(config, "layer_types", None) or [])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of kind {', '.join(sorted(unknown))}"
    return None


def best_path(model: PreTrainedModel, device: torch.device) -> AttentionPath:
    """`flex` where there is a fused kernel: on CUDA, for heads of width 16 or more; else `sdpa`."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return "flex" if device.type == "cuda" and width >= 16 else "sdpa"


def position_limit(model: PreTrainedModel) -> int | None:
    """Most positions before the model fails, or depends on the longest row of a batch; None without such a limit."""
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope] if "rope_type" in rope else [value for value in rope.values() if isinstance(value, dict)]
    limits = [
        value.get("original_max_position_embeddings") or most
        for value in kinds
        if value.get("rope_type") in ("dynamic", "longrope")
    ]
    learned = not kinds and getattr(config, "rope_theta", None) is None
    if learned and most is not None:
        limits.append(most)
    return min((int(limit) for limit in limits if limit is not None), default=None)
