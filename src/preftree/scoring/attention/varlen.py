"""Tree attention by flash attention over segments of different lengths (torch.nn.attention.varlen), on CUDA.

Every branch of the packed row is a segment of queries; its keys are those of its ancestors followed by its own,
gathered for each branch anew. The queries are the last of their keys, and the kernel aligns them so: query r of l sees
the keys up to r + (number of keys) - l. Positions along a branch are then places among its keys, so a sliding window is
the kernel's own.

Suffixes: T packed tokens, K gathered keys, N branches, H heads, G key heads, D head width.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedConfig, PreTrainedModel

from preftree.errors import ModelError
from preftree.tree.layout import TokenSequence, TreeBatch, batch_trees, grow_tree
from preftree.tree.mask import visible
from preftree.tree.to_device import send

DTYPES = (torch.bfloat16, torch.float16)
"""What the kernel computes in."""

TOLERANCE = 0.05
"""Of the largest value, or gradient, of its kind. bf16 rounds by .005 to .01; a key too many or too few shows at .7."""


@dataclass(frozen=True, eq=False, slots=True)
class Segments:
    """The branches of a batch as the kernel wants them.

    Attributes:
      key_K: Place in T of each key, branch after branch; None where no branch has an ancestor and the keys are the row.
      query_starts: Where each branch's queries start, and where the last end, int32, [N + 1].
      key_starts: The same of the keys.
      most_queries: Of a branch.
      most_keys: Of a branch.
    """

    key_K: Int[Tensor, " K"] | None
    query_starts: Int[Tensor, " N1"]
    key_starts: Int[Tensor, " N1"]
    most_queries: int
    most_keys: int


def segments_of(batch: TreeBatch, device: torch.device) -> Segments:
    """Cut a batch into its branches; worked out on the host, so that the device is not waited for."""
    paths: list[np.ndarray] = []
    for branch in batch.branches:
        own = np.arange(branch.start, branch.stop)
        paths.append(own if branch.parent < 0 else np.concatenate([paths[branch.parent], own]))
    queries = [branch.stop - branch.start for branch in batch.branches]
    keys = [len(path) for path in paths]
    shared = any(branch.parent >= 0 for branch in batch.branches)
    return Segments(
        key_K=send(np.concatenate(paths), device) if shared else None,
        query_starts=send(np.cumsum([0, *queries]).astype(np.int32), device),
        key_starts=send(np.cumsum([0, *keys]).astype(np.int32), device),
        most_queries=max(queries),
        most_keys=max(keys),
    )


def attend_segments(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    segments: Segments,
    scaling: float,
    window: int | None,
) -> Float[Tensor, "1 H T D"]:
    """Attend along each branch; a shared key's gradient is the sum over all branches that gathered it.

    Args:
      query, key, value: One packed row, in one of DTYPES.
      segments: Its branches.
      scaling: Factor on query-key products.
      window: Positions a token sees, itself included.
    Raises:
      ModelError: the heads are of a width that the kernel does not take.
    """
    if problem := _width_problem(query.shape[-1], value.shape[-1]):
        raise ModelError(f"attention=varlen: {problem}; use attention=auto")
    q, k, v = (row[0].transpose(0, 1) for row in (query, key, value))
    if segments.key_K is not None:
        k, v = k.index_select(0, segments.key_K), v.index_select(0, segments.key_K)
    out = _flash(q, k, v, segments, scaling, (-1 if window is None else window - 1, 0))
    return out.transpose(0, 1)[None]


def _flash(
    query: Float[Tensor, "T H D"],
    key: Float[Tensor, "K G D"],
    value: Float[Tensor, "K G D"],
    segments: Segments,
    scaling: float,
    window: tuple[int, int],
) -> Float[Tensor, "T H D"]:
    """The kernel: key c is visible to query r iff -window[0] <= c - (r + keys - queries) <= window[1]; -1: no limit."""
    # Its splits over keys, which would depend on the packing, belong to paged keys alone.
    out = varlen_attn(
        query,
        key,
        value,
        segments.query_starts,
        segments.key_starts,
        segments.most_queries,
        segments.most_keys,
        scale=scaling,
        window_size=window,
        **_grouped(query.shape[1] != key.shape[1]),
    )
    assert isinstance(out, Tensor)
    return out


@functools.cache
def _grouped(grouped: bool) -> dict[str, Any]:
    """torch 2.11 takes grouped queries without being told, later ones refuse them unless told."""
    return {"enable_gqa": True} if grouped and "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def require_varlen(model: PreTrainedModel, precision: str, no_tree: str | None) -> None:
    """See that this path can score the model as asked, before anything is computed with it.

    Args:
      model: On the device that it will be on.
      precision: Of the products, as the scorer's.
      no_tree: Why its attention cannot be a tree at all; None where it can.
    Raises:
      ModelError: it cannot, with the reason; or the kernel is not what it is taken for.
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
    """Why this path cannot score this model as asked, in words; None where it can."""
    if device.type != "cuda":
        return f"it runs on CUDA alone, and the model is on {device.type}"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    if (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return f"it needs a GPU of compute capability 8.0, and this one has {capability[0]}.{capability[1]}"
    return why_not_flash(model, precision)


def why_not_flash(model: PreTrainedModel, precision: str) -> str | None:
    """As `why_not_varlen`, of what the model and the precision ask for on any device."""
    config = model.config.get_text_config()
    if precision != "bf16" and model.dtype not in DTYPES:
        asked = str(model.dtype).removeprefix("torch.")
        return f"it computes in bfloat16 or float16, and precision={precision} of {asked} weights asks for more"
    width = _width(config)
    if problem := _width_problem(width, getattr(config, "v_head_dim", None) or width):
        return problem
    if getattr(config, "attn_logit_softcapping", None):
        return "it cannot cap scores, as this architecture does"
    if any(name.rpartition(".")[2] in ("sinks", "sink") for name, _ in model.named_parameters()):
        return "it has no attention sinks, which this architecture has"
    return None


def _width(config: PreTrainedConfig) -> int:
    named = getattr(config, "qk_head_dim", None) or getattr(config, "head_dim", None)
    return named or config.hidden_size // config.num_attention_heads


def _width_problem(width: int, value_width: int) -> str | None:
    if width == value_width and width % 8 == 0 and width <= 256:
        return None
    return (
        f"it takes heads of a multiple of 8 numbers up to 256, as many in keys as in values, got {width} and "
        f"{value_width}"
    )


def verify_kernel(
    heads: int, key_heads: int, width: int, *, window: bool, device: torch.device, dtype: torch.dtype
) -> float:
    """The kernel's largest difference from the definition, relative, over values and gradients of a small forest.

    How the kernel aligns queries with more keys than queries is documented nowhere: it is looked at instead, in every
    process that relies on it.

    Args:
      heads, key_heads, width: Of the model.
      window: Whether a sliding window is to be looked at too.
      device, dtype: Where and in what to compute.
    Raises:
      ModelError: it is larger than rounding.
    """
    batch = _forest().to(device)
    rows, generator = len(batch.input_T), torch.Generator().manual_seed(0)

    def draw(number: int) -> Tensor:
        return send(torch.randn(1, number, rows, width, generator=generator), device).to(dtype)

    inputs, slope = [draw(heads), draw(key_heads), draw(key_heads)], draw(heads)
    segments, scaling = segments_of(batch, device), width**-0.5
    worst = 0.0
    for limit in (None, 7) if window else (None,):
        sees = visible(batch.end_T, batch.position_T, limit)
        found, expected = (
            _values_and_gradients(inputs, slope, attend)
            for attend in (
                functools.partial(attend_segments, segments=segments, scaling=scaling, window=limit),
                functools.partial(_attend_densely, sees=sees, scaling=scaling),
            )
        )
        # A key's gradient is a sum over query heads and branches, and rounds as such.
        gaps = [(a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in zip(found, expected, strict=True)]
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


def _forest() -> TreeBatch:
    """A prompt of 21 tokens with responses of 1, 30 and 9, of which two begin alike; and a row by itself."""
    prompt = list(range(100, 121))
    tails = [[1, 2], [*range(200, 231)], [*range(200, 204), *range(300, 306)]]
    rows = [np.array(prompt + tail, np.int32) for tail in tails]
    alone = np.arange(400, 413, dtype=np.int32)
    trees = [
        grow_tree([TokenSequence(row, np.arange(len(row)) >= 21) for row in rows]),
        grow_tree([TokenSequence(alone, np.arange(13) >= 1)]),
    ]
    return batch_trees(trees)
