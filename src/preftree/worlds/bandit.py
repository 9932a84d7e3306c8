"""A bandit: a few responses, known rewards, every expectation a finite sum. Does a loss reach its closed-form optimum?

Labels are Bradley-Terry: P(i beats j) = sigmoid(label_scale x (r_i - r_j)). Pairs of different responses come up in
proportion to reference_i x reference_j, and each counts with its label's probability, so nothing is sampled. The policy
is a softmax over one logit a response.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, softmax
from torch import Tensor

from preftree.losses.registry import BoundLoss, bind
from preftree.losses.types import ListSums, PairSums, PairValues
from preftree.worlds.ties import win_chances


@dataclass(frozen=True, slots=True)
class Bandit:
    """Responses to one prompt.

    Attributes:
      reference: Probability of each response under the reference; they sum to 1.
      rewards: Reward of each response.
      label_scale: Sharpness of the labels.
      flip_rate: Probability that a label is flipped, in [0, 0.5).
      known: A second score of each, not labelled: a reward for `modpo`, a cost for `constrained_dpo`.
    """

    reference: tuple[float, ...]
    rewards: tuple[float, ...]
    label_scale: float = 1.0
    flip_rate: float = 0.0
    known: tuple[float, ...] = ()

    def chances(self) -> Float[np.ndarray, "K K"]:
        """P(i beats j); 1/2 on the diagonal."""
        p = expit(self.gaps())
        return p * (1 - self.flip_rate) + (1 - p) * self.flip_rate

    def gaps(self) -> Float[np.ndarray, "K K"]:
        """label_scale x (r_i - r_j)."""
        r = self.label_scale * np.array(self.rewards)
        return r[:, None] - r[None, :]


SIX_ARMS = Bandit((0.3, 0.25, 0.2, 0.15, 0.07, 0.03), (0.0, 1.0, 2.0, -1.0, 3.0, 0.5))


def expected_loss(
    loss: BoundLoss, logits: Float[Tensor, " K"], bandit: Bandit, *, multiplier: float = 0.0
) -> Float[Tensor, ""]:
    """The loss's exact expectation over examples and labels, for the policy softmax(logits); differentiable.

    Pairs have Bradley-Terry labels, or their probabilities where the loss takes these; a loss with a tie model has its
    labels, whose nu is that of its options; a loss of lists has every list of three different responses, ranked by
    Plackett-Luce.

    Args:
      loss: A bound loss of pairs or lists, with a reference.
      logits: Logits of the policy.
      bandit: The bandit; its labels are not flipped where there are ties or lists.
      multiplier: The state of `constrained_dpo`.
    """
    policy, ref = logits.log_softmax(0), torch.tensor(bandit.reference, dtype=logits.dtype).log()
    if "policy_lists" in loss.inputs:
        values, weight = _ranked(loss, policy, ref, bandit)
    else:
        values, weight = _paired(loss, policy, ref, bandit, multiplier)
    return (weight * values).sum() / weight.sum()


def _paired(loss: BoundLoss, policy: Tensor, ref: Tensor, bandit: Bandit, multiplier: float) -> tuple[Tensor, Tensor]:
    winner, loser = np.nonzero(~np.eye(len(ref), dtype=bool))
    chances, ties = bandit.chances()[winner, loser], np.zeros(len(winner), dtype=bool)
    if "nu" in loss.options:
        ties, nu = ("davidson", 2.0) if loss.name == "davidson" else ("rao_kupper", 1.0)
        gaps, parameter = bandit.gaps()[winner, loser], nu * float(loss.options["nu"])
        win = win_chances(ties, gaps, parameter)
        tie = 1 - win - win_chances(ties, -gaps, parameter)
        # i over j in both orders, and each tie as half of one order and half of the other.
        chances, ties = np.concatenate([win, tie / 2]), np.repeat([False, True], len(winner))
        winner, loser = np.tile(winner, 2), np.tile(loser, 2)
    high, low = torch.from_numpy(winner), torch.from_numpy(loser)
    ones = torch.ones(len(winner), dtype=torch.int64)
    known = torch.tensor(bandit.known or [0.0] * len(ref), dtype=policy.dtype)
    given = {
        "policy": PairSums(policy[high], policy[low], ones, ones),
        "ref": PairSums(ref[high], ref[low], ones, ones),
        "ties": torch.from_numpy(ties),
        "other_margins": known[high] - known[low],
        "costs": PairValues(known[high], known[low]),
        "state": {"multiplier": multiplier},
    }
    weight = (ref[high] + ref[low]).exp()
    if "win_prob" in loss.inputs:
        given["win_prob"] = torch.from_numpy(chances)
    else:
        weight = weight * torch.from_numpy(chances)
    return loss(**{name: given[name] for name in loss.inputs}), weight


def _ranked(loss: BoundLoss, policy: Tensor, ref: Tensor, bandit: Bandit) -> tuple[Tensor, Tensor]:
    rankings = np.array(list(itertools.permutations(range(len(ref)), 3)))
    strength = np.exp(bandit.label_scale * np.array(bandit.rewards))[rankings]
    chances = strength[:, 0] / strength.sum(1) * strength[:, 1] / strength[:, 1:].sum(1)
    drawn = np.array(bandit.reference)[rankings].prod(1)
    flat = torch.from_numpy(rankings.reshape(-1))
    counts = torch.ones(len(flat), dtype=torch.int64), torch.full((len(rankings),), 3)
    values = loss(policy_lists=ListSums(policy[flat], *counts), ref_lists=ListSums(ref[flat], *counts))
    return values, torch.from_numpy(drawn * chances)


def optimise(
    name: str, options: Mapping[str, float | str], bandit: Bandit, *, multiplier: float = 0.0
) -> Float[np.ndarray, " K"]:
    """The policy at which a loss's expectation is least, found from the reference by L-BFGS in float64.

    Args:
      name: A loss of the table that takes a policy and a reference.
      options: Its options.
      bandit: The bandit.
      multiplier: The state of `constrained_dpo`.
    Raises:
      ValueError: unknown loss or options; or the gradient has not vanished after 2000 iterations.
    """
    loss = bind(name, options)
    logits = torch.tensor(bandit.reference, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-11, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = expected_loss(loss, logits, bandit, multiplier=multiplier)
        value.backward()
        return value.item()

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  # the stubs want a closure without a gradient
    closure()
    assert logits.grad is not None
    if not logits.grad.abs().max() < 1e-8:
        raise ValueError(
            f"{name} {dict(options)} found no minimum: the gradient is still {logits.grad.abs().max():.1e}"
        )
    return logits.detach().softmax(0).numpy()


def dpo_optimum(bandit: Bandit, *, beta: float) -> Float[np.ndarray, " K"]:
    """reference x exp(label_scale x reward / beta) / Z. Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 4."""
    return softmax(np.log(bandit.reference) + bandit.label_scale * np.array(bandit.rewards) / beta)


def ipo_optimum(bandit: Bandit, *, beta: float) -> Float[np.ndarray, " K"]:
    """reference x exp((E_j P(i beats j) - 1/2) / beta) / Z with j drawn from the reference, i itself included.

    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 7 with Psi the identity; beta is their tau.
    """
    return softmax(np.log(bandit.reference) + (bandit.chances() @ np.array(bandit.reference) - 0.5) / beta)


def total_variation(p: Float[np.ndarray, " K"], q: Float[np.ndarray, " K"]) -> float:
    """Half the summed absolute difference of two distributions, in [0, 1]."""
    return float(np.abs(p - q).sum() / 2)


def check_bandit(betas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)) -> dict[str, dict[str, float]]:
    """Distance of each loss's minimum from its closed form on the six-armed bandit: {loss: {beta: total variation}}.

    `robust` is given labels of which the share that it expects is flipped; the others see clean ones.
    """
    distances: dict[str, dict[str, float]] = {}
    for name in ("dpo", "robust", "ipo_sum", "plackett_luce", "rao_kupper", "davidson"):
        bandit = replace(SIX_ARMS, flip_rate=0.1) if name == "robust" else SIX_ARMS
        form = ipo_optimum if name == "ipo_sum" else dpo_optimum
        distances[name] = {
            f"{beta:g}": total_variation(optimise(name, {"beta": beta}, bandit), form(bandit, beta=beta))
            for beta in betas
        }
    return distances
