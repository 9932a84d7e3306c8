"""Losses of a reward model: those of a policy with rewards in the place of beta * logratio.

DPO's loss is the likelihood of a preference model whose reward is beta * logratio (Rafailov et al. 2023,
arXiv:2305.18290, Section 4). So each of these is a loss of the family at beta 1 and a reference of 0, and what stands
in a `logps` is a reward. All depend on differences of rewards alone: a constant for each prompt changes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftree.losses import lists, rewards
from preftree.losses.options import AtLeastOne, NotNegative, check_options, checked
from preftree.losses.pair import logistic
from preftree.losses.pair import ties as _ties
from preftree.losses.quantities import check_one_each
from preftree.losses.spec import BoundLoss, LossSpec, options_of
from preftree.losses.types import ListLogps, PairLogps


@checked
def bradley_terry(policy: PairLogps) -> Float[Tensor, " P"]:
    """Negative log-likelihood of a choice between two rewards.

    loss = -log sigmoid(chosen_reward - rejected_reward)

    Args:
      policy: Rewards of each pair, [P]; carries gradient.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    At equal rewards: ln 2.
    Source: Bradley and Terry 1952, Biometrika 39, p. 324; Rafailov et al. 2023, arXiv:2305.18290, Eq. 2.
    """
    return logistic.dpo(policy, _nothing(policy), beta=1.0)


@checked
def bradley_terry_margin(
    policy: PairLogps, margins: Float[Tensor, " P"], *, margin_weight: NotNegative = 1.0
) -> Float[Tensor, " P"]:
    """Bradley-Terry with the rewards held apart by at least as much as the data says.

    loss = -log sigmoid(chosen_reward - rejected_reward - margin_weight * margin)

    Args:
      policy: Rewards of each pair, [P]; carries gradient.
      margins: By how much the chosen response is better, [P].
      margin_weight: Reward that one unit of the data's margin is worth, >= 0; 0 is `bradley_terry`.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: margin counts differ, or margin_weight < 0.
    At equal rewards: softplus(margin_weight * margin).
    Source: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, Eq. 2.
    """
    check_one_each(policy, margins=margins)
    return bradley_terry(policy._replace(chosen=policy.chosen - margin_weight * margins))


@checked
def rao_kupper(policy: PairLogps, ties: Bool[Tensor, " P"], *, nu: AtLeastOne = 3.0) -> Float[Tensor, " P"]:
    """Likelihood of win or tie where a difference of rewards below ln nu goes unnoticed.

    loss = as losses.ties.rao_kupper, with d = chosen_reward - rejected_reward

    Args:
      policy: Rewards of each pair, [P]; carries gradient.
      ties: Whether neither response of the pair is preferred, [P].
      nu: e to the smallest difference of reward that is noticed, >= 1.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, nu < 1, or a tie with nu = 1.
    At equal rewards: ln(1 + nu) for a win, ln((1 + nu) / (nu - 1)) for a tie.
    Source: Rao and Kupper 1967, JASA 62, p. 194.
    """
    return _ties.rao_kupper(policy, _nothing(policy), ties, beta=1.0, nu=nu)


@checked
def davidson(policy: PairLogps, ties: Bool[Tensor, " P"], *, nu: NotNegative = 1.0) -> Float[Tensor, " P"]:
    """Likelihood of win or tie where a tie has a weight of its own.

    loss = as losses.ties.davidson, with d = chosen_reward - rejected_reward

    Args:
      policy: Rewards of each pair, [P]; carries gradient.
      ties: Whether neither response of the pair is preferred, [P].
      nu: Weight of a tie, >= 0; between equals nu / (1 + nu) of the pairs tie.
    Returns:
      Loss per pair, nats, [P]; not reduced.
    Raises:
      ValueError: pair counts differ, nu < 0, or a tie with nu = 0.
    At equal rewards: ln(2 + 2 nu) for a win, ln((1 + nu) / nu) for a tie.
    Source: Davidson 1970, JASA 65, p. 317.
    """
    return _ties.davidson(policy, _nothing(policy), ties, beta=1.0, nu=nu)


@checked
def plackett_luce(policy_lists: ListLogps) -> Float[Tensor, " L"]:
    """Negative log-likelihood of a ranking: the best response of all, then the best of the rest, and so on.

    loss = sum over k of log(sum over j >= k of e^(reward_j)) - reward_k

    A list of two is a pair of `bradley_terry`.

    Args:
      policy_lists: Rewards, list after list, best first, [R]; carries gradient.
    Returns:
      Loss per list, nats, [L]; not reduced.
    At equal rewards: ln K! for a list of K.
    Source: Plackett 1975, Applied Statistics 24, p. 193; Rafailov et al. 2023, arXiv:2305.18290, Eq. 18.
    """
    nothing = policy_lists._replace(logps=torch.zeros_like(policy_lists.logps))
    return lists.plackett_luce(policy_lists, nothing, beta=1.0)


def list_rewards(policy_lists: ListLogps, **_: Any) -> Float[Tensor, " R"]:
    """The rewards of the responses of lists, detached, [R]."""
    return policy_lists.logps.detach()


REWARD_LOSSES: dict[str, LossSpec] = {
    "bradley_terry": LossSpec(bradley_terry, "example", None, rewards.logps),
    "bradley_terry_margin": LossSpec(bradley_terry_margin, "example", None, rewards.logps),
    "rao_kupper": LossSpec(rao_kupper, "example", None, rewards.logps),
    "davidson": LossSpec(davidson, "example", None, rewards.logps),
    "plackett_luce": LossSpec(plackett_luce, "example", None, list_rewards),
}
"""Losses of a reward model by name."""


def bind_reward_loss(name: str, options: Mapping[str, object]) -> BoundLoss:
    """A loss of a reward model by name, with its options checked against its signature.

    Raises:
      ValueError: unknown loss; an option that the loss does not take, or that is not allowed.
    """
    if name not in REWARD_LOSSES:
        close = difflib.get_close_matches(name, REWARD_LOSSES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"the loss of a reward model must be one of {', '.join(REWARD_LOSSES)}, got {name!r}{hint}")
    spec = REWARD_LOSSES[name]
    known = options_of(spec)
    for option in options:
        if option not in known:
            own = ", ".join(f"{key} ({value.allowed})" for key, value in known.items()) or "none"
            raise ValueError(f"loss {name!r} does not take {option!r}, its options are: {own}")
    return BoundLoss(name, spec, check_options(known, options))


def win_chance(loss: BoundLoss, margin: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """Probability that the chosen response wins, given that one of the two does, under the loss's own model, [P].

    sigmoid(margin) but for Rao-Kupper, whose threshold makes a win surer than that.

    Args:
      loss: A loss of pairs.
      margin: Chosen minus rejected reward, [P].
    """
    if loss.name != "rao_kupper":
        return margin.sigmoid()
    nu = float(loss.options["nu"])
    win, lost = 1 / (1 + nu * (-margin).exp()), 1 / (1 + nu * margin.exp())
    return win / (win + lost)


def _nothing(policy: PairLogps) -> PairLogps:
    zero = torch.zeros_like(policy.chosen)
    return policy._replace(chosen=zero, rejected=zero)
