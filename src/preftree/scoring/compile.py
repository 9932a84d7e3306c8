"""Compilation of layers: the compiler's limit of variants, and compiled layers under gradient checkpointing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def limit_recompilation() -> None:
    """Raise the compiler's limit of variants, and make reaching it an error.

    Beyond the limit the compiler falls back to uncompiled code with only a warning.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def recompute_fused(function: Callable[..., Any], *inputs: Any) -> Any:
    """Checkpoint of a layer: its compiled forward, which the backward recomputes.

    Args:
      function: The forward of the layer's class, or in older versions of transformers the call of the layer, with
        keyword arguments bound.
      inputs: The layer's inputs.
    """
    assert isinstance(function, functools.partial)
    forward, bound = function.func, function.args
    if isinstance(layer := getattr(forward, "__self__", None), nn.Module):
        forward, bound = type(layer).forward, (layer,)  # one function for all layers, so it is compiled once
    fused = functools.partial(_fused(forward), *bound, **function.keywords)
    return checkpoint(fused, *inputs, use_reentrant=False)


@functools.cache
def _fused(forward: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(forward, dynamic=True)
