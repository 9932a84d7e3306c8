"""Side-aware model of annotators: which response is better, who knows it, and who prefers a side of the screen.

Dawid and Skene's scheme with two numbers a person: the better response is hidden, each annotator finds it with some
skill and leans to a side, and both are estimated together from the votes alone, or from votes and known answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, log_expit

SKILL, SPREAD = 0.9, 0.5
"""What is taken to be usual before anything is known, in logits, with the weight of one person: someone is right with
probability .71, and people differ by .5 in skill and in side bias."""

_FREE_ROUNDS, _MOST_ROUNDS = 100, 500
_SETTLED = 1e-5
_NEWTON_STEPS = 4
_LONGEST_STEP = 1.0


class Votes(NamedTuple):
    """Votes on pairs, one entry a vote. A second vote of one annotator on one pair is no second opinion: leave it out.

    Attributes:
      item: Number of the pair, from 0, [V].
      annotator: Number of the person, from 0, [V].
      for_first: 1 where the first response of the pair was preferred, 0 where the second was, .5 for a tie, [V].
      side: +1 where the first response was shown left, -1 where it was shown right, [V].
    """

    item: Int[np.ndarray, " V"]
    annotator: Int[np.ndarray, " V"]
    for_first: Float[np.ndarray, " V"]
    side: Float[np.ndarray, " V"]


class CrowdFit(NamedTuple):
    """What votes say of pairs and of annotators.

    Attributes:
      win_prob: Probability that the first response of each pair is the better one, [I]; .5 without votes.
      by_others: The same for the pair of each vote, from the votes of others alone, [V].
      skill: Log-odds of voting for the better response where sides cancel, [J]; the usual one without votes.
      side_bias: Log-odds that left adds, > 0 for someone who prefers left, [J]; 0 without votes.
      skill_error, side_error: Standard errors of the two, as if the better responses were known, [J].
      usual_skill: Mean of the skill of people like these.
      skill_spread, side_spread: Standard deviations of skill and side bias among them.
    """

    win_prob: Float[np.ndarray, " I"]
    by_others: Float[np.ndarray, " V"]
    skill: Float[np.ndarray, " J"]
    side_bias: Float[np.ndarray, " J"]
    skill_error: Float[np.ndarray, " J"]
    side_error: Float[np.ndarray, " J"]
    usual_skill: float
    skill_spread: float
    side_spread: float


class _People(NamedTuple):
    """Skills and side biases with their covariance, [J] each, and mean and variances of people like these."""

    skill: Float[np.ndarray, " J"]
    side: Float[np.ndarray, " J"]
    var_skill: Float[np.ndarray, " J"]
    var_side: Float[np.ndarray, " J"]
    covariance: Float[np.ndarray, " J"]
    mean: float
    spread_skill: float
    spread_side: float


class _Cells(NamedTuple):
    """Votes as the estimation sees them: only annotator, side and vote matter of one, and those make few cells.

    Attributes:
      item: Number of the pair, [V].
      cell: Number of (annotator, side, vote), [V].
      known: Known answers, [I].
    """

    item: Int[np.ndarray, " V"]
    cell: Int[np.ndarray, " V"]
    known: Float[np.ndarray, " I"]


_S, _Y = np.array([[-1.0], [1.0]]), np.array([0.0, 0.5, 1.0])
"""Sides and votes of the cells of an annotator, [2, 1] and [3]."""


def fit_annotators(
    votes: Votes, num_items: int, num_annotators: int, known: Float[np.ndarray, " I"] | None = None
) -> CrowdFit:
    """Estimate which response of each pair is better, and each annotator's skill and side bias.

    P(vote for first) = sigmoid(skill_j z_i + side_bias_j s), z = +1 where the first response is the better one and -1
    where the second is, s = +1 where the first was shown left. The hidden z is summed out by EM, skill and side bias
    are maximised by Newton's method. A tie is half a vote for each side.

    Few votes tell little of an annotator, and taken at their word they make win_prob overconfident. So skills and side
    biases are drawn towards those of the others, by as much as people turn out to be alike (normal priors whose mean
    and variances are estimated with them), and the probability of a vote is averaged over what an annotator's skill and
    side bias may be (the probit approximation of a logistic normal).

    Votes alone cannot tell a crowd that knows from one that votes against what it knows: of the two mirror images the
    one with the higher posterior is taken. Known answers settle it.

    Args:
      votes: The votes, V >= 0.
      num_items, num_annotators: Numbers of pairs I and of people J.
      known: 1 or 0 where the better response is known to be the first or the second, .5 where neither is, nan where
        nothing is known, [I].
    Raises:
      ValueError: lengths differ, or a number is out of its range.
    Source: Dawid and Skene 1979, Applied Statistics 28, p. 20 (EM over hidden truths); Whitehill et al. 2009, NIPS 22
      (logistic skill); MacKay 1992, Neural Computation 4, p. 720 (the averaged sigmoid); Morris 1983, JASA 78, p. 47
      (priors that are estimated).
    """
    _check(votes, num_items, num_annotators, known)
    known = np.full(num_items, np.nan) if known is None else known
    cell = (votes.annotator * 2 + (votes.side > 0)) * 3 + np.round(2 * votes.for_first).astype(np.int64)
    cells = _Cells(votes.item, cell, known)
    nothing = np.zeros(num_annotators)
    alike = _People(nothing + SKILL, nothing, nothing, nothing, nothing, SKILL, 1.0, 1.0)
    people = _climb(cells, alike)  # its first round counts everyone's votes alike
    mirrored = _climb(cells, people._replace(skill=-people.skill, mean=-people.mean))
    if _log_posterior(cells, mirrored) > _log_posterior(cells, people):
        people = mirrored
    ratio = _log_odds(people).ravel()[cell]
    total = _sums(votes.item, ratio, num_items)
    return CrowdFit(
        win_prob=np.where(np.isnan(known), expit(total), known),
        by_others=expit(total[votes.item] - ratio),
        skill=people.skill,
        side_bias=people.side,
        skill_error=np.sqrt(people.var_skill),
        side_error=np.sqrt(people.var_side),
        usual_skill=people.mean,
        skill_spread=people.spread_skill**0.5,
        side_spread=people.spread_side**0.5,
    )


def entropy(win_prob: Float[np.ndarray, " I"]) -> Float[np.ndarray, " I"]:
    """Uncertainty of which response is better, bits: 1 where nothing is known, 0 where it is certain."""
    share = np.stack([win_prob, 1 - win_prob])
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(0)


def adjudication_order(win_prob: Float[np.ndarray, " I"], num_votes: Int[np.ndarray, " I"]) -> Int[np.ndarray, " K"]:
    """Pairs that a person should decide: those with two votes or more, the least certain first.

    Of equally uncertain ones the pair with more votes comes first: more votes will not settle it.

    Args:
      win_prob: Probability that the first response is better, [I].
      num_votes: Votes of each pair, [I].
    """
    order = np.lexsort((np.arange(len(win_prob)), -num_votes, -np.round(entropy(win_prob), 9)))
    return order[num_votes[order] >= 2]


def _climb(cells: _Cells, people: _People) -> _People:
    """EM from a start to the nearest maximum.

    The first rounds leave the spread as it is: else people who look alike at first would be held to be alike for good.
    """
    num, is_free = len(people.skill), True
    count = _per_cell(cells, np.ones(len(cells.cell)), num)
    for number in range(_MOST_ROUNDS):
        total = _sums(cells.item, _log_odds(people).ravel()[cells.cell], len(cells.known))
        first = np.where(np.isnan(cells.known), expit(total), cells.known)[cells.item]
        better = _per_cell(cells, first, num)
        before, people = people, _maximise(better, count - better, people)
        if not is_free:
            people = _usual(people)
        is_settled = all(np.allclose(new, old, rtol=0, atol=_SETTLED) for new, old in zip(people, before, strict=True))
        if is_settled and not is_free:
            break
        is_free = is_free and not is_settled and number < _FREE_ROUNDS
    return people


def _usual(people: _People) -> _People:
    """The same people with mean and variances of people like them."""
    count = len(people.skill) + 1
    mean = float(people.skill.sum() + SKILL) / count
    of_skill = float(((people.skill - mean) ** 2 + people.var_skill).sum() + SPREAD**2) / count
    of_side = float((people.side**2 + people.var_side).sum() + SPREAD**2) / count
    return people._replace(mean=mean, spread_skill=of_skill, spread_side=of_side)


def _log_odds(people: _People) -> Float[np.ndarray, "J 2 3"]:
    """What a vote adds to the log-odds that the first response is better, by annotator, side and vote."""
    better, worse = (_averaged_logit(people, z)[:, :, None] for z in (1, -1))
    return _Y * (log_expit(better) - log_expit(worse)) + (1 - _Y) * (log_expit(-better) - log_expit(-worse))


def _averaged_logit(people: _People, z: int) -> Float[np.ndarray, "J 2"]:
    """Logit of a vote for the first response, averaged over what skill and side bias may be, by side."""
    skill, side, var_skill, var_side, covariance = (part[:, None] for part in people[:5])
    variance = var_skill + var_side + 2 * z * _S[:, 0] * covariance
    return (z * skill + side * _S[:, 0]) / np.sqrt(1 + np.pi * np.maximum(variance, 0) / 8)


def _maximise(better: Float[np.ndarray, "J 2 3"], worse: Float[np.ndarray, "J 2 3"], people: _People) -> _People:
    """Skills and side biases at the maximum of the expected log posterior.

    Args:
      better, worse: Expected numbers of votes on pairs whose first response is the better or the worse one.
      people: Where the search starts.
    """
    skill, side = people.skill, people.side
    var_skill, var_side, covariance = people.var_skill, people.var_side, people.covariance
    for _ in range(_NEWTON_STEPS):
        logit, leaning = skill[:, None, None], side[:, None, None] * _S
        p_better, p_worse = expit(logit + leaning), expit(-logit + leaning)
        of_better, of_worse = better * (_Y - p_better), worse * (_Y - p_worse)
        slope_skill = (of_better - of_worse).sum((1, 2)) - (skill - people.mean) / people.spread_skill
        slope_side = ((of_better + of_worse) * _S).sum((1, 2)) - side / people.spread_side
        bent_better, bent_worse = better * p_better * (1 - p_better), worse * p_worse * (1 - p_worse)
        bent = (bent_better + bent_worse).sum((1, 2))
        bent_skill, bent_side = bent + 1 / people.spread_skill, bent + 1 / people.spread_side
        bent_both = ((bent_better - bent_worse) * _S).sum((1, 2))
        volume = bent_skill * bent_side - bent_both**2
        var_skill, var_side, covariance = bent_side / volume, bent_skill / volume, -bent_both / volume
        skill = skill + np.clip(var_skill * slope_skill + covariance * slope_side, -_LONGEST_STEP, _LONGEST_STEP)
        side = side + np.clip(covariance * slope_skill + var_side * slope_side, -_LONGEST_STEP, _LONGEST_STEP)
    return people._replace(skill=skill, side=side, var_skill=var_skill, var_side=var_side, covariance=covariance)


def _log_posterior(cells: _Cells, people: _People) -> float:
    """Log posterior of skills and side biases under the spread of people like these, up to a constant."""
    logits = []
    for z in (1, -1):
        logit = z * people.skill[:, None, None] + people.side[:, None, None] * _S
        likely = _Y * log_expit(logit) + (1 - _Y) * log_expit(-logit)
        logits.append(_sums(cells.item, likely.ravel()[cells.cell], len(cells.known)))
    weight = np.where(np.isnan(cells.known), 0.5, cells.known)
    with np.errstate(divide="ignore"):
        total = np.logaddexp(logits[0] + np.log(weight), logits[1] + np.log(1 - weight)).sum()
    apart = [
        (np.append(people.skill, SKILL) - people.mean, people.spread_skill),
        (np.append(people.side, SPREAD), people.spread_side),
    ]
    return (
        float(total) - sum(float((part**2).sum()) / spread + len(part) * np.log(spread) for part, spread in apart) / 2
    )


def _per_cell(cells: _Cells, weight: Float[np.ndarray, " V"], count: int) -> Float[np.ndarray, "J 2 3"]:
    """Sums of the votes' weights by annotator, side and vote."""
    return _sums(cells.cell, weight, count * 6).reshape(count, 2, 3)


def _sums(group: Int[np.ndarray, " V"], values: Float[np.ndarray, " V"], count: int) -> Float[np.ndarray, " G"]:
    """Sum of the values of each group."""
    return np.bincount(group, values, count).astype(np.float64)  # of nothing at all it would be integers


def _check(votes: Votes, num_items: int, num_annotators: int, known: Float[np.ndarray, " I"] | None) -> None:
    if len({len(part) for part in votes}) != 1:
        raise ValueError(f"votes must have one entry a vote, got lengths {[len(part) for part in votes]}")
    if known is not None and len(known) != num_items:
        raise ValueError(f"known must have one entry for each of {num_items} pairs, got {len(known)}")
    if not len(votes.item):
        return
    for name, numbers, count in (("item", votes.item, num_items), ("annotator", votes.annotator, num_annotators)):
        if numbers.min() < 0 or numbers.max() >= count:
            raise ValueError(f"{name} must be in [0, {count}), got {numbers.min()} to {numbers.max()}")
    if not np.isin(votes.for_first, (0, 0.5, 1)).all() or not np.isin(votes.side, (-1, 1)).all():
        raise ValueError("for_first must be 0, .5 or 1, and side -1 or 1")
