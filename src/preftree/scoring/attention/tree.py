"""Attention over packed trees, as an attention function that transformers models call.

Suffixes: B = 1 packed row, H heads, T tokens, D head width.

The tree travels as a keyword argument of the model's forward, never as state: recomputation under gradient
checkpointing happens after the next batch has been prepared. Our name is not among transformers' mask functions, so
the models build no [T, T] mask of their own.

Three ways compute the same mask (tree/mask.py):
- `sdpa`, on any device: branch by branch, each with its ancestors' keys before its own. A branch's result does not
  depend on what else is packed beside it, down to the last bit where the matrix products behave so.
- `flex`, on CUDA: one fused kernel for the whole row, with blocks that no query sees left out.
- `varlen`, on CUDA in half precision, only where asked for: one flash attention call, a branch a segment (varlen.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from preftree.errors import ModelError
from preftree.scoring.attention.varlen import DTYPES, attend_segments, segments_of
from preftree.scoring.bf16_on_cpu import emulating, operand
from preftree.tree.layout import TreeBatch

# transformers picks code paths by parts of this name ("flash", "sdpa", ...): it must contain none of theirs.
IMPLEMENTATION = "preftree_tree"

AttentionPath = Literal["sdpa", "flex", "varlen"]


@dataclass(frozen=True, eq=False)
class TreeMask:
    """What attention has to know of a batch; a plain object, so that wrappers pass it on untouched.

    Attributes:
      batch: The trees.
      path: Which implementation computes them.
      cache: Masks and segments already built for this batch, by window (and dtype).
    """

    batch: TreeBatch
    path: AttentionPath
    cache: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Form:
    """What a layer makes of its queries and keys.

    Attributes:
      scaling: Factor on query-key products.
      window: Positions a token sees, itself included; None for all.
      softcap: Scores become softcap * tanh(scores / softcap); None for no capping.
      sinks: Attention sinks, one logit a head, [H].
    """

    scaling: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether scores are neither capped nor joined by sinks."""
        return self.softcap is None and self.sinks is None


