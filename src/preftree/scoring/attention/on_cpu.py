"""Tree attention by torch's flash kernel for the CPU, with one backward for all branches of a row.

The forward takes branch by branch, each with the keys of its ancestors. Autograd would record every copy of keys and
every repetition of grouped keys, and run the kernel's backward in bf16. Here one node keeps the row, its output and its
normalisers, and adds each branch's gradients to those of the row in place.

**The backward computes in fp32** (float64 for float64). The kernel's backward in bf16 takes longer than in fp32 up to
some 500 queries, twice to four times as long for short branches, and is three to eight times less exact
(`benchmarks/attention_on_cpu.py`).

**A long beginning is read in one call.** Its keys would be copied for each branch below it. From WIDE_COPIES keys
copied, the queries of all those branches attend to it in one call without a mask, and the softmaxes are joined by their
normalisers: for parts p with outputs o_p and log-normalisers l_p, l = log sum_p exp(l_p) and
o = sum_p exp(l_p - l) o_p. The kernel's backward of a part takes the joint o and l, because its probabilities are
exp(score - l) and its row sums sum(o * grad) (Dao et al. 2022, FlashAttention, appendix B.2).

Suffixes as in by_branch.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.scoring.attention.types import AttentionForm, TreeMask
from preftree.tree.layout import Branch

WIDE_COPIES = 2048
"""Keys that the branches below a branch would copy of it, all together, from which they read them in one call."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def fits_kernel(query: Tensor, key: Tensor, value: Tensor, form: AttentionForm) -> bool:
    """Whether the kernel computes this attention: on a CPU, without caps and sinks, values as wide as queries.

    It reads the numbers of a head as neighbours in memory, and does not check that they are.
    """
    plain = form.softcap is None and form.sinks is None and query.shape[-1] == value.shape[-1]
    return query.device.type == "cpu" and plain and all(rows.stride(-1) == 1 for rows in (query, key, value))


def attend_on_cpu(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    tree: TreeMask,
    form: AttentionForm,
) -> Float[Tensor, "1 H T D"]:
    """Attend along each branch, in the dtype of products; gradients have the dtype of their inputs."""
    lowered = torch.is_autocast_enabled("cpu") and query.dtype != torch.float64
    low = torch.get_autocast_dtype("cpu") if lowered else query.dtype
    if (name := ("calls", form.window)) not in tree.cache:
        tree.cache[name] = plan_calls(tree.batch.branches, form.window)
    calls: Calls = tree.cache[name]
    return _TreeAttention.apply(query, key, value, calls, form.scaling, low)  # pyright: ignore[reportReturnType]  # apply is untyped


@dataclass(frozen=True, slots=True)
class Narrow:
    """The queries of a branch, and the keys of the branch and of the ancestors that are not read as a whole.

    Attributes:
      start, stop: The branch's tokens.
      spans: Tokens of its keys, root first; the last span is the branch.
      num_before: Number of keys before those of the branch.
      hides: Whether the window hides some of them.
    """

    start: int
    stop: int
    spans: tuple[tuple[int, int], ...]
    num_before: int
    hides: bool


@dataclass(frozen=True, slots=True)
class Wide:
    """The queries of all branches below a branch, and its keys, all of which they see.

    Attributes:
      start, stop: The branch's tokens.
      end: Index after its subtree, whose queries follow the branch.
    """

    start: int
    stop: int
    end: int


@dataclass(frozen=True, eq=False, slots=True)
class Calls:
    """The kernel's calls for one row: one for each branch, and one for each branch that is read as a whole.

    Attributes:
      narrow: In the order of the row.
      wide: In the order of the row.
      mask: Additive mask, fp32, of a branch of the most tokens with the most keys before it; others are views of it.
      before: Columns of `mask` before a branch's first token.
    """

    narrow: tuple[Narrow, ...]
    wide: tuple[Wide, ...]
    mask: Float[Tensor, "Q K"]
    before: int

    def mask_of(self, call: Narrow, dtype: torch.dtype) -> Float[Tensor, "Q K"] | None:
        """Additive mask of a call; None where it is causal and begins with its own keys."""
        if len(call.spans) == 1 and not call.hides:
            return None
        length = call.stop - call.start
        view = self.mask[:length, self.before - call.num_before : self.before + length]
        return view.double() if dtype == torch.float64 else view


def plan_calls(branches: Sequence[Branch], window: int | None) -> Calls:
    """The calls of a row of trees under a window of so many positions; None for all."""
    sizes = [branch.stop - branch.start for branch in branches]
    below = [0] * len(branches)  # branches in each subtree, without its root
    end = [branch.stop for branch in branches]
    for index in range(len(branches) - 1, -1, -1):
        if (parent := branches[index].parent) >= 0:
            below[parent] += below[index] + 1
            end[parent] = max(end[parent], end[index])
    hides = [window is not None and branch.depth + size > window for branch, size in zip(branches, sizes, strict=True)]
    is_wide = [not any(hides) and size * number >= WIDE_COPIES for size, number in zip(sizes, below, strict=True)]
    narrow: list[Narrow] = []
    for index, branch in enumerate(branches):
        chain, ancestor = [(branch.start, branch.stop)], branch.parent
        while ancestor >= 0:
            if not is_wide[ancestor]:
                chain.append((branches[ancestor].start, branches[ancestor].stop))
            ancestor = branches[ancestor].parent
        before = sum(stop - start for start, stop in chain[1:])
        narrow.append(Narrow(branch.start, branch.stop, tuple(reversed(chain)), before, hides[index]))
    masked = [call for call in narrow if len(call.spans) > 1 or call.hides]
    rows = max((call.stop - call.start for call in masked), default=0)
    before = max((call.num_before for call in masked), default=0)
    return Calls(
        tuple(narrow),
        tuple(Wide(b.start, b.stop, e) for b, e, whole in zip(branches, end, is_wide, strict=True) if whole),
        additive_template(rows, before, window if any(hides) else None, torch.float32, torch.device("cpu")),
        before,
    )


