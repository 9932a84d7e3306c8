"""Margin losses, and the other convex shapes that a binary classification loss may have."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from preftree.losses.numerics import tangent_exp
from preftree.losses.options import Beta, Choice, NotNegative, Positive, checked
from preftree.losses.quantities import delta, log_gap
from preftree.losses.types import PairLogps

SHAPES = ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage")


@checked
def hinge(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.05) -> Float[Tensor, " P"]:
    """Hinge on the reference-adjusted gap: nothing more is asked of a pair once its margin is 1.

    loss = max(0, 1 - beta * delta)

    The loss of RSO, which applies it to pairs drawn by rejection sampling; here the pairs are those of the data.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Inverse of the delta at which the loss ends, > 0; the paper's gamma.
    Returns:
      Loss per pair, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, or beta <= 0.
    At policy == reference: 1.
    Source: Liu et al. 2023 (RSO), arXiv:2309.06657, hinge-norm.
    """
    return (1 - beta * delta(policy, ref)).clamp(min=0)


@checked
def slic(policy: PairLogps, *, margin: Positive = 1.0, nll_weight: NotNegative = 0.1) -> Float[Tensor, " P"]:
    """Hinge on the policy's own gap, with the chosen response as the target that keeps the policy in place.

    loss = max(0, margin - chosen_logps + rejected_logps) - nll_weight * chosen_logps

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      margin: Nats by which the chosen response should lead, > 0; the paper's delta.
      nll_weight: Weight of the chosen response's negative log-likelihood, >= 0; the paper's lambda.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, margin <= 0, or nll_weight < 0.
    At policy == reference: no fixed value; there is no reference.
    Source: Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, with the chosen response as regularisation target.
    """
    return (margin - log_gap(policy)).clamp(min=0) - nll_weight * policy.chosen


@checked
def gpo(
    policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1, f: Annotated[str, Choice(SHAPES)] = "logistic"
) -> Float[Tensor, " P"]:
    """Any convex function of the margin that a classifier is trained with ("generalised preference optimisation").

    loss = f(x), x = beta * delta

    logistic log(1 + e^-x), which is DPO; hinge max(0, 1 - x); squared (x - 1)^2, which is beta^2 ipo_sum(beta / 2);
    exponential e^-x; truncated_quadratic max(0, 1 - x)^2; savage (1 + e^x)^-2, the one that is not convex. From
    x = -40 on the exponential goes on as its tangent, so that fp32 does not overflow.

    Args:
      policy: Summed response log-probs of each pair, nats, [P]; carries gradient.
      ref: The same pairs under the frozen reference, nats, [P].
      beta: Strength of the KL constraint, > 0.
      f: The function.
    Returns:
      Loss per pair, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, beta <= 0, or an unknown f.
    At policy == reference: f(0): ln 2, 1, 1, 1, 1, 1/4 in the order above.
    Source: Tang et al. 2024, arXiv:2402.05749. Checked by hand: f(0), f'(0) < 0 and the two identities above.
    """
    x = beta * delta(policy, ref)
    if f == "logistic":
        return softplus(-x)
    if f == "hinge":
        return (1 - x).clamp(min=0)
    if f == "squared":
        return (x - 1).square()
    if f == "exponential":
        return tangent_exp(-x)
    if f == "truncated_quadratic":
        return (1 - x).clamp(min=0).square()
    return (-x).sigmoid().square()
