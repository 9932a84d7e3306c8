"""From log-probs of predictions to sums over responses. Suffixes as in layout.py."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.types import ResponseLogps


def sum_responses(logps_I: Float[Tensor, " I"], count_R: Int[Tensor, " R"]) -> ResponseLogps:
    """Add up each response's token log-probs.

    The sum runs in float64 and in token order: rounding a 500-nat sum to fp32 alone would move a margin by 3e-5, and a
    sum that depended on the packing would break the equality of policy and reference at the first step.

    Args:
      logps_I: Token log-probs, response after response, nats, [I].
      count_R: Tokens of each response, [R]; they sum to I.
    Returns:
      Sums in nats, float64, [R]; counts, [R].
    """
    sums = torch.segment_reduce(logps_I.double(), "sum", lengths=count_R, unsafe=True, initial=0.0)
    return ResponseLogps(sums, count_R)
