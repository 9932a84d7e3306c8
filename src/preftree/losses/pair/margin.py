"""Margin losses and other convex losses of binary classification."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from preftree.losses.numerics import tangent_exp
from preftree.losses.options import Beta, Choice, NotNegative, Positive, checked
from preftree.losses.quantities import LN_2, delta, log_gap, scaled_logps, scaled_logratios
from preftree.losses.types import LossSpec, PairSums

SHAPES = ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage")


@checked
def hinge(policy: PairSums, ref: PairSums, *, beta: Beta = 0.05) -> Float[Tensor, " P"]:
    """Hinge on the reference-adjusted gap, which is 0 from a margin of 1.

    loss = max(0, 1 - beta * delta)

    The loss of RSO, which applies it to pairs drawn by rejection sampling; here the pairs are those of the data.

    Args:
      beta: Inverse of the delta from which the loss is 0, > 0; the paper's gamma.
    Returns:
      Loss per pair, [P]; not reduced.
    At policy == reference: 1.
    Source: Liu et al. 2023 (RSO), arXiv:2309.06657, hinge-norm.
    """
    return (1 - beta * delta(policy, ref)).clamp(min=0)


@checked
def slic(policy: PairSums, *, margin: Positive = 1.0, nll_weight: NotNegative = 0.1) -> Float[Tensor, " P"]:
    """Hinge on the policy's gap, with the likelihood of the chosen response as regulariser.

    loss = max(0, margin - chosen_logps + rejected_logps) - nll_weight * chosen_logps

    Args:
      margin: Nats by which the chosen response should lead, > 0; the paper's delta.
      nll_weight: Weight of the chosen response's negative log-likelihood, >= 0; the paper's lambda.
    At policy == reference: no fixed value; there is no reference.
    Source: Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, with the chosen response as regularisation target.
    """
    return (margin - log_gap(policy)).clamp(min=0) - nll_weight * policy.chosen


@checked
def gpo(
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, f: Annotated[str, Choice(SHAPES)] = "logistic"
) -> Float[Tensor, " P"]:
    """A convex function of the margin, as in binary classification ("generalised preference optimisation").

    loss = f(x), x = beta * delta

    logistic log(1 + e^-x), which is DPO; hinge max(0, 1 - x); squared (x - 1)^2, which is beta^2 ipo_sum(beta / 2);
    exponential e^-x; truncated_quadratic max(0, 1 - x)^2; savage (1 + e^x)^-2, the one that is not convex. From
    x = -40 on the exponential continues as its tangent, so that fp32 does not overflow.

    Args:
      f: The function.
    Returns:
      Loss per pair, [P]; not reduced.
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


def _gpo_at_reference(*, f: str, **_: float) -> float:
    return {"logistic": LN_2, "savage": 0.25}.get(f, 1.0)


SPECS = {
    "hinge": LossSpec(hinge, 1.0, scaled_logratios, trl=("hinge",)),
    "slic": LossSpec(slic, None, scaled_logps),
    "gpo": LossSpec(gpo, _gpo_at_reference, scaled_logratios),
}
