"""What to watch while a loss is trained: one value per example, never a mean. Means are made in mean.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from preftree.losses.quantities import logratios
from preftree.losses.ragged import filled, spread
from preftree.losses.spec import BoundLoss, LossSpec, needs_reference, unit_of
from preftree.losses.types import ListLogps, PairTokens

_OF_ANY_PAIR = (
    *("loss", "accuracy", "margin", "chosen_rewards", "rejected_rewards", "chosen_logps", "rejected_logps"),
    *("grad_weight", "chosen_tokens", "rejected_tokens"),
)
_RATIOS = ("chosen_logratio", "rejected_logratio")
_OF_RESPONSES = ("loss", "rewards", "logps", "logratio")


def columns_of(spec: LossSpec) -> tuple[str, ...]:
    """Names of the columns that the metrics of a loss have, in order.

    Raises:
      ValueError: the loss is of demonstrations, which have a loss alone.
    """
    unit = unit_of(spec)
    if unit == "pair":
        return (*_OF_ANY_PAIR[:7], *(_RATIOS if needs_reference(spec) else ()), *_OF_ANY_PAIR[7:])
    if unit == "response":
        return (*_OF_RESPONSES, "desirable", *(f"desirable_{name}" for name in _OF_RESPONSES), "tokens")
    if unit == "list":
        ratios = ("best_logratio", "worst_logratio") if needs_reference(spec) else ()
        return ("loss", "accuracy", "pair_accuracy", "margin", "best_logps", "worst_logps", *ratios, "tokens")
    raise ValueError("metrics are of pairs, responses and lists, got a loss of demonstrations")


def pair_metrics(loss: BoundLoss, given: Mapping[str, Any]) -> dict[str, Shaped[Tensor, " P"]]:
    """The loss and its companions for each pair, detached.

    loss              the loss itself
    accuracy          1 where the chosen response has the larger implicit reward, 0.5 where both are equal, else 0;
                      0.5 for a tie in the data
    margin            chosen minus rejected implicit reward
    chosen_rewards, rejected_rewards      implicit rewards of this loss; beta * logratio for DPO
    chosen_logps, rejected_logps          policy logps, nats
    chosen_logratio, rejected_logratio    policy minus reference logps, nats; only where the loss has a reference
    grad_weight       |d loss / d chosen_logps| / beta (1 without a beta), by autograd on the loss itself;
                      sigmoid(-margin) for DPO; a loss of tokens: the mean over the chosen response's tokens
    chosen_tokens, rejected_tokens        scored tokens

    The sides are reported apart because a margin can grow while both responses become less likely.

    Args:
      loss: A bound pair loss; it is evaluated here once more, on detached values.
      given: The loss's inputs by name, and `policy` (with `ref`, where there is one) even if it asks for tokens alone.
    Returns:
      Name -> values, [P]; token counts are integers.
    Raises:
      ValueError: pair counts differ, or the loss implies no reward for pairs.
    """
    reward = loss.spec.implicit_reward
    if reward is None or unit_of(loss.spec) != "pair":
        raise ValueError(f"pair metrics need a loss of pairs with an implicit reward, got {loss.name!r}")

    # Copies made outside inference mode may require grad even where the caller's tensors may not.
    with torch.inference_mode(False), torch.enable_grad():
        policy = _copy(given["policy"])
        inputs = {name: policy if name == "policy" else _copy(given[name]) for name in loss.inputs}
        tokens: PairTokens | None = inputs.get("policy_tokens")
        chosen = (policy.chosen if tokens is None else tokens.chosen.logps).requires_grad_()
        values = loss(**inputs)
        (slope,) = torch.autograd.grad(values.sum(), chosen)
        if tokens is not None:
            sums = torch.segment_reduce(slope, "sum", lengths=tokens.chosen.num_tokens, unsafe=True, initial=0.0)
            slope = sums / tokens.chosen.num_tokens
        chosen.requires_grad_(False)

    rewards = reward(**inputs, **loss.options)
    margin = rewards.chosen - rewards.rejected
    won = (1 + margin.sign()) / 2
    if "ties" in inputs:
        won = won.masked_fill(inputs["ties"], 0.5)  # which response of a tie comes first means nothing
    found = {
        "loss": values.detach(),
        "accuracy": torch.where(margin.isnan(), margin, won),  # the sign of nan is 0: it would pass for a tie
        "margin": margin,
        "chosen_rewards": rewards.chosen,
        "rejected_rewards": rewards.rejected,
        "chosen_logps": policy.chosen,
        "rejected_logps": policy.rejected,
        "grad_weight": slope.abs() / float(loss.options.get("beta", 1.0)),
        "chosen_tokens": policy.chosen_tokens,
        "rejected_tokens": policy.rejected_tokens,
    }
    if needs_reference(loss.spec):
        ratios = logratios(policy, _copy(given["ref"]))
        found |= {"chosen_logratio": ratios.chosen, "rejected_logratio": ratios.rejected}
    return {name: found[name] for name in columns_of(loss.spec)}


def response_metrics(loss: BoundLoss, given: Mapping[str, Any]) -> dict[str, Shaped[Tensor, " N"]]:
    """The loss and its companions for each single response, detached; `by_label` makes figures of their means.

    loss, rewards, logps, logratio    the loss, the implicit reward, policy logps, policy minus reference logps
    desirable                         1 where the response was liked, else 0
    desirable_loss, ...               the same where it was liked, 0 elsewhere
    tokens                            scored tokens

    Args:
      loss: A bound loss of single responses.
      given: Its inputs by name.
    Returns:
      Name -> values, [N].
    Raises:
      ValueError: the loss is not of single responses.
    """
    reward = loss.spec.implicit_reward
    if reward is None or unit_of(loss.spec) != "response":
        raise ValueError(f"response metrics need a loss of single responses, got {loss.name!r}")
    inputs = {name: _detached(given[name]) for name in loss.inputs}
    responses, ref, liked = inputs["responses"], inputs["ref_responses"], inputs["desirable"]
    found = {
        "loss": loss(**inputs),
        "rewards": reward(**inputs, **loss.options),
        "logps": responses.logps,
        "logratio": responses.logps - ref.logps,
        "desirable": liked.to(responses.logps.dtype),
        "tokens": responses.num_tokens,
    }
    found |= {f"desirable_{name}": found[name].where(liked, 0.0) for name in _OF_RESPONSES}
    return {name: found[name] for name in columns_of(loss.spec)}


def by_label(means: Mapping[str, float]) -> dict[str, float]:
    """Means over the responses of each label, from the global means of the columns of `response_metrics`.

    Returns:
      loss, rewards, logps, logratio, tokens over all responses; desirable: the share that was liked; desirable_X and
      undesirable_X for each X of the first four, where there are such responses; margin: desirable minus undesirable
      rewards, where there are both.
    """
    share = means["desirable"]
    found = {name: means[name] for name in (*_OF_RESPONSES, "tokens", "desirable")}
    for name in _OF_RESPONSES:
        if share > 0:
            found[f"desirable_{name}"] = means[f"desirable_{name}"] / share
        if share < 1:
            found[f"undesirable_{name}"] = (means[name] - means[f"desirable_{name}"]) / (1 - share)
    if 0 < share < 1:
        found["margin"] = found["desirable_rewards"] - found["undesirable_rewards"]
    return found


def list_metrics(loss: BoundLoss, given: Mapping[str, Any]) -> dict[str, Shaped[Tensor, " L"]]:
    """The loss and its companions for each list, detached.

    loss             the loss itself
    accuracy         1 where no response has a larger implicit reward than the best one, shared with those that equal it
    pair_accuracy    share of the pairs of the list (those of unequal score, where there are scores) whose rewards are
                     in the list's order; equal rewards count one half; 0.5 where there is nothing to order
    margin           implicit reward of the best response minus the worst one's
    best_logps, worst_logps, best_logratio, worst_logratio    of those two, nats
    tokens           scored tokens of the whole list

    Args:
      loss: A bound loss of lists.
      given: Its inputs by name.
    Returns:
      Name -> values, [L].
    Raises:
      ValueError: the loss is not of lists.
    """
    reward = loss.spec.implicit_reward
    if reward is None or unit_of(loss.spec) != "list":
        raise ValueError(f"list metrics need a loss of lists, got {loss.name!r}")
    inputs = {name: _detached(given[name]) for name in loss.inputs}
    policy: ListLogps = inputs["policy_lists"]
    each = reward(**inputs, **loss.options)
    rewards = spread(each, policy.sizes, fill=-torch.inf)
    last = policy.sizes.cumsum(0) - 1
    first = last + 1 - policy.sizes
    highest = rewards == rewards.amax(dim=1, keepdim=True) if len(rewards) else rewards.bool()

    inside = filled(policy.sizes)
    order = torch.arange(rewards.shape[1], device=rewards.device)
    ranked = (order[:, None] < order) & inside[:, :, None] & inside[:, None, :]
    if "list_scores" in inputs:
        scores = spread(inputs["list_scores"], policy.sizes, fill=0.0)
        ranked &= scores[:, :, None] > scores[:, None, :]
    gap = (rewards[:, :, None] - rewards[:, None, :]).where(ranked, 0.0)
    concordant = ((1 + gap.sign()) / 2 * ranked).sum(dim=(1, 2))
    num_ranked = ranked.sum(dim=(1, 2))

    found = {
        "loss": loss(**inputs),
        "accuracy": (highest[:, 0] / highest.sum(dim=1)) if len(rewards) else concordant,
        "pair_accuracy": torch.where(num_ranked > 0, concordant / num_ranked.clamp(min=1), 0.5),
        "margin": each[first] - each[last],
        "best_logps": policy.logps[first],
        "worst_logps": policy.logps[last],
        "tokens": torch.segment_reduce(policy.num_tokens.double(), "sum", lengths=policy.sizes, unsafe=True, initial=0),
    }
    if needs_reference(loss.spec):
        ratio = policy.logps - inputs["ref_lists"].logps
        found |= {"best_logratio": ratio[first], "worst_logratio": ratio[last]}
    return {name: found[name] for name in columns_of(loss.spec)}


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return type(value)(*map(_detached, value)) if isinstance(value, tuple) else value  # state: numbers by name


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return type(value)(*map(_copy, value)) if isinstance(value, tuple) else value
