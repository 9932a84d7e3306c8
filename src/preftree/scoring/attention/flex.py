"""Tree attention by one fused kernel over the packed row (torch's flex_attention), on CUDA.

Suffixes: H heads, G key heads, T packed tokens, D head width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from preftree.scoring.attention.types import AttentionForm, TreeMask
from preftree.scoring.compile import limit_recompilation


def attend_by_blocks(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    tree: TreeMask,
    form: AttentionForm,
) -> Float[Tensor, "1 H T E"]:
    """Attend along each branch; blocks of keys that are invisible to a block of queries are skipped."""
    # lambdas: the kernel counts the arguments of its functions, which a decorated function would hide.
    softcap = form.softcap
    cap = None if softcap is None else (lambda score, b, h, q, k: softcap * torch.tanh(score / softcap))
    out, aux = _kernel(query.is_cuda)(
        query,
        key,
        value,
        score_mod=cap,
        block_mask=block_mask(tree, query.device, form.window),
        scale=form.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    if form.sinks is not None:
        # A sink is a further key without a value: it only takes a share of the softmax.
        out = out * torch.sigmoid(aux.lse - form.sinks.reshape(1, -1, 1))[..., None].to(out.dtype)
    return out


def block_mask(tree: TreeMask, device: torch.device, window: int | None) -> BlockMask:
    """The mask of tree/mask.py in the kernel's form, cached in the batch."""
    cache_key = ("blocks", window)
    if cache_key not in tree.cache:
        end, position = tree.batch.end_T, tree.batch.position_T
        sees = (
            (lambda b, h, q, k: (k <= q) & (q < end[k]))
            if window is None
            else (lambda b, h, q, k: (k <= q) & (q < end[k]) & (position[q] - position[k] < window))
        )
        tree.cache[cache_key] = create_block_mask(
            sees, None, None, len(end), len(end), device=str(device), _compile=device.type == "cuda"
        )
    return tree.cache[cache_key]


@functools.cache
def _kernel(compiled: bool) -> Any:
    """The fused kernel; uncompiled only in checks on the CPU.

    Windows, caps, precisions and gradients each need another compilation; the uncompiled form needs [H, T, T] of
    memory.
    """
    if not compiled:
        return flex_attention
    limit_recompilation()
    return torch.compile(flex_attention, dynamic=True)
