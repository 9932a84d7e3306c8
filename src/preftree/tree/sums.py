"""Sums of token values over responses. Suffixes as in layout.py."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.types import ResponseSums


def sum_responses(values_I: Float[Tensor, " I"], count_R: Int[Tensor, " R"]) -> ResponseSums:
    """Add up the values of each response's tokens: log-probs, or the rewards that stand at its last one.

    The sum runs in float64 and in token order: rounding a 500-nat sum to fp32 alone would move a margin by 3e-5, and a
    sum that depended on the packing would break the equality of policy and reference at the first step.

    Args:
      values_I: Token values, response after response, nats for log-probs, [I].
      count_R: Tokens of each response, [R]; they sum to I.
    Returns:
      Sums, float64, [R]; counts, [R].
    """
    sums = torch.segment_reduce(values_I.double(), "sum", lengths=count_R, unsafe=True, initial=0.0)
    return ResponseSums(sums, count_R)
