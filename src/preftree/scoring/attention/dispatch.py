"""Attention over packed trees, as an attention function that transformers models call.

Suffixes: B = 1 packed row, H heads, G key heads, T tokens, D head width.

The tree is passed as a keyword argument of the model's forward, never as state: recomputation under gradient
checkpointing happens after the next batch has been prepared. The name of this function is not among transformers' mask
functions, so the models build no [T, T] mask.

Three paths compute the same mask (tree/mask.py):
- `sdpa`, on any device (by_branch.py): branch by branch, each with the keys of its ancestors before those of the
  branch. Other branches in the row have no effect on it, and change only the rounding of the other layers.
- `flex`, on CUDA (flex.py): one fused kernel for the whole row, which skips blocks that no query sees.
- `varlen`, on CUDA in half precision, only on request (varlen.py): one call of flash attention, with one segment per
  branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from preftree.errors import ModelError
from preftree.scoring.attention.by_branch import attend_by_branch
from preftree.scoring.attention.flex import attend_by_blocks
from preftree.scoring.attention.on_cpu import attend_on_cpu, fits_kernel
from preftree.scoring.attention.types import KERNEL_DTYPES, AttentionForm, TreeMask
from preftree.scoring.attention.varlen import attend_by_segments
from preftree.scoring.bf16_on_cpu import emulating, operand

# transformers selects code paths by parts of this name ("flash", "sdpa", ...), so it must contain none of them.
IMPLEMENTATION = "preftree_tree"


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
    """Attend along each token's branch.

    Args:
      module: The calling attention layer.
      query, key, value: One packed row; G key heads may be fewer than H (grouped queries).
      attention_mask: Ignored: the tree is the mask.
      tree: The trees of this forward.
      scaling: Factor on query-key products; D ** -0.5 when None.
      dropout: Must be 0: responses share a prompt, and policy and reference must be the same function.
      sliding_window: Positions that a token attends to, including its own position; some models keep it in the mask
        alone, so the one that the layer's mask has comes first.
      softcap: Scores become softcap * tanh(scores / softcap).
      s_aux: Attention sinks, one logit a head, [H].
    Returns:
      Attended values [B, T, H, E]; no attention weights.
    Raises:
      ModelError: there are no trees, or dropout is on, or the path does not support the layer's attention.
    """
    if tree is None:
        raise ModelError(
            "the model is set up to score packed trees and was called without one; call it in plain_attention(model)"
        )
    if dropout:
        raise ModelError(
            f"attention dropout must be 0 while scoring trees, got {dropout}; load the model with load_model"
        )
    sliding_window = tree.windows.get(module, sliding_window)
    form = AttentionForm(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    if tree.path == "sdpa" and emulating(query.device):
        query, key, value = (operand(rows, torch.bfloat16) for rows in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            out = _attend_by_branch(query, key, value, tree, form)
        return out.transpose(1, 2).to(torch.bfloat16), None
    if tree.path != "sdpa":
        query, key, value = _in_autocast_dtype(query, key, value)
    if tree.path == "flex":
        attend = attend_by_blocks
    # The check at every start runs in the weights' precision, which the kernel of `varlen` may not compute in.
    elif tree.path == "varlen" and query.dtype in KERNEL_DTYPES:
        attend = attend_by_segments
    else:
        attend = _attend_by_branch
    return attend(query, key, value, tree, form).transpose(1, 2), None


def _attend_by_branch(
    query: Tensor, key: Tensor, value: Tensor, tree: TreeMask, form: AttentionForm
) -> Float[Tensor, "1 H T E"]:
    attend = attend_on_cpu if fits_kernel(query, key, value, form) else attend_by_branch
    return attend(query, key, value, tree, form)


def _in_autocast_dtype(*rows: Tensor) -> tuple[Tensor, ...]:
    """The rows in the dtype of products: norms and rotary angles leave queries and keys in fp32."""
    kind = rows[0].device.type
    if not torch.is_autocast_enabled(kind):
        return rows
    return tuple(row.to(torch.get_autocast_dtype(kind)) for row in rows)


# A compiled layer calls it uncompiled: branches differ between batches, and the fused kernel is compiled separately.
AttentionInterface.register(IMPLEMENTATION, torch.compiler.disable(tree_attention))


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run `model` with transformers' plain attention (for generation and checks) while the context lasts."""
    before = model.config._attn_implementation
    if before == IMPLEMENTATION:
        # transformers has no fused form of capped scores and sinks.
        model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    # Layers that recompute their activations would drop the cache of keys and values of generation.
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
