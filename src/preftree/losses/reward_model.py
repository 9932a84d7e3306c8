"""Losses of a reward model: those of a policy with rewards instead of beta * logratio.

DPO's loss is the likelihood of a preference model whose reward is beta * logratio (Rafailov et al. 2023,
arXiv:2305.18290, Section 4), so each loss here is one of a policy with beta 1 and a reference of 0. All depend only on
differences of rewards: without `centring`, a constant for each prompt has no effect.

`centring` (Eisenstein et al. 2023, arXiv:2312.09244) adds centring * (chosen_reward + rejected_reward)^2, which brings
the rewards of different prompts to one scale around 0.

Args, where a function does not say otherwise:
  rewards: Rewards of each pair, [P]; carries gradient.
  ties: Whether neither response of the pair is preferred, [P].
Returns:
  Loss per pair, nats, [P]; not reduced.
Raises:
  ValueError: counts differ, or an option is out of its range.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftree.losses import lists
from preftree.losses.options import AtLeastOne, NotNegative, checked
from preftree.losses.pair import logistic
from preftree.losses.pair import ties as tie_losses
from preftree.losses.quantities import check_one_each
from preftree.losses.types import BoundLoss, ListSums, LossSpec, PairSums, PairValues


@checked
def bradley_terry(rewards: PairSums, *, centring: NotNegative = 0.0) -> Float[Tensor, " P"]:
    """Negative log-likelihood of a choice between two responses.

    loss = -log sigmoid(chosen_reward - rejected_reward) + centring * (chosen_reward + rejected_reward)^2

    Args:
      centring: Weight of the squared sum of the two rewards, >= 0; the paper uses 0.01.
    At equal rewards: ln 2, where they are 0 or centring is.
    Source: Bradley and Terry 1952, Biometrika 39, p. 324; Rafailov et al. 2023, arXiv:2305.18290, Eq. 2.
    """
    return logistic.dpo(rewards, _nothing(rewards), beta=1.0) + centring * (rewards.chosen + rewards.rejected).square()


@checked
def bradley_terry_margin(
    rewards: PairSums, margins: Float[Tensor, " P"], *, margin_weight: NotNegative = 1.0, centring: NotNegative = 0.0
) -> Float[Tensor, " P"]:
    """Bradley-Terry with a margin from the data.

    loss = -log sigmoid(chosen_reward - rejected_reward - margin_weight * margin)
           + centring * (chosen_reward + rejected_reward)^2

    Args:
      margins: Margin of the chosen response by a score in the data, [P].
      margin_weight: Reward per unit of the data's margin, >= 0; 0 is `bradley_terry`.
      centring: Weight of the squared sum of the two rewards, >= 0.
    At equal rewards: softplus(margin_weight * margin), where they are 0 or centring is.
    Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Eq. 2.
    """
    check_one_each(rewards, margins=margins)
    values = bradley_terry(rewards._replace(chosen=rewards.chosen - margin_weight * margins))
    return values + centring * (rewards.chosen + rewards.rejected).square()


@checked
def rao_kupper(rewards: PairSums, ties: Bool[Tensor, " P"], *, nu: AtLeastOne = 3.0) -> Float[Tensor, " P"]:
    """Likelihood of win or tie with a threshold ln nu below which differences of rewards are unnoticed.

    loss = as the policy's rao_kupper, with d = chosen_reward - rejected_reward

    Args:
      nu: e to the smallest difference of reward that is noticed, >= 1.
    Raises:
      ValueError: a tie with nu = 1.
    At equal rewards: ln(1 + nu) for a win, ln((1 + nu) / (nu - 1)) for a tie.
    Source: Rao and Kupper 1967, JASA 62, p. 194.
    """
    return tie_losses.rao_kupper(rewards, _nothing(rewards), ties, beta=1.0, nu=nu)


@checked
def davidson(rewards: PairSums, ties: Bool[Tensor, " P"], *, nu: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Likelihood of win or tie with a weight for ties.

    loss = as the policy's davidson, with d = chosen_reward - rejected_reward

    Args:
      nu: Weight of a tie, >= 0; at equal rewards nu / (1 + nu) of the pairs tie.
    Raises:
      ValueError: a tie with nu = 0.
    At equal rewards: ln(2 + 2 nu) for a win, ln((1 + nu) / nu) for a tie.
    Source: Davidson 1970, JASA 65, p. 317.
    """
    return tie_losses.davidson(rewards, _nothing(rewards), ties, beta=1.0, nu=nu)


@checked
def plackett_luce(list_rewards: ListSums) -> Float[Tensor, " L"]:
    """Negative log-likelihood of a ranking: of choosing the best response, then the best of the others, and so on.

    loss = sum over k of log(sum over j >= k of e^(reward_j)) - reward_k

    A list of two is a pair of `bradley_terry`.

    Args:
      list_rewards: Rewards, list after list, best first, [R]; carries gradient.
    Returns:
      Loss per list, nats, [L]; not reduced.
    At equal rewards: ln K! for a list of K.
    Source: Plackett 1975, Applied Statistics 24, p. 193; Rafailov et al. 2023, arXiv:2305.18290, Eq. 18.
    """
    nothing = list_rewards._replace(values=torch.zeros_like(list_rewards.values))
    return lists.plackett_luce(list_rewards, nothing, beta=1.0)


def rewards_of_pairs(rewards: PairSums, **_: Any) -> PairValues:
    """The rewards of both sides, detached, [P]."""
    return PairValues(rewards.chosen.detach(), rewards.rejected.detach())


def rewards_of_lists(list_rewards: ListSums, **_: Any) -> Float[Tensor, " R"]:
    """The rewards of the responses of lists, detached, [R]."""
    return list_rewards.values.detach()


SPECS = {
    "bradley_terry": LossSpec(bradley_terry, None, rewards_of_pairs),
    "bradley_terry_margin": LossSpec(bradley_terry_margin, None, rewards_of_pairs),
    "rao_kupper": LossSpec(rao_kupper, None, rewards_of_pairs),
    "davidson": LossSpec(davidson, None, rewards_of_pairs),
    "plackett_luce": LossSpec(plackett_luce, None, rewards_of_lists),
}


def win_chance(loss: BoundLoss, margin: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """Probability that the chosen response wins, given that one of the two does, under the loss's model, [P].

    sigmoid(margin), except for Rao-Kupper, where the threshold makes it larger.

    Args:
      loss: A loss of pairs.
      margin: Chosen minus rejected reward, [P].
    """
    if loss.name != "rao_kupper":
        return margin.sigmoid()
    nu = float(loss.options["nu"])
    win, lost = 1 / (1 + nu * (-margin).exp()), 1 / (1 + nu * margin.exp())
    return win / (win + lost)


def _nothing(rewards: PairSums) -> PairSums:
    zero = torch.zeros_like(rewards.chosen)
    return rewards._replace(chosen=zero, rejected=zero)
