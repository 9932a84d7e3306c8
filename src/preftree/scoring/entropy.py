"""Entropy of the next-token distribution at each prediction, a tile of logits at a time.

Shape suffixes as in head.py.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.scoring.figures import Head
from preftree.scoring.head import HeadGrads, chunks, head_logits


def head_entropy(head: Head) -> Float[Tensor, " S"]:
    """-sum_v p(v) log p(v) at each row, nats; differentiable in the head's inputs."""
    return _Entropy.apply(head.hidden_SD, head.weight_VD, head.bias_V, head)  # pyright: ignore[reportReturnType]  # apply is untyped


class _Entropy(torch.autograd.Function):
    """Nothing over the vocabulary is kept: a tile of logits is computed again in the backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
        parts = []
        for rows in chunks(len(hidden), len(weight)):
            logps = head.all_logps(rows)
            parts.append(-(logps.exp() * logps).sum(1))
        found = torch.cat(parts) if parts else hidden.new_zeros(0)
        ctx.save_for_backward(hidden, weight, bias, found)
        ctx.form, ctx.product = head.form, head.product
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, found = ctx.saved_tensors
        (grad,) = grads
        sums = HeadGrads(hidden, weight, bias, ctx.form, ctx.product, ctx.needs_input_grad)
        for rows in chunks(len(hidden), len(weight)):
            logits = head_logits(hidden[rows], weight, bias, ctx.form, ctx.product)
            logps = logits.log_softmax(1)
            d = (logps + found[rows, None]).mul_(logps.exp()).mul_(-grad[rows, None])
            sums.add(rows, d, None if ctx.form.softcap is None else logits)
        return (*sums.finish(), None)
