"""Loss of demonstrations: the policy's likelihood, without a reference."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from preftree.losses.types import LossSpec


def sft(logps: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Negative log-likelihood of demonstrations.

    loss = -logps

    The value is a sum over tokens: divided by the scored tokens of the step it is the usual mean per token.

    Args:
      logps: Summed log-prob of each demonstration under the policy, nats, [N]; carries gradient.
    Returns:
      Loss per demonstration, nats, [N]; not reduced.
    At policy == reference: no fixed value.
    Source: maximum likelihood; Rafailov et al. 2023, arXiv:2305.18290, Section 3 (the SFT phase).
    """
    return -logps


SPECS = {"sft": LossSpec(sft, None, None, trl=("sft",))}
