"""What a loss may ask for: the closed list of inputs, as tensors with one entry per example."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed response log-probs of P pairs under one model.

    Attributes:
      chosen: log pi(y_w given x), nats, [P].
      rejected: log pi(y_l given x), nats, [P].
      chosen_tokens: Scored tokens of each chosen response, [P].
      rejected_tokens: Scored tokens of each rejected response, [P].
    """

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]
    chosen_tokens: Int[Tensor, " P"]
    rejected_tokens: Int[Tensor, " P"]
