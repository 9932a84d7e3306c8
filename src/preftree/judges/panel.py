"""Several judges as one: `panel:A,B,C`, weighed by the model of annotators that weighs people's votes.

A judge that sees the order gives its vote where both orders agree, and a tie where they contradict each other. Who is
right more often counts more; judges that err together count once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from preftree.crowd.annotators import Votes
from preftree.crowd.copies import fit_once_each
from preftree.judges.pairwise import UNKNOWN, VALUE, Judge, ask
from preftree.records import Comparison, Verdict

log = logging.getLogger("preftree")

_EVEN = 1e-9


class JudgePanel:
    """Judges whose verdicts on a batch of comparisons are weighed together."""

    def __init__(self, judges: Sequence[Judge], names: Sequence[str]) -> None:
        """Take the judges, with a short name for each."""
        self._judges, self._names = tuple(judges), tuple(names)

    def decide(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts with the probability that the left response is better.

        The weights are estimated from the batch, so a comparison's verdict depends on what it is asked with.

        Raises:
          JudgeError: a judge failed.
        """
        if not comparisons:
            return []
        answered = [ask(judge, comparisons) for judge in self._judges]
        votes = panel_votes(answered)
        panel = fit_once_each(votes, len(comparisons), len(self._judges))
        for pair in panel.copies:
            log.warning(
                "panel: %s and %s err together (correlation %.2f), and count as one judge",
                self._names[pair.kept],
                self._names[pair.copy],
                pair.correlation,
            )
        skills = ", ".join(
            f"{name} {1 / (1 + np.exp(-skill)):.2f}" for name, skill in zip(self._names, panel.fit.skill, strict=True)
        )
        log.info("panel: estimated to be right in %s", skills)
        voted = np.bincount(votes.item, minlength=len(comparisons)) > 0
        return [
            _verdict(float(chance)) if known else Verdict("invalid", reason="no judge of the panel can be read")
            for chance, known in zip(panel.fit.win_prob, voted, strict=True)
        ]


def panel_votes(answered: Sequence[Sequence[tuple[Verdict, ...]]]) -> Votes:
    """One vote of each judge on each comparison that it answered readably.

    Args:
      answered: The verdicts of each judge from `ask`, for each comparison one for each order.
    """
    table = np.array([[_value(verdicts) for verdicts in one] for one in answered], np.float64)
    annotator, item = np.nonzero(~np.isnan(table))
    # The sides are balanced within a vote; which one it is entered under says nothing.
    return Votes(item, annotator, table[annotator, item], np.where((item + annotator) % 2 == 0, 1.0, -1.0))


def _value(verdicts: tuple[Verdict, ...]) -> float:
    """1, 0 or .5 for the left response; .5 where orders contradict each other, nan where none can be read."""
    values = {VALUE[verdict.choice] for verdict in verdicts if verdict.choice not in UNKNOWN}
    if not values:
        return float("nan")
    return values.pop() if len(values) == 1 else 0.5


def _verdict(chance: float) -> Verdict:
    if abs(chance - 0.5) < _EVEN:
        return Verdict("tie", probability=0.5)
    return Verdict("left" if chance > 0.5 else "right", probability=chance)
