"""Squared losses: regression of the gap on a finite target, so deterministic labels cannot drive it to infinity.

Two losses are called IPO in the literature; they differ in the unit of the gap: nats per token, or nats. See
docs/losses.md for the implementations of each.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, checked
from preftree.losses.quantities import LN_2, check_one_each, delta, logratios, plain_logratios, scaled_logratios
from preftree.losses.types import LossSpec, PairSums


@checked
def ipo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Squared distance of the per-token gap from its target, as in TRL.

    loss = (chosen_logratio / chosen_tokens - rejected_logratio / rejected_tokens - 1 / (2 beta))^2

    A response without tokens has no mean: its loss is nan, which stops a run. The data rooms let none through.

    Args:
      beta: Strength of the KL constraint per token, > 0; the paper's tau.
    Returns:
      Loss per pair, squared nats per token, [P]; not reduced.
    At policy == reference: 1 / (4 beta^2).
    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 17; the mean over tokens: huggingface/trl#1265.
    """
    ratios = logratios(policy, ref)
    gap = ratios.chosen / policy.chosen_tokens - ratios.rejected / policy.rejected_tokens
    return (gap - 1 / (2 * beta)).square()


@checked
def ipo_sum(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Squared distance of the gap from its target: the paper's formula on summed log-probs.

    loss = (delta - 1 / (2 beta))^2

    Args:
      beta: Strength of the KL constraint, > 0; the paper's tau.
    Returns:
      Loss per pair, squared nats, [P]; not reduced.
    At policy == reference: 1 / (4 beta^2).
    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 17.
    """
    return (delta(policy, ref) - 1 / (2 * beta)).square()


@checked
def sppo(policy: PairSums, ref: PairSums, *, beta: Beta = 1e-3) -> Float[Tensor, " P"]:
    """Regression of each response's logratio on +1 / (2 beta) for the chosen, -1 / (2 beta) for the rejected response.

    loss = (chosen_logratio - 1 / (2 beta))^2 + (rejected_logratio + 1 / (2 beta))^2

    Self-play preference optimisation with the label as the win probability, 1 or 0 ("hard"). Unlike IPO, it has a
    separate target for each side.

    Args:
      ref: The same pairs under the reference, nats, [P]; in the paper's rounds, the last round's policy.
      beta: Inverse of the paper's eta, > 0.
    Returns:
      Loss per pair, squared nats, [P]; not reduced.
    At policy == reference: 1 / (2 beta^2).
    Source: Wu et al. 2024, arXiv:2405.00675, Eq. 4.7, with P = 1 for the chosen response.
    """
    ratios = logratios(policy, ref)
    return (ratios.chosen - 0.5 / beta).square() + (ratios.rejected + 0.5 / beta).square()


@checked
def sppo_soft(
    policy: PairSums, ref: PairSums, win_prob: Float[Tensor, " P"], *, beta: Beta = 1e-3
) -> Float[Tensor, " P"]:
    """Regression of each response's logratio on its win probability, by a judge in the data.

    loss = (chosen_logratio - (win_prob - 1/2) / beta)^2 + (rejected_logratio + (win_prob - 1/2) / beta)^2

    Args:
      ref: The same pairs under the reference, nats, [P]; in the paper's rounds, the last round's policy.
      win_prob: Probability that the chosen response is preferred, in [0, 1], [P]; 1 is `sppo`.
      beta: Inverse of the paper's eta, > 0.
    Returns:
      Loss per pair, squared nats, [P]; not reduced.
    At policy == reference: no fixed value; 2 ((win_prob - 1/2) / beta)^2.
    Source: Wu et al. 2024, arXiv:2405.00675, Eq. 4.7.
    """
    check_one_each(policy, win_prob=win_prob)
    ratios, target = logratios(policy, ref), (win_prob - 0.5) / beta
    return (ratios.chosen - target).square() + (ratios.rejected + target).square()


@checked
def rebel(policy: PairSums, ref: PairSums, margins: Float[Tensor, " P"], *, beta: Beta = 1.0) -> Float[Tensor, " P"]:
    """Regression of the scaled gap on the difference of two known rewards.

    loss = (beta * delta - margins)^2

    Args:
      ref: The same pairs under the reference, nats, [P]; in the paper's rounds, the last round's policy.
      margins: Reward of the chosen response minus that of the rejected one, [P].
      beta: Inverse of the paper's eta, > 0.
    Returns:
      Loss per pair, squared reward, [P]; not reduced.
    At policy == reference: no fixed value; margins^2.
    Source: Gao et al. 2024, arXiv:2404.16767, Algorithm 1.
    """
    check_one_each(policy, margins=margins)
    return (beta * delta(policy, ref) - margins).square()


@checked
def cal_dpo(policy: PairSums, ref: PairSums, *, beta: Beta = 1e-3) -> Float[Tensor, " P"]:
    """DPO's contrast with a target for each logratio: "calibrated" DPO.

    loss = -log sigmoid(delta) + (chosen_logratio - 1 / (2 beta))^2 + (rejected_logratio + 1 / (2 beta))^2

    There is no beta in the first term, as in the authors' code; that halves the two squares, the paper does not.

    Args:
      beta: Scale of the targets +-1 / (2 beta) of the two logratios, > 0.
    Returns:
      Loss per pair, [P]; not reduced.
    At policy == reference: ln 2 + 1 / (2 beta^2).
    Source: Xiao et al. 2024, arXiv:2412.14516. Checked against the authors' code, github.com/tengxiao1/Cal-DPO,
      which has 1/2 before the squares.
    """
    ratios = logratios(policy, ref)
    contrast = -logsigmoid(ratios.chosen - ratios.rejected)
    return contrast + (ratios.chosen - 0.5 / beta).square() + (ratios.rejected + 0.5 / beta).square()


def _ipo_at_reference(*, beta: float) -> float:
    target = 1 / (2 * beta)
    return target * target


def _sppo_at_reference(*, beta: float) -> float:
    return 2 * _ipo_at_reference(beta=beta)


def _cal_dpo_at_reference(*, beta: float) -> float:
    return LN_2 + _sppo_at_reference(beta=beta)


SPECS = {
    "ipo": LossSpec(ipo, _ipo_at_reference, scaled_logratios, trl=("ipo",)),
    "ipo_sum": LossSpec(ipo_sum, _ipo_at_reference, scaled_logratios),
    "sppo": LossSpec(sppo, _sppo_at_reference, scaled_logratios, trl=("sppo_hard",)),
    "sppo_soft": LossSpec(sppo_soft, None, scaled_logratios),
    "rebel": LossSpec(rebel, None, scaled_logratios),
    "cal_dpo": LossSpec(cal_dpo, _cal_dpo_at_reference, plain_logratios),
}
