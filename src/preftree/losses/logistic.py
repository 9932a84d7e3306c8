"""Logistic losses of the reference-adjusted gap: DPO and its label-smoothed form."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.inputs import PairLogps
from preftree.losses.options import Beta, LabelSmoothing, checked
from preftree.losses.pairs import delta


@checked
def dpo(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Logistic loss on the reference-adjusted gap.

    loss = -log sigmoid(beta * delta)

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint, > 0; larger stays closer to the reference.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, or beta <= 0.
    At policy == reference: ln 2.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 7.
    """
    return -logsigmoid(beta * delta(policy, ref))


@checked
def cdpo(
    policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1, label_smoothing: LabelSmoothing = 0.1
) -> Float[Tensor, " P"]:
    """DPO's loss in expectation over labels that may have been flipped ("conservative" DPO).

    loss = -(1 - label_smoothing) log sigmoid(beta * delta) - label_smoothing log sigmoid(-beta * delta)

    Its minimum is finite: sigmoid(beta * delta) = 1 - label_smoothing, where DPO would push delta on without end.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint, > 0.
      label_smoothing: Probability that a label is flipped, in [0, 0.5); 0 is DPO.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, beta <= 0, or label_smoothing outside [0, 0.5).
    At policy == reference: ln 2.
    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", Eq. 3.
    """
    margin = beta * delta(policy, ref)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
