"""A bandit: a few responses, known rewards, every expectation a finite sum. Does a loss reach its closed-form optimum?

Labels are Bradley-Terry: P(i beats j) = sigmoid(label_scale x (r_i - r_j)). Pairs of different responses come up in
proportion to reference_i x reference_j, and each counts with its label's probability, so nothing is sampled. The policy
is a softmax over one logit a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, logit, softmax
from torch import Tensor

from preftree.losses.inputs import PairLogps
from preftree.losses.table import BoundLoss, bind


@dataclass(frozen=True, slots=True)
class Bandit:
    """Responses to one prompt.

    Attributes:
      reference: Probability of each response under the reference; they sum to 1.
      rewards: Reward of each.
      label_scale: Sharpness of the labels.
    """

    reference: tuple[float, ...]
    rewards: tuple[float, ...]
    label_scale: float = 1.0

    def chances(self) -> Float[np.ndarray, "K K"]:
        """P(i beats j); 1/2 on the diagonal."""
        r = np.array(self.rewards)
        return expit(self.label_scale * (r[:, None] - r[None, :]))


SIX_ARMS = Bandit((0.3, 0.25, 0.2, 0.15, 0.07, 0.03), (0.0, 1.0, 2.0, -1.0, 3.0, 0.5))


def expected_loss(loss: BoundLoss, logits: Float[Tensor, " K"], bandit: Bandit) -> Float[Tensor, ""]:
    """The loss's exact expectation over pairs and labels, for the policy softmax(logits); differentiable."""
    reference = torch.tensor(bandit.reference, dtype=logits.dtype)
    winner, loser = (torch.from_numpy(side) for side in np.nonzero(~np.eye(len(reference), dtype=bool)))
    weight = reference[winner] * reference[loser] * torch.from_numpy(bandit.chances())[winner, loser]

    def pairs(logps: Tensor) -> PairLogps:
        one = torch.ones(len(winner), dtype=torch.int64)
        return PairLogps(logps[winner], logps[loser], one, one)

    values = loss(pairs(logits.log_softmax(0)), pairs(reference.log()))
    return (weight * values).sum() / weight.sum()


def optimise(name: str, options: Mapping[str, float], bandit: Bandit) -> Float[np.ndarray, " K"]:
    """The policy at which a loss's expectation is least, found from the reference by L-BFGS in float64.

    Args:
      name: A loss of the table that takes a policy and a reference.
      options: Its options.
      bandit: What it is tried on.
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
        value = expected_loss(loss, logits, bandit)
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


def cdpo_optimum(bandit: Bandit, *, beta: float, label_smoothing: float) -> Float[np.ndarray, " K"]:
    """The optimum for two responses; smoothed labels of more are not Bradley-Terry, and have no such form.

    beta x (log pi_1/pi_2 - log ref_1/ref_2) = logit of the label's smoothed probability.

    Raises:
      ValueError: not two responses.
    """
    if len(bandit.rewards) != 2:
        raise ValueError(f"cdpo has a closed form for 2 responses, got {len(bandit.rewards)}")
    p = bandit.chances()[0, 1]
    smoothed = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    return softmax(np.log(bandit.reference) + np.array([logit(smoothed) / beta, 0.0]))


def ipo_optimum(bandit: Bandit, *, beta: float) -> Float[np.ndarray, " K"]:
    """reference x exp((E_j P(i beats j) - 1/2) / beta) / Z with j drawn from the reference, i itself included.

    Source: Azar et al. 2023, arXiv:2310.12036, Eq. 7 with Psi the identity; beta is their tau.
    """
    return softmax(np.log(bandit.reference) + (bandit.chances() @ np.array(bandit.reference) - 0.5) / beta)


def total_variation(p: Float[np.ndarray, " K"], q: Float[np.ndarray, " K"]) -> float:
    """Half the summed absolute difference of two distributions, in [0, 1]."""
    return float(np.abs(p - q).sum() / 2)


def check_bandit(betas: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)) -> dict[str, dict[str, float]]:
    """How far from its closed form each loss ends on the six-armed bandit: {loss: {beta: total variation}}."""
    forms = {"dpo": dpo_optimum, "ipo_sum": ipo_optimum}
    return {
        name: {
            f"{beta:g}": total_variation(optimise(name, {"beta": beta}, SIX_ARMS), form(SIX_ARMS, beta=beta))
            for beta in betas
        }
        for name, form in forms.items()
    }
