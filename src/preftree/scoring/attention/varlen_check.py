"""Checks of the varlen path before its use: its requirements, and its kernel against the definition."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from preftree.errors import ModelError
from preftree.scoring.attention.types import KERNEL_DTYPES
from preftree.scoring.attention.varlen import attend_segments, segments_of, width_problem
from preftree.tree.layout import TokenSequence, TreeBatch, batch_trees, grow_tree
from preftree.tree.mask import visible
from preftree.tree.to_device import send

TOLERANCE = 0.05
"""Allowed difference as a share of the largest value, or gradient. bf16 rounds by .005 to .01; one key more or less
changes it by .7."""


def require_varlen(model: PreTrainedModel, precision: str, no_tree: str | None) -> None:
    """Refuse the path where it cannot score the model.

    Args:
      model: The model, on the device of scoring.
      precision: Precision of the products, as the scorer's.
      no_tree: Reason why the model cannot attend over trees at all; None where it can.
    Raises:
      ModelError: the path cannot score the model, with the reason; or the kernel does not compute tree attention.
    """
    device = next(model.parameters()).device
    if reason := no_tree or why_not_varlen(model, precision, device):
        raise ModelError(f"attention=varlen cannot score {type(model).__name__}: {reason}; use attention=auto")
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    verify_kernel(
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        _width(config),
        window=getattr(config, "sliding_window", None) is not None,
        device=device,
        dtype=torch.bfloat16 if precision == "bf16" else model.dtype,
    )


def why_not_varlen(model: PreTrainedModel, precision: str, device: torch.device) -> str | None:
    """Reason why this path cannot score this model in this precision, in words; None where it can."""
    if device.type != "cuda":
        return f"it runs on CUDA alone, and the model is on {device.type}"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    if (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return f"it needs a GPU of compute capability 8.0, and this one has {capability[0]}.{capability[1]}"
    return why_not_flash(model, precision)


def why_not_flash(model: PreTrainedModel, precision: str) -> str | None:
    """Reason why the kernel cannot score this model in this precision on any device, in words; None where it can."""
    config = model.config.get_text_config()
    if precision != "bf16" and model.dtype not in KERNEL_DTYPES:
        dtype = str(model.dtype).removeprefix("torch.")
        return f"it computes in bfloat16 or float16, and precision={precision} of {dtype} weights asks for more"
    width = _width(config)
    if problem := width_problem(width, getattr(config, "v_head_dim", None) or width):
        return problem
    if getattr(config, "attn_logit_softcapping", None):
        return "it cannot cap scores, as this architecture does"
    if any(name.rpartition(".")[2] in ("sinks", "sink") for name, _ in model.named_parameters()):
        return "it has no attention sinks, which this architecture has"
    return None


def _width(config: PreTrainedConfig) -> int:
    width = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None)
    return width or config.hidden_size // config.num_attention_heads


def verify_kernel(
    heads: int, key_heads: int, width: int, *, window: bool, device: torch.device, dtype: torch.dtype
) -> float:
    """The kernel's largest relative difference from the definition, over values and gradients of a few small trees.

    The kernel's alignment of queries with more keys than queries is undocumented, so every process that uses it
    measures it.

    Args:
      heads, key_heads, width: Number of heads, number of key heads and head width, as in the model.
      window: Whether to check a sliding window too.
      device, dtype: Device and dtype of the computation.
    Raises:
      ModelError: the difference is larger than rounding.
    """
    batch = _check_batch().to(device)
    rows, generator = len(batch.input_T), torch.Generator().manual_seed(0)

    def draw(number: int) -> Tensor:
        return send(torch.randn(1, number, rows, width, generator=generator), device).to(dtype)

    inputs, slope = [draw(heads), draw(key_heads), draw(key_heads)], draw(heads)
    segments, scaling = segments_of(batch, device), width**-0.5
    worst = 0.0
    for limit in (None, 7) if window else (None,):
        sees = visible(batch.end_T, batch.position_T, limit)
        ours, expected = (
            _values_and_gradients(inputs, slope, attend)
            for attend in (
                functools.partial(attend_segments, segments=segments, scaling=scaling, window=limit),
                functools.partial(_attend_densely, sees=sees, scaling=scaling),
            )
        )
        # The gradient of a key is a sum over query heads and branches, whose rounding grows with it.
        gaps = [(a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in zip(ours, expected, strict=True)]
        worst = max(worst, float(torch.stack(gaps).max().nan_to_num(nan=torch.inf)))
    if not worst <= TOLERANCE:
        raise ModelError(
            f"attention=varlen: this build's kernel differs from tree attention by {worst:.2g} on {device}, where "
            f"rounding allows {TOLERANCE}; use attention=auto, and please report it"
        )
    return worst


def _values_and_gradients(inputs: list[Tensor], slope: Tensor, attend: functools.partial[Tensor]) -> list[Tensor]:
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    with torch.enable_grad(), torch.autocast(slope.device.type, enabled=False):
        out = attend(*leaves)
        grads = torch.autograd.grad(out, leaves, slope.to(out.dtype))
    return [each.detach().double() for each in (out, *grads)]


def _attend_densely(query: Tensor, key: Tensor, value: Tensor, sees: Tensor, scaling: float) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    k, v = (each.double().repeat_interleave(groups, 1) for each in (key, value))
    scores = (query.double() @ k.transpose(2, 3) * scaling).masked_fill(~sees, float("-inf"))
    return scores.softmax(-1) @ v


def _check_batch() -> TreeBatch:
    """A prompt of 21 tokens with responses of 2, 31 and 10, of which two begin alike; and a tree of one sequence."""
    prompt = list(range(100, 121))
    tails = [[1, 2], [*range(200, 231)], [*range(200, 204), *range(300, 306)]]
    rows = [np.array(prompt + tail, np.int32) for tail in tails]
    alone = np.arange(400, 413, dtype=np.int32)
    trees = [
        grow_tree([TokenSequence(row, np.arange(len(row)) >= 21) for row in rows]),
        grow_tree([TokenSequence(alone, np.arange(13) >= 1)]),
    ]
    return batch_trees(trees)
