"""Squared losses: the gap is regressed on a finite target, so that certain labels cannot drive it to infinity.

Two losses carry the name IPO in the field, and they differ by the unit of the gap: nats per token, or nats. See
docs/losses.md for who uses which.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from preftree.losses.inputs import PairLogps
from preftree.losses.options import Beta, checked
from preftree.losses.pairs import delta, logratios


@checked
def ipo(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Squared distance of the per-token gap from its target, as TRL trains it.

    loss = (chosen_logratio / chosen_tokens - rejected_logratio / rejected_tokens - 1 / (2 beta))^2

    A response without tokens has no mean: its loss is nan, which stops a run. The data rooms let none through.

    Args:
      policy: Summed response log-probs of each pair, nats, and their token counts, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint per token, > 0; the paper's tau.
    Returns:
      Loss per pair, squared nats per token, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, or beta <= 0.
    At policy == reference: 1 / (4 beta^2).
    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 17; the mean over tokens: huggingface/trl#1265.
    """
    ratios = logratios(policy, ref)
    gap = ratios.chosen / policy.chosen_tokens - ratios.rejected / policy.rejected_tokens
    return (gap - 1 / (2 * beta)).square()


@checked
def ipo_sum(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Squared distance of the gap from its target: the paper's formula on summed log-probs.

    loss = (delta - 1 / (2 beta))^2

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint, > 0; the paper's tau.
    Returns:
      Loss per pair, squared nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, or beta <= 0.
    At policy == reference: 1 / (4 beta^2).
    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 17.
    """
    return (delta(policy, ref) - 1 / (2 * beta)).square()
