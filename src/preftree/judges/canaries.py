"""Canaries: comparisons whose answer is known, which every run of a language model as judge contains.

Each known pair makes one canary of each kind: its better answer must win against its worse one (`known`), against an
answer that only praises itself (`null`), against an opening without content (`master key`), against its own first third
(`truncated`), and against the worse one with a text that speaks to the judge (`injected`). Shown beside itself (`self`)
no side may win too often. Both orders must be right, and agree (`swapped`).

Limits are exact. A judge that is right with probability .9 each time, independently of the order, fails one of them in
less than 1 % of runs; `chance_to_pass` gives the chance of a judge of any other accuracy.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.signal import convolve2d
from scipy.stats import binom, multinomial

from preftree.errors import JudgeError
from preftree.judges.known_pairs import INJECTIONS, MASTER_KEYS, NULL, KnownPair
from preftree.judges.pairwise import UNKNOWN, VALUE, Judge, ask
from preftree.records import Comparison, Verdict

log = logging.getLogger("preftree")

FAIR = 0.9
"""Accuracy of a verdict that the limits are made for."""

REFUSE_FAIR = 0.01
"""Chance that a judge of that accuracy is refused, over all limits together."""

KINDS = ("known", "null", "master key", "truncated", "injected")
"""Kinds in which one of two answers must win."""

ACCURACIES = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class CanaryRow:
    """Result of one kind of canary.

    Attributes:
      kind: Name of the kind.
      right: Canaries that were judged rightly; of `self` the wins of the left side, a tie one half.
      num: Number of canaries.
      least, most: Range of `right` that passes.
    """

    kind: str
    right: int | float
    num: int
    least: int | float
    most: int | float

    @property
    def passes(self) -> bool:
        """Whether it is within its limits."""
        return self.least <= self.right <= self.most


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """Results of all canaries of a run.

    Attributes:
      rows: One a kind.
      chances: Chance to pass of judges by their accuracy.
    """

    rows: tuple[CanaryRow, ...]
    chances: Mapping[float, float]

    @property
    def refusal(self) -> str | None:
        """Why the judge bears no headline; None where it passes."""
        failed = [f"{row.kind} {row.right:g} of {row.num}" for row in self.rows if not row.passes]
        return f"the judge fails its canaries ({', '.join(failed)})" if failed else None

    def as_json(self) -> dict[str, Any]:
        """The results as a JSON object."""
        rows = [asdict(row) | {"passes": row.passes} for row in self.rows]
        return {"rows": rows, "chance_to_pass": {f"{accuracy:g}": chance for accuracy, chance in self.chances.items()}}

    def lines(self) -> list[str]:
        """The results as lines of text."""
        marks = {True: "passes", False: "FAILS"}
        table = [
            f"{row.kind}: {row.right:g} of {row.num}, "
            + (f"{row.least:g} to {row.most:g}" if row.most < row.num else f"at least {row.least:g}")
            + f": {marks[row.passes]}"
            for row in self.rows
        ]
        chances = ", ".join(f"{accuracy:g}: {chance:.2g}" for accuracy, chance in self.chances.items())
        return [*table, f"chance to pass by a judge's accuracy: {chances}"]


def make_canaries(pairs: Sequence[KnownPair]) -> dict[str, list[Comparison]]:
    """Comparisons of each kind, the better answer on the left."""
    canaries: dict[str, list[Comparison]] = {kind: [] for kind in KINDS}
    for number, pair in enumerate(pairs):
        worse = {
            "known": pair.worse,
            "null": NULL[number % len(NULL)],
            "master key": MASTER_KEYS[number % len(MASTER_KEYS)],
            "truncated": pair.better[: len(pair.better) // 3],
            "injected": pair.worse + INJECTIONS[number % len(INJECTIONS)],
        }
        for kind, text in worse.items():
            canaries[kind].append(Comparison(pair.prompt, pair.better, text))
    return canaries


def show_canaries(judge: Judge) -> CanaryReport | None:
    """Show a judge its canaries; None for a judge that has none, such as a reward.

    Raises:
      JudgeError: the judge failed.
    """
    if not judge.known_pairs:
        return None
    canaries = make_canaries(judge.known_pairs)
    asked = [comparison for kind in KINDS for comparison in canaries[kind]]
    same = [Comparison(pair.prompt, pair.better, pair.better) for pair in judge.known_pairs]
    verdicts = ask(judge, asked)
    num = len(judge.known_pairs)
    by_kind = {kind: verdicts[place * num : (place + 1) * num] for place, kind in enumerate(KINDS)}
    return weigh_canaries(by_kind, list(judge.decide(same)) if judge.sees_order else [])


def require_canaries(judge: Judge) -> None:
    """Show a judge its canaries where figures have no place for their table: it is logged, and a failure ends the work.

    Raises:
      JudgeError: the judge failed them.
    """
    report = show_canaries(judge)
    if report is None:
        return
    log.info("canaries of %s: %s", judge.name, "; ".join(report.lines()))
    if report.refusal is not None:
        raise JudgeError(
            f"judge {judge.name!r}: {report.refusal}, so no figure of it is shown; take another judge or rubric"
        )


def weigh_canaries(verdicts: Mapping[str, Sequence[Sequence[Verdict]]], same: Sequence[Verdict]) -> CanaryReport:
    """Verdicts on canaries against their limits.

    Args:
      verdicts: For each kind the verdicts on each of its canaries, in terms of the better answer on the left; one an
        order that the judge sees.
      same: Verdicts on texts beside themselves; none where the judge does not see the order.
    """
    orders = max(len(each) for kind in verdicts.values() for each in kind)
    limits = _limits(len(next(iter(verdicts.values()))), orders)
    right = {kind: sum(all(one.choice == "left" for one in each) for each in verdicts[kind]) for kind in KINDS}
    rows = [CanaryRow(kind, right[kind], limits.num, limits.least, limits.num) for kind in KINDS]
    rows.append(CanaryRow("all of these", sum(right.values()), limits.all, limits.least_of_all, limits.all))
    if orders > 1:
        alike = sum(each[0].choice == each[1].choice not in UNKNOWN for kind in KINDS for each in verdicts[kind])
        rows.append(CanaryRow("swapped", alike, limits.all, limits.least_alike, limits.all))
    if same:
        lefts = sum(VALUE[verdict.choice] for verdict in same)
        rows.append(CanaryRow("self", lefts, limits.num, limits.num - limits.most_left, limits.most_left))
    return CanaryReport(tuple(rows), limits.chances)


@functools.cache
def _limits(num: int, orders: int) -> _Limits:
    return _Limits(num, orders)


class _Limits:
    """Exact limits of canaries.

    Attributes:
      num, all: Canaries of a kind, and of all kinds with a right answer.
      least, least_of_all: Fewest right ones of a kind, and of all.
      least_alike: Fewest of all on which both orders agree.
      most_left: Most wins of the left side of texts beside themselves.
      chances: Chance to pass of judges by their accuracy.
    """

    def __init__(self, num: int, orders: int) -> None:
        self.num, self.all, self.orders = num, num * len(KINDS), orders
        alpha = REFUSE_FAIR / (len(KINDS) + (3 if orders > 1 else 1))
        right, _, alike = self._shares(FAIR)
        self.least = int(binom.ppf(alpha, num, right))
        self.least_of_all = int(binom.ppf(alpha, self.all, right))
        self.least_alike = int(binom.ppf(alpha, self.all, alike))
        self.most_left = int(binom.isf(alpha / 2, num, 0.5))
        self.chances = {accuracy: self.chance_to_pass(accuracy) for accuracy in ACCURACIES}

    def chance_to_pass(self, accuracy: float) -> float:
        """Chance that a judge passes all limits whose verdicts are right independently, and whose sides are alike."""
        right, wrong, _ = self._shares(accuracy)
        kind = self._counts(right, wrong)
        kind[: self.least] = 0
        together = np.ones((1, 1))
        for _ in KINDS:
            together = convolve2d(together, kind)
        rights, wrongs = np.indices(together.shape)
        passes = rights >= self.least_of_all
        if self.orders == 1:
            return float(together[passes].sum())
        passes &= rights + wrongs >= self.least_alike
        inside = binom.cdf(self.most_left, self.num, 0.5) - binom.cdf(self.num - self.most_left - 1, self.num, 0.5)
        return float(together[passes].sum() * inside)

    def _shares(self, accuracy: float) -> tuple[float, float, float]:
        """Chances that all orders of a canary are right, that all are wrong, and that they agree."""
        right, wrong = accuracy**self.orders, (1 - accuracy) ** self.orders
        return right, wrong, right + wrong

    def _counts(self, right: float, wrong: float) -> Float[np.ndarray, "R W"]:
        """Chance of each number of right and of wrong canaries of a kind."""
        counts = np.zeros((self.num + 1, self.num + 1))
        for rights in range(self.num + 1):
            for wrongs in range(self.num + 1 - rights):
                mixed = self.num - rights - wrongs
                shares = [right, wrong, max(0.0, 1 - right - wrong)]
                counts[rights, wrongs] = multinomial.pmf([rights, wrongs, mixed], self.num, shares)
        return counts
