"""Metrics of a loss: one value per example, never a mean. Means are computed in mean.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from preftree.losses.lists import filled, spread
from preftree.losses.quantities import logratios
from preftree.losses.types import BoundLoss, ListSums, LossSpec, PairSums

_OF_RESPONSES = ("loss", "rewards", "logps", "logratio")


def columns_of(spec: LossSpec) -> tuple[str, ...]:
    """Names of the columns that the metrics of a loss have, in order.

    Raises:
      ValueError: the loss is of demonstrations, which have no other metric than the loss.
    """
    kind, of_policy, has_reference = spec.kind, not spec.is_of_rewards, spec.needs_reference
    if kind == "pair":
        logps = ("chosen_logps", "rejected_logps") if of_policy else ()
        ratios = ("chosen_logratio", "rejected_logratio") if has_reference else ()
        tokens = ("chosen_tokens", "rejected_tokens") if of_policy else ()
        rewards = ("chosen_rewards", "rejected_rewards")
        return ("loss", "accuracy", "margin", *rewards, *logps, *ratios, "grad_weight", *tokens)
    if kind == "response":
        return (*_OF_RESPONSES, "desirable", *(f"desirable_{name}" for name in _OF_RESPONSES), "tokens")
    if kind == "list":
        ends = ("best_logps", "worst_logps") if of_policy else ("best_rewards", "worst_rewards")
        ratios = ("best_logratio", "worst_logratio") if has_reference else ()
        return ("loss", "accuracy", "pair_accuracy", "margin", *ends, *ratios, *(("tokens",) if of_policy else ()))
    raise ValueError("metrics are of pairs, responses and lists, got a loss of demonstrations")


def metrics_of(loss: BoundLoss, inputs: Mapping[str, Any], values: Tensor) -> dict[str, Shaped[Tensor, " P"]]:
    """The metrics of a loss of any kind; as `pair_metrics`, `response_metrics`, `list_metrics`."""
    of_kind = {"pair": pair_metrics, "response": response_metrics, "list": list_metrics}
    return of_kind[loss.spec.kind](loss, inputs, values)


def with_gradient(loss: BoundLoss, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs from which one evaluation of the loss also gives the derivative for `grad_weight`.

    Args:
      loss: A bound loss; only losses of pairs have this derivative.
      inputs: Inputs by name.
    Returns:
      `inputs` itself in training; copies where the chosen responses carry no gradient, as in an evaluation.
    """
    if loss.spec.kind != "pair" or (torch.is_grad_enabled() and _chosen(loss, inputs).requires_grad):
        return inputs
    with torch.inference_mode(False):  # copies made outside inference mode may require grad
        copies = {name: _copy(value) for name, value in inputs.items()}
    _chosen(loss, copies).requires_grad_()
    return copies


def pair_metrics(loss: BoundLoss, inputs: Mapping[str, Any], values: Tensor) -> dict[str, Shaped[Tensor, " P"]]:
    """The loss and its metrics for each pair, detached.

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

    A loss of rewards has neither logps, logratios nor tokens.

    The sides are reported apart because a margin can grow while both responses become less likely.

    Args:
      loss: A bound pair loss.
      inputs: The loss's inputs by name, as `with_gradient` returns them, and `policy` (with `ref`, where there is one)
        even if the loss takes tokens only.
      values: The loss of each pair, with its graph, [P].
    Returns:
      Name -> values, [P]; token counts are integers.
    Raises:
      ValueError: pair counts differ, or the loss implies no reward for pairs.
    """
    reward = loss.spec.implicit_reward
    if reward is None or loss.spec.kind != "pair":
        raise ValueError(f"pair metrics need a loss of pairs with an implicit reward, got {loss.name!r}")
    (slope,) = torch.autograd.grad(values.sum(), _chosen(loss, inputs), retain_graph=True)
    detached = {name: _detached(value) for name, value in inputs.items()}
    if "policy_tokens" in loss.inputs:
        lengths = detached["policy_tokens"].chosen.num_tokens
        slope = torch.segment_reduce(slope, "sum", lengths=lengths, unsafe=True, initial=0.0) / lengths

    rewards = reward(**detached, **loss.options)
    margin = rewards.chosen - rewards.rejected
    won = (1 + margin.sign()) / 2
    if "ties" in loss.inputs:
        won = won.masked_fill(detached["ties"], 0.5)  # the order of the responses of a tie has no meaning
    figures = {
        "loss": values.detach(),
        "accuracy": torch.where(margin.isnan(), margin, won),  # the sign of nan is 0, as for equal rewards
        "margin": margin,
        "chosen_rewards": rewards.chosen,
        "rejected_rewards": rewards.rejected,
        "grad_weight": slope.abs() / float(loss.options.get("beta", 1.0)),
    }
    if not loss.spec.is_of_rewards:
        policy: PairSums = detached["policy"]
        figures |= {"chosen_logps": policy.chosen, "rejected_logps": policy.rejected}
        figures |= {"chosen_tokens": policy.chosen_tokens, "rejected_tokens": policy.rejected_tokens}
    if loss.spec.needs_reference:
        ratios = logratios(detached["policy"], detached["ref"])
        figures |= {"chosen_logratio": ratios.chosen, "rejected_logratio": ratios.rejected}
    return {name: figures[name] for name in columns_of(loss.spec)}


