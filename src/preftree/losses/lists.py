"""Losses of lists: K responses to one prompt, best first.

Args, where a function does not say otherwise:
  policy_lists: Summed response log-probs, list after list, best first, nats, [R]; carries gradient.
  ref_lists: The same lists under the frozen reference, nats, [R].
  beta: Strength of the KL constraint, > 0.
Returns:
  Loss per list, nats, [L]; not reduced.
Raises:
  ValueError: the lists or the number of scores differ, or an option is out of its range.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from preftree.losses.options import Beta, NotNegative, checked
from preftree.losses.types import ListSums, LossSpec


@checked
def plackett_luce(policy_lists: ListSums, ref_lists: ListSums, *, beta: Beta = 0.1) -> Float[Tensor, " L"]:
    """DPO for rankings: the likelihood of choosing the best response, then the best of the others, and so on.

    loss = sum over k of log(sum over j >= k of e^(s_j)) - s_k, s = beta * logratio

    A list of two is a pair of `dpo`.

    At policy == reference: no fixed value; ln K! for a list of K.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 20.
    """
    gap = _gaps(beta * list_logratios(policy_lists, ref_lists), policy_lists.sizes)
    order = torch.arange(gap.shape[1], device=gap.device)
    inside = filled(policy_lists.sizes)
    rest = ((order > order[:, None]) & inside[:, :, None] & inside[:, None, :]) | (order == order[:, None])
    # Rank k against each of the rest: log(e^0 + sum of e^(s_j - s_k)).
    return (-gap).masked_fill(~rest, -torch.inf).logsumexp(2).sum(1) if gap.numel() else gap.sum((1, 2))


@checked
def lipo(
    policy_lists: ListSums, ref_lists: ListSums, list_scores: Float[Tensor, " R"], *, beta: Beta = 0.05
) -> Float[Tensor, " L"]:
    """Logistic losses of all pairs of a list, each weighted by the change of the list's DCG if the two are exchanged.

    loss = sum over score_i > score_j of abs(G_i - G_j) * abs(1/D_i - 1/D_j) * softplus(s_j - s_i)
    s = beta * logratio, G = 2^score - 1, D = log(1 + rank by s)

    The weights are constants of each evaluation. Equal s rank in the list's order. G grows as 2^score: bring scores to
    a range such as [0, 1] first.

    Args:
      list_scores: Score of each response, falling within a list, [R]; equal scores are not ordered.
    At policy == reference: no fixed value; ln 2 times the sum of the weights.
    Source: Liu et al. 2024, arXiv:2402.01878 (LiPO-lambda). Checked by hand on lists of two and three, with the weights
      of LambdaRank; not compared with code of the authors.
    """
    gap = _gaps(beta * list_logratios(policy_lists, ref_lists), policy_lists.sizes)
    better = _better(list_scores, policy_lists)
    now, order = gap.detach(), torch.arange(gap.shape[1], device=gap.device)
    inside = filled(policy_lists.sizes)[:, None, :]
    ahead = ((now < 0) | ((now == 0) & (order < order[:, None]))) & inside  # [L, i, j]: j ranks before i
    discount = 1 / (2 + ahead.sum(2)).to(gap.dtype).log()
    gain = spread(list_scores, policy_lists.sizes, fill=0.0).to(gap.dtype).exp2()
    weight = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
    return (softplus(-gap) * weight).where(better, 0.0).sum((1, 2))


@checked
def tpo(policy_lists: ListSums, *, beta: Beta = 0.01, nll_weight: NotNegative = 1.0) -> Float[Tensor, " L"]:
    """Likelihood of the best response, and reference-free DPO between the second and the last ("triple preference").

    loss = -log sigmoid(beta * (second_logps - last_logps)) - nll_weight * best_logps / best_tokens

    The paper's lists have three responses: the gold one, the preferred and the other. In a list of two the best one is
    also compared, which is `cpo`; in a longer one the responses between have no part.

    Args:
      policy_lists: Summed response log-probs, list after list, best first, nats, and token counts, [R]; carries
        gradient.
      beta: Inverse of the gap at which the contrast fades, > 0.
      nll_weight: Weight of the best response's mean negative log-likelihood, >= 0; the paper's alpha.
    Returns:
      Loss per list, nats, [L]; not reduced. nan for a list whose best response has no tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Saeidi et al. 2024, arXiv:2405.16681; the likelihood per token, and the defaults, are from memory.
    """
    if int(policy_lists.sizes.sum()) != len(policy_lists.values):
        raise ValueError(f"sizes must sum to the number of responses, got {len(policy_lists.values)} responses")
    last = policy_lists.sizes.cumsum(0) - 1
    best = last + 1 - policy_lists.sizes
    second = best + (policy_lists.sizes > 2).long()
    values = policy_lists.values
    gap = values.index_select(0, second) - values.index_select(0, last)
    nll = values.index_select(0, best) / policy_lists.num_tokens.index_select(0, best)
    return softplus(-beta * gap) - nll_weight * nll


@checked
def rrhf(
    policy_lists: ListSums, list_scores: Float[Tensor, " R"], *, nll_weight: NotNegative = 1.0
) -> Float[Tensor, " L"]:
    """Hinge on every pair of a list with mean log-probs in the wrong order, and likelihood of the best response.

    loss = sum over score_i < score_j of max(0, p_i - p_j) - nll_weight * p_best, p = logps / tokens

    The likelihood is per token, as in the authors' code; the paper's formula sums it over tokens.

    Args:
      policy_lists: Summed response log-probs, list after list, best first, nats, and token counts, [R]; carries
        gradient.
      list_scores: Score of each response, falling within a list, [R]; equal scores are not ordered.
      nll_weight: Weight of the best response's mean negative log-likelihood, >= 0.
    Returns:
      Loss per list, nats per token, [L]; not reduced. nan for a list with a response without tokens.
    At policy == reference: no fixed value; there is no reference.
    Source: Yuan et al. 2023, arXiv:2304.05302. Checked by hand on lists of two and three, and against the authors'
      code, github.com/GanjinZero/RRHF: the same pairs and scores; its default weighs the hinge 100 times.
    """
    means = policy_lists.values / policy_lists.num_tokens
    gap = _gaps(means, policy_lists.sizes)
    best = means[policy_lists.sizes.cumsum(0) - policy_lists.sizes]
    return (-gap).clamp(min=0).where(_better(list_scores, policy_lists), 0.0).sum((1, 2)) - nll_weight * best


def list_logratios(policy_lists: ListSums, ref_lists: ListSums) -> Float[Tensor, " R"]:
    """Policy minus reference logps of the responses of lists, nats, [R].

    Raises:
      ValueError: the lists differ in number or size.
    """
    if policy_lists.sizes.tolist() != ref_lists.sizes.tolist():
        raise ValueError(
            f"policy and reference must hold the same lists, got {len(policy_lists.sizes)} of "
            f"{len(policy_lists.values)} and {len(ref_lists.sizes)} of {len(ref_lists.values)} responses"
        )
    return policy_lists.values - ref_lists.values


def filled(sizes: Int[Tensor, " L"]) -> Bool[Tensor, "L K"]:
    """True at the filled positions of each list; K is the length of the longest list, [L, K]."""
    longest = int(sizes.max()) if len(sizes) else 0
    return torch.arange(longest, device=sizes.device) < sizes[:, None]


def spread(values: Float[Tensor, " R"], sizes: Int[Tensor, " L"], *, fill: float) -> Float[Tensor, "L K"]:
    """Concatenated values of lists as one row per list, `fill` past its end, [L, K].

    Raises:
      ValueError: the sizes do not sum to the number of values.
    """
    if int(sizes.sum()) != len(values):
        raise ValueError(f"sizes must sum to the number of values, got {int(sizes.sum())} and {len(values)}")
    inside = filled(sizes)
    index = (sizes.cumsum(0) - sizes)[:, None] + torch.arange(inside.shape[1], device=sizes.device)
    rows = values.index_select(0, index.where(inside, 0).flatten()) if len(values) else values
    return rows.view(inside.shape).masked_fill(~inside, fill)


def _gaps(values: Tensor, sizes: Int[Tensor, " L"]) -> Float[Tensor, "L K K"]:
    """values[i] - values[j] within each list; positions past its end must be masked."""
    rows = spread(values, sizes, fill=0.0)
    return rows[:, :, None] - rows[:, None, :]


def _better(scores: Tensor, lists: ListSums) -> Bool[Tensor, "L K K"]:
    """Whether i has a larger score than j, both within the list."""
    if len(scores) != len(lists.values):
        raise ValueError(f"list_scores must hold one score per response, got {len(scores)} for {len(lists.values)}")
    rows, inside = spread(scores, lists.sizes, fill=0.0), filled(lists.sizes)
    return (rows[:, :, None] > rows[:, None, :]) & inside[:, :, None] & inside[:, None, :]


def scaled_list_logratios(
    policy_lists: ListSums, ref_lists: ListSums, *, beta: float = 1.0, **_: Any
) -> Float[Tensor, " R"]:
    """beta * logratio of the responses of lists, detached, [R]."""
    return beta * list_logratios(policy_lists, ref_lists).detach()


def mean_list_logps(policy_lists: ListSums, **_: Any) -> Float[Tensor, " R"]:
    """Policy logps per token of the responses of lists, detached, [R]."""
    return (policy_lists.values / policy_lists.num_tokens).detach()


SPECS = {
    "plackett_luce": LossSpec(plackett_luce, None, scaled_list_logratios),
    "lipo": LossSpec(lipo, None, scaled_list_logratios),
    "tpo": LossSpec(tpo, None, mean_list_logps),
    "rrhf": LossSpec(rrhf, None, mean_list_logps),
}
