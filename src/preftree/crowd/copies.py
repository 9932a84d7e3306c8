"""Annotators who err together: copies of one another, whose votes are one opinion and count once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

from preftree.crowd.annotators import CrowdFit, Votes, fit_annotators

FEWEST_SHARED = 30
"""Pairs that two annotators share, below which nothing is said of copies."""

COPY = 0.5
"""Correlation of errors above which two annotators are one opinion, with `_SURE` standard errors to spare."""

_SURE = 2.58
_SMALLEST = 1e-9


class Copy(NamedTuple):
    """Two annotators who err together: their numbers, the kept one first, and the correlation of their errors."""

    kept: int
    copy: int
    correlation: float


class PanelFit(NamedTuple):
    """A fit in which copies count once.

    Attributes:
      fit: Of the votes that are left; a copy has the skill of the one that was kept.
      copies: Who errs with whom, in the order in which they were merged.
    """

    fit: CrowdFit
    copies: tuple[Copy, ...]


def fit_once_each(votes: Votes, num_items: int, num_annotators: int) -> PanelFit:
    """The model of annotators, with the votes of copies counted once.

    Independent annotators may all be right, but do not err on the same pairs. For each two of them the errors are what
    they vote less what their skill predicts, given what the others vote, on the pairs that both voted on; where these
    correlate by more than `COPY`, beyond chance (Fisher's z), the votes of the second one are left out wherever the
    first has voted, and all is estimated again. The two with the highest correlation go first.

    Args:
      votes: The votes, at most one of each annotator on each pair.
      num_items, num_annotators: Numbers of pairs and of annotators.
    Raises:
      ValueError: as `fit_annotators`.
    Source: Fisher 1921, Metron 1, p. 3 (the interval of a correlation).
    """
    copies: list[Copy] = []
    while True:
        fit = fit_annotators(votes, num_items, num_annotators)
        pair = _most_alike(votes, fit, num_annotators)
        if pair is None:
            break
        copies.append(pair)
        seen = votes.item[votes.annotator == pair.kept]
        doubled = (votes.annotator == pair.copy) & np.isin(votes.item, seen)
        votes = Votes(*(part[~doubled] for part in votes))
    skill, error = fit.skill.copy(), fit.skill_error.copy()
    for pair in reversed(copies):
        skill[pair.copy], error[pair.copy] = skill[pair.kept], error[pair.kept]
    return PanelFit(fit._replace(skill=skill, skill_error=error), tuple(copies))


def _most_alike(votes: Votes, fit: CrowdFit, num_annotators: int) -> Copy | None:
    """The two annotators whose errors correlate most, where that is beyond chance."""
    place = np.full((num_annotators, len(fit.win_prob)), -1)
    place[votes.annotator, votes.item] = np.arange(len(votes.item))
    total = logit(np.clip(fit.win_prob, _SMALLEST, 1 - _SMALLEST))
    added = total[votes.item] - logit(np.clip(fit.by_others, _SMALLEST, 1 - _SMALLEST))
    skilled = expit(fit.skill)
    most: Copy | None = None
    for one in range(num_annotators):
        for other in range(one + 1, num_annotators):
            items = np.flatnonzero((place[one] >= 0) & (place[other] >= 0))
            if len(items) < FEWEST_SHARED:
                continue
            mine, theirs = place[one, items], place[other, items]
            chance = expit(total[items] - added[mine] - added[theirs])
            errors = [
                votes.for_first[rows] - (chance * skilled[who] + (1 - chance) * (1 - skilled[who]))
                for rows, who in ((mine, one), (theirs, other))
            ]
            correlation = _correlation(*errors)
            sure = np.arctanh(min(correlation, 1 - _SMALLEST)) - _SURE / np.sqrt(len(items) - 3)
            if sure > np.arctanh(COPY) and (most is None or correlation > most.correlation):
                most = Copy(one, other, correlation)
    return most


def _correlation(first: Float[np.ndarray, " N"], second: Float[np.ndarray, " N"]) -> float:
    """Correlation of errors about zero, which is where errors of a fitted model lie."""
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 0.0