def additive_template(
    rows: int, before: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "Q K"]:
    """Additive mask of the longest branch with the most keys before it; the masks of the others are views of it.

    Token j of a branch sees keys up to j positions after the branch's start; with c = key position - branch start
    the mask depends on (j, c) alone, so a branch with d keys before it takes rows 0..l and columns -d..l.

    Args:
      rows: Tokens of the longest branch, Q.
      before: Most keys before a branch; K is their number and `rows`.
      window: Positions that a token attends to, including its own position; None for all.
      dtype, device: Dtype and device of the mask.
    """
    offset = torch.arange(-before, rows, device=device)[None, :] - torch.arange(rows, device=device)[:, None]
    hidden = offset > 0
    if window is not None:
        hidden |= offset <= -window
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


class _TreeAttention(torch.autograd.Function):
    """Attention of a row; its inputs are rounded to the dtype of products."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: Calls, scaling: float, low: torch.dtype
    ) -> Tensor:
        ctx.dtypes = (query.dtype, key.dtype, value.dtype)
        q, k, v = (rows.to(low) for rows in (query, key, value))
        # In the order of tokens, as the layer's output product takes it.
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        wide_dtype = torch.float64 if low == torch.float64 else torch.float32
        normaliser = torch.empty(q.shape[:3], dtype=wide_dtype)
        for call in calls.narrow:
            o, n = _flash(
                q[:, :, call.start : call.stop],
                _keys(k, call),
                _keys(v, call),
                is_causal=(mask := calls.mask_of(call, low)) is None,
                attn_mask=mask,
                scale=scaling,
            )
            out[:, :, call.start : call.stop] = o
            normaliser[:, :, call.start : call.stop] = n
        for call in calls.wide:
            o, n = _flash(
                q[:, :, call.stop : call.end],
                k[:, :, call.start : call.stop],
                v[:, :, call.start : call.stop],
                scale=scaling,
            )
            _join(out[:, :, call.stop : call.end], normaliser[:, :, call.stop : call.end], o, n)
        ctx.save_for_backward(q, k, v, out, normaliser)
        ctx.calls, ctx.scaling = calls, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        q, k, v, out, normaliser = ctx.saved_tensors
        calls: Calls = ctx.calls
        wide_dtype = normaliser.dtype
        grad_q = torch.empty(q.shape, dtype=wide_dtype)
        grad_k, grad_v = (torch.zeros(rows.shape, dtype=wide_dtype) for rows in (k, v))

        def of_queries(start: int, stop: int) -> tuple[Tensor, ...]:
            return tuple(rows[:, :, start:stop].to(wide_dtype) for rows in (grads[0], q, out))

        for call in calls.narrow:
            g, queries, o = of_queries(call.start, call.stop)
            d_q, d_k, d_v = _flash_backward(
                g,
                queries,
                _keys(k, call).to(wide_dtype),
                _keys(v, call).to(wide_dtype),
                o,
                normaliser[:, :, call.start : call.stop],
                0.0,
                (mask := calls.mask_of(call, wide_dtype)) is None,
                attn_mask=mask,
                scale=ctx.scaling,
            )
            grad_q[:, :, call.start : call.stop] = d_q
            offset = 0
            for start, stop in call.spans:
                grad_k[:, :, start:stop] += d_k[:, :, offset : offset + stop - start]
                grad_v[:, :, start:stop] += d_v[:, :, offset : offset + stop - start]
                offset += stop - start
        for call in calls.wide:
            g, queries, o = of_queries(call.stop, call.end)
            d_q, d_k, d_v = _flash_backward(
                g,
                queries,
                k[:, :, call.start : call.stop].to(wide_dtype),
                v[:, :, call.start : call.stop].to(wide_dtype),
                o,
                normaliser[:, :, call.stop : call.end],
                0.0,
                False,
                scale=ctx.scaling,
            )
            grad_q[:, :, call.stop : call.end] += d_q
            grad_k[:, :, call.start : call.stop] += d_k
            grad_v[:, :, call.start : call.stop] += d_v
        of_q, of_k, of_v = (rows.to(dtype) for rows, dtype in zip((grad_q, grad_k, grad_v), ctx.dtypes, strict=True))
        return of_q, of_k, of_v, None, None, None


def _keys(rows: Float[Tensor, "1 G T D"], call: Narrow) -> Float[Tensor, "1 G K D"]:
    """The keys, or values, of a call."""
    if len(call.spans) == 1:
        return rows[:, :, call.start : call.stop]
    return torch.cat([rows[:, :, start:stop] for start, stop in call.spans], 2)


def _join(out: Tensor, normaliser: Tensor, other: Tensor, of_other: Tensor) -> None:
    """Join to `out`, in place, the attention of the same queries to other keys."""
    joint = torch.logaddexp(normaliser, of_other)
    mine, others = (each.sub(joint).exp_()[..., None] for each in (normaliser, of_other))
    out.copy_(out.to(joint.dtype).mul_(mine).addcmul_(other.to(joint.dtype), others))
    normaliser.copy_(joint)
