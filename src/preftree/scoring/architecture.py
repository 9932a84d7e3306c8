"""Limits of a model's architecture: trees, attention paths, number of positions."""

from __future__ import annotations

from typing import Any

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
    if device.type != "cuda":
        return "sdpa"
    config = model.config.get_text_config()
    try:
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    except (AttributeError, RuntimeError):  # none, or one for each layer, which transformers refuses to give as one
        return "sdpa"
    return "flex" if width >= 16 else "sdpa"


def position_limit(model: PreTrainedModel, *, kinds: tuple[str, ...] = ("dynamic", "longrope")) -> int | None:
    """Most positions before the model fails, or depends on the longest row of a batch; None without such a limit.

    Args:
      model: The model.
      kinds: Kinds of rotary angles that depend on the longest row, as the configuration names them.
    """
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    limits = _angles(model, kinds)
    learned = not _rope(model) and getattr(config, "rope_theta", None) is None
    if learned and most is not None:
        limits.append(most)
    return min((int(limit) for limit in limits if limit is not None and limit > 0), default=None)


def long_angles_from(model: PreTrainedModel) -> int | None:
    """Longest row that gets the short angles of a longrope model: a longer one turns all positions by others.

    The angles of a batch are those of its longest row, so longer rows need batches of their own. None for other models.
    """
    return min(_angles(model, ("longrope",)), default=None)


def _angles(model: PreTrainedModel, kinds: tuple[str, ...]) -> list[int]:
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    limits = [
        value.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", most)
        for value in _rope(model)
        if value.get("rope_type") in kinds
    ]
    return [limit for limit in limits if limit is not None]


def _rope(model: PreTrainedModel) -> list[dict[str, Any]]:
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope] if "rope_type" in rope else [value for value in rope.values() if isinstance(value, dict)]
