"""Tree attention branch by branch, by torch's scaled dot-product attention, on any device.

Suffixes: H heads, G key heads, T packed tokens, Q queries of a branch, K keys of its ancestors and itself, D head
width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from preftree.scoring.attention.on_cpu import additive_template
from preftree.scoring.attention.types import AttentionForm, TreeMask


def attend_by_branch(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    tree: TreeMask,
    form: AttentionForm,
) -> Float[Tensor, "1 H T E"]:
    """Attend with each branch's queries to the keys of its ancestors, root first, and of the branch."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    branches = tree.batch.branches
    sizes = [branch.stop - branch.start for branch in branches]
    # split, not slices: its backward is one concatenation, while every slice would zero-fill a whole row.
    queries, keys, values = query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2)
    plain = form.softcap is None and form.sinks is None
    outputs = []
    for index, branch in enumerate(branches):
        chain = [index]
        while branches[chain[0]].parent >= 0:
            chain.insert(0, branches[chain[0]].parent)
        k = keys[index] if len(chain) == 1 else torch.cat([keys[i] for i in chain], 2)
        v = values[index] if len(chain) == 1 else torch.cat([values[i] for i in chain], 2)
        sees_all = form.window is None or branch.depth + sizes[index] <= form.window
        if plain and len(chain) == 1 and sees_all:
            out = scaled_dot_product_attention(queries[index], k, v, is_causal=True, scale=form.scaling)
        else:
            mask = _mask_template(tree, query, None if sees_all else form.window)(branch.depth, sizes[index])
            if plain:
                out = scaled_dot_product_attention(queries[index], k, v, attn_mask=mask, scale=form.scaling)
            else:
                out = _attend_in_steps(queries[index], k, v, mask, form)
        outputs.append(out)
    return torch.cat(outputs, 2)


def _mask_template(tree: TreeMask, query: Tensor, window: int | None) -> Callable[[int, int], Float[Tensor, "Q K"]]:
    """Additive mask of a branch by its depth and length: a view of one template, cached in the batch."""
    cache_key = ("additive", window, query.dtype)
    if cache_key not in tree.cache:
        branches = tree.batch.branches
        rows = max(branch.stop - branch.start for branch in branches)
        before = max(branch.depth for branch in branches)
        template = additive_template(rows, before, window, query.dtype, query.device)
        tree.cache[cache_key] = lambda depth, length: template[:length, before - depth : before + length]
    return tree.cache[cache_key]


def _attend_in_steps(
    query: Float[Tensor, "1 H Q D"],
    key: Float[Tensor, "1 H K D"],
    value: Float[Tensor, "1 H K E"],
    mask: Float[Tensor, "Q K"],
    form: AttentionForm,
) -> Float[Tensor, "1 H Q E"]:
    """Attend with soft-capping and sinks, which no fused kernel on the CPU supports."""
    scores = query @ key.transpose(2, 3) * form.scaling
    if form.softcap is not None:
        scores = form.softcap * torch.tanh(scores / form.softcap)
    scores = scores + mask
    if form.sinks is not None:
        column = form.sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    sum_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=sum_dtype).to(query.dtype)
    return (weights[..., :-1] if form.sinks is not None else weights) @ value