def response_metrics(loss: BoundLoss, inputs: Mapping[str, Any], values: Tensor) -> dict[str, Shaped[Tensor, " N"]]:
    """The loss and its metrics for each single response, detached; `by_label` derives figures from their means.

    loss, rewards, logps, logratio    the loss, the implicit reward, policy logps, policy minus reference logps
    desirable                         1 where the response was liked, else 0
    desirable_loss, ...               the same where it was liked, 0 elsewhere
    tokens                            scored tokens

    Args:
      loss: A bound loss of single responses.
      inputs: Its inputs by name.
      values: The loss of each response, [N].
    Returns:
      Name -> values, [N].
    Raises:
      ValueError: the loss is not of single responses.
    """
    reward = loss.spec.implicit_reward
    if reward is None or loss.spec.kind != "response":
        raise ValueError(f"response metrics need a loss of single responses, got {loss.name!r}")
    detached = {name: _detached(inputs[name]) for name in loss.inputs}
    responses, ref, liked = detached["responses"], detached["ref_responses"], detached["desirable"]
    figures = {
        "loss": values.detach(),
        "rewards": reward(**detached, **loss.options),
        "logps": responses.values,
        "logratio": responses.values - ref.values,
        "desirable": liked.to(responses.values.dtype),
        "tokens": responses.num_tokens,
    }
    figures |= {f"desirable_{name}": figures[name].where(liked, 0.0) for name in _OF_RESPONSES}
    return {name: figures[name] for name in columns_of(loss.spec)}


def by_label(means: Mapping[str, float]) -> dict[str, float]:
    """Means over the responses of each label, from the global means of the columns of `response_metrics`.

    Returns:
      loss, rewards, logps, logratio, tokens over all responses; desirable: the desirable share; desirable_X and
      undesirable_X for each X of the first four, where there are such responses; margin: desirable minus undesirable
      rewards, where there are both.
    """
    share = means["desirable"]
    figures = {name: means[name] for name in (*_OF_RESPONSES, "tokens", "desirable")}
    for name in _OF_RESPONSES:
        if share > 0:
            figures[f"desirable_{name}"] = means[f"desirable_{name}"] / share
        if share < 1:
            figures[f"undesirable_{name}"] = (means[name] - means[f"desirable_{name}"]) / (1 - share)
    if 0 < share < 1:
        figures["margin"] = figures["desirable_rewards"] - figures["undesirable_rewards"]
    return figures


def list_metrics(loss: BoundLoss, inputs: Mapping[str, Any], values: Tensor) -> dict[str, Shaped[Tensor, " L"]]:
    """The loss and its metrics for each list, detached.

    loss             the loss itself
    accuracy         1 where no response has a larger implicit reward than the best one, shared with those that equal it
    pair_accuracy    share of the pairs of the list (those of unequal score, where there are scores) whose rewards are
                     in the list's order; equal rewards count one half; 0.5 where there is nothing to order
    margin           implicit reward of the best response minus the worst one's
    best_logps, worst_logps, best_logratio, worst_logratio    of those two, nats
    tokens           scored tokens of the whole list

    A loss of rewards has best_rewards and worst_rewards instead of the last two lines.

    Args:
      loss: A bound loss of lists.
      inputs: Its inputs by name.
      values: The loss of each list, [L].
    Returns:
      Name -> values, [L].
    Raises:
      ValueError: the loss is not of lists.
    """
    reward = loss.spec.implicit_reward
    if reward is None or loss.spec.kind != "list":
        raise ValueError(f"list metrics need a loss of lists, got {loss.name!r}")
    detached = {name: _detached(inputs[name]) for name in loss.inputs}
    policy: ListSums = detached["list_rewards" if loss.spec.is_of_rewards else "policy_lists"]
    each = reward(**detached, **loss.options)
    rewards = spread(each, policy.sizes, fill=-torch.inf)
    last = policy.sizes.cumsum(0) - 1
    first = last + 1 - policy.sizes
    ends = {"best": first, "worst": last}
    highest = rewards == rewards.amax(dim=1, keepdim=True) if len(rewards) else rewards.bool()

    inside = filled(policy.sizes)
    order = torch.arange(rewards.shape[1], device=rewards.device)
    ranked = (order[:, None] < order) & inside[:, :, None] & inside[:, None, :]
    if "list_scores" in detached:
        scores = spread(detached["list_scores"], policy.sizes, fill=0.0)
        ranked &= scores[:, :, None] > scores[:, None, :]
    gap = (rewards[:, :, None] - rewards[:, None, :]).where(ranked, 0.0)
    concordant = ((1 + gap.sign()) / 2 * ranked).sum(dim=(1, 2))
    num_ranked = ranked.sum(dim=(1, 2))

    figures = {
        "loss": values.detach(),
        "accuracy": (highest[:, 0] / highest.sum(dim=1)) if len(rewards) else concordant,
        "pair_accuracy": torch.where(num_ranked > 0, concordant / num_ranked.clamp(min=1), 0.5),
        "margin": each[first] - each[last],
        "tokens": torch.segment_reduce(policy.num_tokens.double(), "sum", lengths=policy.sizes, unsafe=True, initial=0),
    }
    figures |= {f"{end}_logps": policy.values[places] for end, places in ends.items()}
    figures |= {f"{end}_rewards": each[places] for end, places in ends.items()}
    if loss.spec.needs_reference:
        ratio = policy.values - detached["ref_lists"].values
        figures |= {f"{end}_logratio": ratio[places] for end, places in ends.items()}
    return {name: figures[name] for name in columns_of(loss.spec)}


def _chosen(loss: BoundLoss, inputs: Mapping[str, Any]) -> Tensor:
    """The input for the chosen responses by which a loss of pairs is differentiated."""
    if "policy_tokens" in loss.inputs:
        return inputs["policy_tokens"].chosen.logps
    return inputs["rewards" if loss.spec.is_of_rewards else "policy"].chosen


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return type(value)(*map(_detached, value)) if isinstance(value, tuple) else value  # state: numbers by name


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return type(value)(*map(_copy, value)) if isinstance(value, tuple) else value
