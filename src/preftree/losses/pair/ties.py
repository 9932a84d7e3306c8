"""Losses of pairs with ties: probabilities of win, loss and tie."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import AtLeastOne, Beta, NotNegative, checked
from preftree.losses.quantities import check_one_each, delta, scaled_logratios
from preftree.losses.types import LossSpec, PairSums


@checked
def rao_kupper(
    policy: PairSums, ref: PairSums, ties: Bool[Tensor, " P"], *, beta: Beta = 0.1, nu: AtLeastOne = 3.0
) -> Float[Tensor, " P"]:
    """Likelihood of win or tie with a threshold below which differences are unnoticed (Rao and Kupper).

    loss = -log sigmoid(d - ln nu) for a win, d = beta * delta
    loss = -log((nu^2 - 1) sigmoid(-d - ln nu) sigmoid(d - ln nu)) for a tie

    Win, loss and tie add up to 1. The reward is Bradley-Terry's, so on labels of this model the optimum is DPO's.

    Args:
      ties: Whether neither response of the pair is preferred, [P].
      nu: e to the smallest difference of reward that is noticed, >= 1; at 1 there are no ties, and the loss is DPO's.
    Raises:
      ValueError: a tie with nu = 1.
    At policy == reference: no fixed value; ln(1 + nu) for a win, ln((1 + nu) / (nu - 1)) for a tie: ln 4 and ln 2 at
      nu = 3.
    Source: Chen et al. 2024, arXiv:2409.17431, after Rao and Kupper 1967.
    """
    check_one_each(policy, ties=ties)
    if nu == 1 and bool(ties.any()):
        raise ValueError("a tie is impossible with nu = 1; set nu > 1, or take the ties out of the data")
    d, threshold = beta * delta(policy, ref), math.log(nu)
    win, lost = -logsigmoid(d - threshold), -logsigmoid(-d - threshold)
    return torch.where(ties, win + lost - math.log(nu * nu - 1), win) if nu > 1 else win


@checked
def davidson(
    policy: PairSums, ref: PairSums, ties: Bool[Tensor, " P"], *, beta: Beta = 0.1, nu: NotNegative = 1.0
) -> Float[Tensor, " P"]:
    """Likelihood of win or tie with a weight for ties (Davidson).

    loss = log(1 + e^-d + 2 nu e^(-d/2)) for a win, d = beta * delta
    loss = that - log(2 nu e^(-d/2)) for a tie

    Win, loss and tie add up to 1. The reward is Bradley-Terry's, so on labels of this model the optimum is DPO's.

    Args:
      ties: Whether neither response of the pair is preferred, [P].
      nu: Weight of a tie, >= 0; at equal rewards nu / (1 + nu) of the pairs tie. At 0 the loss is DPO's.
    Raises:
      ValueError: a tie with nu = 0.
    At policy == reference: no fixed value; ln(2 + 2 nu) for a win, ln((1 + nu) / nu) for a tie: ln 4 and ln 2 at nu =
      1.
    Source: Chen et al. 2024, arXiv:2409.17431, after Davidson 1970.
    """
    check_one_each(policy, ties=ties)
    d = beta * delta(policy, ref)
    if nu == 0:
        if bool(ties.any()):
            raise ValueError("a tie is impossible with nu = 0; set nu > 0, or take the ties out of the data")
        return -logsigmoid(d)
    tie = math.log(2 * nu) - d / 2
    win = torch.stack([torch.zeros_like(d), -d, tie]).logsumexp(0)
    return torch.where(ties, win - tie, win)


SPECS = {
    "rao_kupper": LossSpec(rao_kupper, None, scaled_logratios),
    "davidson": LossSpec(davidson, None, scaled_logratios),
}
