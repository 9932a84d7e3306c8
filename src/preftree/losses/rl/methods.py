"""Methods of policy gradients: what a ratio is of, how the tokens are averaged, where the KL penalty enters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from preftree.losses.quantities import sum_responses
from preftree.losses.rl.advantages import centred, group_normalised, leave_one_out

Advantage = Callable[[Float[Tensor, "X K"]], Float[Tensor, "X K"]]


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """A row of METHODS.

    Attributes:
      ratio: A ratio's action: a `token`, a whole `response`, or the geometric `mean` over a response's tokens.
      average: Weight of a token: that of all `tokens` of an update; that of its `response`, whose tokens add up; the
        mean of its response (`each`); or the response's by the `limit` of its length, whatever its length is.
      kl_in: Whether the KL penalty is a part of the `reward`, or of the `loss`.
      advantage: Advantages of responses from their rewards, [X, K]; None where a critic estimates them.
      weighs: Whether the clipped ratio is a weight without gradient, as in CISPO.
    """

    ratio: Literal["token", "response", "mean"]
    average: Literal["tokens", "response", "each", "limit"]
    kl_in: Literal["reward", "loss"]
    advantage: Advantage | None = None
    weighs: bool = False


METHODS: dict[str, PolicyGradient] = {
    "ppo": PolicyGradient("token", "tokens", "reward"),
    "rloo": PolicyGradient("response", "response", "reward", leave_one_out),
    "grpo": PolicyGradient("token", "each", "loss", group_normalised),
    "dr_grpo": PolicyGradient("token", "limit", "loss", centred),
    "dapo": PolicyGradient("token", "tokens", "loss", group_normalised),
    "gspo": PolicyGradient("mean", "each", "loss", group_normalised),
    "cispo": PolicyGradient("token", "tokens", "loss", group_normalised, weighs=True),
}
"""Sources: PPO arXiv:1707.06347; RLOO 2402.14740; GRPO 2402.03300, Eq. 3; Dr. GRPO 2503.20783; DAPO 2503.14476, Eq. 8,
without its dynamic sampling; GSPO 2507.18071, Eq. 5 to 7; CISPO 2506.13585 (MiniMax-M1), Eq. 4 and 5."""


def actions(logps: Float[Tensor, " I"], count_R: Int[Tensor, " R"], method: PolicyGradient) -> Float[Tensor, " N"]:
    """Log-probs of the actions of some responses from those of their tokens, [I] or [R]."""
    if method.ratio == "token":
        return logps
    sums = sum_responses(logps, count_R).values
    return sums if method.ratio == "response" else sums / count_R


def token_weights(
    count_R: Int[Tensor, " R"], method: PolicyGradient, *, num_tokens: int, num_responses: int, limit: int
) -> Float[Tensor, " I"]:
    """Weight of each token of some responses of an update, whose sum over the update is a mean, [I].

    Args:
      count_R: Tokens of each of these responses, [R].
      method: The method.
      num_tokens: Tokens of the update.
      num_responses: Responses of the update.
      limit: Most tokens of a response.
    """
    one = count_R.double() / count_R  # float64, on their device
    of_response = {
        "tokens": one / num_tokens,
        "response": one / num_responses,
        "each": one / num_responses / count_R,
        "limit": one / num_responses / limit,
    }[method.average]
    return of_response.repeat_interleave(count_R)
