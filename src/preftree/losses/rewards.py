"""The rewards that losses imply, detached: what accuracy and margin are counted with.

Each is called with the inputs and options of a loss by name, and takes what it needs. Where a loss is derived from a
reward per response, that reward is meant; see docs/losses.md for those that have none of their own.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from preftree.losses.lists import list_logratios
from preftree.losses.numerics import tangent_exp
from preftree.losses.pair.divergence import divergence_slope
from preftree.losses.pair.token import desensitised_logratios
from preftree.losses.pair.unreferenced import bent, log_odds, mean_logps
from preftree.losses.quantities import logratios, per_token
from preftree.losses.types import ListLogps, PairLogps, PairTokens, PairValues, ResponseLogps


def scaled_logratios(policy: PairLogps, ref: PairLogps, *, beta: float, **_: Any) -> PairValues:
    """beta * logratio: DPO's reward, in summed nats."""
    return _scaled(logratios(policy, ref), beta)


def plain_logratios(policy: PairLogps, ref: PairLogps, **_: Any) -> PairValues:
    """The logratio: of a loss whose contrast has no beta."""
    return _scaled(logratios(policy, ref), 1.0)


def mean_logratios(policy: PairLogps, ref: PairLogps, *, beta: float, **_: Any) -> PairValues:
    """beta * logratio per token."""
    return _scaled(per_token(logratios(policy, ref), policy), beta)


def divergence_rewards(
    policy: PairLogps,
    ref: PairLogps,
    *,
    beta: float,
    divergence: str = "js_divergence",
    alpha: float = 0.5,
    **_: Any,
) -> PairValues:
    """beta * g(logratio) of `f_dpo`."""
    ratios = logratios(policy, ref)
    return _scaled(PairValues(*(divergence_slope(side, divergence, alpha) for side in ratios)), beta)


def mixed_rewards(policy: PairLogps, ref: PairLogps, *, beta: float, **_: Any) -> PairValues:
    """beta * (e^logratio + logratio) of `chi_po`, before it is clipped."""
    return _scaled(PairValues(*(tangent_exp(side) + side for side in logratios(policy, ref))), beta)


def desensitised_rewards(
    policy_tokens: PairTokens, ref_tokens: PairTokens, *, beta: float, alpha: float, **_: Any
) -> PairValues:
    """beta * the logratio of `ld_dpo`, the longer response's rest counting alpha."""
    return _scaled(desensitised_logratios(policy_tokens, ref_tokens, alpha=alpha), beta)


def offset_rewards(policy: PairLogps, ref: PairLogps, *, beta: float, alpha: float, **_: Any) -> PairValues:
    """beta * logratio + alpha * tokens: the reward that explains the labels of `r_dpo`, length and all."""
    ratios = _scaled(logratios(policy, ref), beta)
    lengths = (count.to(policy.chosen.dtype) for count in (policy.chosen_tokens, policy.rejected_tokens))
    return PairValues(*(ratio + alpha * length for ratio, length in zip(ratios, lengths, strict=True)))


def logps(policy: PairLogps, *, beta: float = 1.0, **_: Any) -> PairValues:
    """beta * policy logps: of a loss without a reference; beta is 1 for one that has none."""
    return _scaled(PairValues(policy.chosen, policy.rejected), beta)


def scaled_mean_logps(policy: PairLogps, *, beta: float, **_: Any) -> PairValues:
    """beta * policy logps per token: SimPO's reward."""
    return _scaled(mean_logps(policy), beta)


def bent_mean_logps(policy: PairLogps, *, beta: float, alpha: float, **_: Any) -> PairValues:
    """beta * AlphaPO's reward."""
    return _scaled(PairValues(*(bent(side, alpha) for side in mean_logps(policy))), beta)


def odds_rewards(policy: PairLogps, **_: Any) -> PairValues:
    """log(p / (1 - p)) of the mean token probability: what ORPO contrasts."""
    return _scaled(PairValues(*map(log_odds, mean_logps(policy))), 1.0)


def of_responses(
    responses: ResponseLogps, ref_responses: ResponseLogps, *, beta: float, **_: Any
) -> Float[Tensor, " N"]:
    """beta * logratio of single responses, [N]."""
    return beta * (responses.logps - ref_responses.logps).detach()


def of_lists(policy_lists: ListLogps, ref_lists: ListLogps, *, beta: float, **_: Any) -> Float[Tensor, " R"]:
    """beta * logratio of the responses of lists, [R]."""
    return beta * list_logratios(policy_lists, ref_lists).detach()


def of_lists_alone(policy_lists: ListLogps, **_: Any) -> Float[Tensor, " R"]:
    """Policy logps per token of the responses of lists, [R]."""
    return (policy_lists.logps / policy_lists.num_tokens).detach()


def _scaled(values: PairValues, beta: float) -> PairValues:
    return PairValues(beta * values.chosen.detach(), beta * values.rejected.detach())
