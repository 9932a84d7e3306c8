"""Losses of lists: K responses to one prompt, best first."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from preftree.losses.options import Beta, NotNegative, checked
from preftree.losses.ragged import filled, spread
from preftree.losses.types import ListLogps


@checked
def plackett_luce(policy_lists: ListLogps, ref_lists: ListLogps, *, beta: Beta = 0.1) -> Float[Tensor, " L"]:
    """DPO for whole rankings: the best response of all, then the best of the rest, and so on.

    loss = sum over k of log(sum over j >= k of e^(s_j)) - s_k, s = beta * logratio

    A list of two is a pair of `dpo`.

    Args:
      policy_lists: Summed response log-probs, list after list, best first, nats, [R]; carries gradient.
      ref_lists: The same lists under the frozen reference, nats, [R].
      beta: Strength of the KL constraint, > 0.
    Returns:
      Loss per list, nats, [L]; not reduced.
    Raises:
      ValueError: the lists differ, or beta <= 0.
    At policy == reference: no fixed value; ln K! for a list of K.
    Source: Rafailov et al. 2023, arXiv:2305.18290, Eq. 20.
    """
    gap = _gaps(beta * list_logratios(policy_lists, ref_lists), policy_lists.sizes)
    order = torch.arange(gap.shape[1], device=gap.device)
    inside = filled(policy_lists.sizes)
    rest = ((order > order[:, None]) & inside[:, :, None] & inside[:, None, :]) | (order == order[:, None])
    # Place k against each of the rest: log(e^0 + sum of e^(s_j - s_k)).
    return (-gap).masked_fill(~rest, -torch.inf).logsumexp(2).sum(1) if gap.numel() else gap.sum((1, 2))


@checked
def lipo(
    policy_lists: ListLogps, ref_lists: ListLogps, list_scores: Float[Tensor, " R"], *, beta: Beta = 0.05
) -> Float[Tensor, " L"]:
    """Logistic losses of all pairs of a list, each weighed by what exchanging the two would do to the list's DCG.

    loss = sum over score_i > score_j of abs(G_i - G_j) * abs(1/D_i - 1/D_j) * softplus(s_j - s_i)
    s = beta * logratio, G = 2^score - 1, D = log(1 + rank by s)

    The weights are constants of each evaluation. Equal s rank in the list's order. G grows as 2^score: bring scores to
    a range such as [0, 1] first.

    Args:
      policy_lists: Summed response log-probs, list after list, best first, nats, [R]; carries gradient.
      ref_lists: The same lists under the frozen reference, nats, [R].
      list_scores: Score of each response, falling within a list, [R]; equal scores are not ordered.
      beta: Strength of the KL constraint, > 0.
    Returns:
      Loss per list, nats, [L]; not reduced.
    Raises:
      ValueError: the lists or the number of scores differ, or beta <= 0.
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
def rrhf(
    policy_lists: ListLogps, list_scores: Float[Tensor, " R"], *, nll_weight: NotNegative = 1.0
) -> Float[Tensor, " L"]:
    """Hinge on every pair of a list whose mean log-probs are in the wrong order, and likelihood of the best response.

    loss = sum over score_i < score_j of max(0, p_i - p_j) - nll_weight * p_best, p = logps / tokens

    The likelihood is per token, as in the authors' code; the paper's formula sums it over tokens.

    Args:
      policy_lists: Summed response log-probs, list after list, best first, nats, and token counts, [R]; carries
        gradient.
      list_scores: Score of each response, falling within a list, [R]; equal scores are not ordered.
      nll_weight: Weight of the best response's mean negative log-likelihood, >= 0.
    Returns:
      Loss per list, nats per token, [L]; not reduced. nan for a list with a response without tokens.
    Raises:
      ValueError: the number of scores differs, or nll_weight < 0.
    At policy == reference: no fixed value; there is no reference.
    Source: Yuan et al. 2023, arXiv:2304.05302. Checked by hand on lists of two and three, and against the authors'
      code, github.com/GanjinZero/RRHF: the same pairs and scores; its default weighs the hinge 100 times.
    """
    means = policy_lists.logps / policy_lists.num_tokens
    gap = _gaps(means, policy_lists.sizes)
    best = means[policy_lists.sizes.cumsum(0) - policy_lists.sizes]
    return (-gap).clamp(min=0).where(_better(list_scores, policy_lists), 0.0).sum((1, 2)) - nll_weight * best


def list_logratios(policy_lists: ListLogps, ref_lists: ListLogps) -> Float[Tensor, " R"]:
    """Policy minus reference logps of the responses of lists, nats, [R].

    Raises:
      ValueError: the lists differ in number or size.
    """
    if policy_lists.sizes.tolist() != ref_lists.sizes.tolist():
        raise ValueError(
            f"policy and reference must hold the same lists, got {len(policy_lists.sizes)} of "
            f"{len(policy_lists.logps)} and {len(ref_lists.sizes)} of {len(ref_lists.logps)} responses"
        )
    return policy_lists.logps - ref_lists.logps


def _gaps(values: Tensor, sizes: Int[Tensor, " L"]) -> Float[Tensor, "L K K"]:
    """values[i] - values[j] within each list; what lies past its end is to be masked."""
    rows = spread(values, sizes, fill=0.0)
    return rows[:, :, None] - rows[:, None, :]


def _better(scores: Tensor, lists: ListLogps) -> Bool[Tensor, "L K K"]:
    """Whether i has a larger score than j, both within the list."""
    if len(scores) != len(lists.logps):
        raise ValueError(f"list_scores must hold one score per response, got {len(scores)} for {len(lists.logps)}")
    rows, inside = spread(scores, lists.sizes, fill=0.0), filled(lists.sizes)
    return (rows[:, :, None] > rows[:, None, :]) & inside[:, :, None] & inside[:, None, :]