def tree_attention(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T E"],
    attention_mask: object = None,
    *,
    tree: TreeMask | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Float[Tensor, "B T H E"], None]:
    """Attend along each token's own branch.

    Args:
      module: The calling attention layer (unused; part of the interface).
      query, key, value: One packed row; G key heads may be fewer than H (grouped queries).
      attention_mask: Ignored: the tree is the mask.
      tree: The trees of this forward.
      scaling: Factor on query-key products; D ** -0.5 when None.
      dropout: Must be 0: responses share a prompt, and policy and reference must be the same function.
      sliding_window: Positions a token sees, itself included.
      softcap: Scores become softcap * tanh(scores / softcap).
      s_aux: Attention sinks, one logit a head, [H].
    Returns:
      Attended values [B, T, H, E]; no attention weights.
    """
    if tree is None:
        raise ModelError(
            "the model is set up to score packed trees and was called without one; call it in plain_attention(model)"
        )
    if dropout:
        raise ModelError(
            f"attention dropout must be 0 while scoring trees, got {dropout}; load the model with load_model"
        )
    form = Form(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    attend = {"sdpa": _by_branch, "flex": _by_blocks, "varlen": _by_segments}[tree.path]
    if tree.path != "sdpa" or not emulating(query.device):
        return attend(query, key, value, tree, form).transpose(1, 2), None
    query, key, value = (operand(rows, torch.bfloat16) for rows in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        out = attend(query, key, value, tree, form)
    return out.transpose(1, 2).to(torch.bfloat16), None


# A compiled layer calls it as it is: branches differ from batch to batch, and the fused kernel is compiled by itself.
AttentionInterface.register(IMPLEMENTATION, torch.compiler.disable(tree_attention))


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let `model` run as transformers wrote it (for generation, and for checks) while the context lasts."""
    before = model.config._attn_implementation
    if before == IMPLEMENTATION:
        # Capped scores and sinks have no fused form in transformers.
        model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    # Layers that compute their activations again would drop the cache of keys and values that generation writes.
    recomputed = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    recomputed = [layer for layer in recomputed if layer.training]
    for layer in recomputed:
        layer.training = False
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer in recomputed:
            layer.training = True
        if before == IMPLEMENTATION:
            model.set_attn_implementation(before)


def _by_branch(query: Tensor, key: Tensor, value: Tensor, tree: TreeMask, form: Form) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    branches = tree.batch.branches
    sizes = [branch.stop - branch.start for branch in branches]
    # split, not slices: its backward is one concatenation, where every slice would zero-fill a whole row.
    queries, keys, values = query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2)
    outputs = []
    for index, branch in enumerate(branches):
        chain = [index]
        while branches[chain[0]].parent >= 0:
            chain.insert(0, branches[chain[0]].parent)
        k = keys[index] if len(chain) == 1 else torch.cat([keys[i] for i in chain], 2)
        v = values[index] if len(chain) == 1 else torch.cat([values[i] for i in chain], 2)
        sees_all = form.window is None or branch.depth + sizes[index] <= form.window
        if form.plain and len(chain) == 1 and sees_all:
            out = scaled_dot_product_attention(queries[index], k, v, is_causal=True, scale=form.scaling)
        else:
            mask = _lower_right(tree, query, None if sees_all else form.window)(branch.depth, sizes[index])
            if form.plain:
                out = scaled_dot_product_attention(queries[index], k, v, attn_mask=mask, scale=form.scaling)
            else:
                out = _attend_by_hand(queries[index], k, v, mask, form)
        outputs.append(out)
    return torch.cat(outputs, 2)


def _lower_right(tree: TreeMask, query: Tensor, window: int | None) -> Any:
    """Additive masks of branches, all of them views of one template.

    Token j of a branch sees what stands at most j places after the branch's start; with c = key place - branch start
    the mask depends on (j, c) alone, so a branch at depth d cuts rows 0..l and columns -d..l out of the same template.
    """
    cache_key = ("additive", window, query.dtype)
    if cache_key not in tree.cache:
        branches = tree.batch.branches
        rows = max(branch.stop - branch.start for branch in branches)
        before = max(branch.depth for branch in branches)
        offset = (
            torch.arange(-before, rows, device=query.device)[None, :] - torch.arange(rows, device=query.device)[:, None]
        )
        hidden = offset > 0
        if window is not None:
            hidden |= offset <= -window
        template = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
        template.masked_fill_(hidden, float("-inf"))
        tree.cache[cache_key] = lambda depth, length: template[:length, before - depth : before + length]
    return tree.cache[cache_key]


def _attend_by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, form: Form) -> Tensor:
    """Soft-capping and sinks, which no fused kernel on the CPU takes."""
    scores = query @ key.transpose(2, 3) * form.scaling
    if form.softcap is not None:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    scores = scores + mask
    if form.sinks is not None:
        column = form.sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=wide).to(query.dtype)
    return (weights[..., :-1] if form.sinks is not None else weights) @ value


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, tree: TreeMask, form: Form) -> Tensor:
    # lambdas: the kernel counts the arguments of what it is given, which a decorated function would hide from it.
    softcap = form.softcap
    cap = None if softcap is None else (lambda score, b, h, q, k: softcap * torch.tanh(score / softcap))
    query, key, value = _autocast(query, key, value)
    out, aux = _flex(query.is_cuda)(
        query,
        key,
        value,
        score_mod=cap,
        block_mask=_block_mask(tree, query.device, form.window),
        scale=form.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    if form.sinks is not None:
        # A sink is one more key without a value: it only takes its share of the softmax.
        out = out * torch.sigmoid(aux.lse - form.sinks.reshape(1, -1, 1))[..., None].to(out.dtype)
    return out


def _by_segments(query: Tensor, key: Tensor, value: Tensor, tree: TreeMask, form: Form) -> Tensor:
    query, key, value = _autocast(query, key, value)
    if query.dtype not in DTYPES:  # the gate's forward, in the weights' precision
        return _by_branch(query, key, value, tree, form)
    if not form.plain:
        raise ModelError("attention=varlen can neither cap scores nor take attention sinks; use attention=auto")
    if "segments" not in tree.cache:
        tree.cache["segments"] = segments_of(tree.batch, query.device)
    return attend_segments(query, key, value, tree.cache["segments"], form.scaling, form.window)


def _autocast(*rows: Tensor) -> tuple[Tensor, ...]:
    """Norms and rotary angles leave queries and keys in fp32; the fused kernels want what products run in."""
    kind = rows[0].device.type
    if not torch.is_autocast_enabled(kind):
        return rows
    return tuple(row.to(torch.get_autocast_dtype(kind)) for row in rows)


def _block_mask(tree: TreeMask, device: torch.device, window: int | None) -> BlockMask:
    cache_key = ("blocks", window)
    if cache_key not in tree.cache:
        end, position = tree.batch.end_T, tree.batch.position_T
        sees = (  # as in tree/mask.py
            (lambda b, h, q, k: (k <= q) & (q < end[k]))
            if window is None
            else (lambda b, h, q, k: (k <= q) & (q < end[k]) & (position[q] - position[k] < window))
        )
        tree.cache[cache_key] = create_block_mask(
            sees, None, None, len(end), len(end), device=str(device), _compile=device.type == "cuda"
        )
    return tree.cache[cache_key]


def compile_or_fail() -> None:
    """Raise the compiler's limit of variants, and make meeting it an error.

    Past it the compiler falls back to uncompiled code, with no more than a warning.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@functools.cache
def _flex(compiled: bool) -> Any:
    """The fused kernel; uncompiled only where there is nothing to compile for (checks on the CPU).

    Windows, caps, precisions and gradients each compile anew; the form to fall back to needs [H, T, T] of memory.
    """
    if not compiled:
        return flex_attention
    compile_or_fail()
    return torch.compile(flex_attention, dynamic=True)
