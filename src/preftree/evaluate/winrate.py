"""Win rate of one side's responses over another's, with its interval.

Sample i of one side meets sample i of the other; a side with fewer samples starts again with its first. A pair is
worth 1 to the side that wins, 1/2 in a tie, 0 to the other; a prompt is worth the mean of its pairs, and the win rate
is the mean over prompts, which are the independent units of its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest

from preftree.data.rows.conversion import to_row
from preftree.evaluate.answers import Answers
from preftree.judges.canaries import CanaryReport
from preftree.judges.pairwise import UNKNOWN, VALUE, Judge, ask, turn
from preftree.records import Comparison, Message, Preference, Text, Verdict, VerdictState
from preftree.stats.intervals import Estimate, share_interval
from preftree.stats.length_control import Controlled, control_length

MOST_UNKNOWN = 0.05
"""Share of verdicts that may be invalid or failed; above it there is no headline."""

SIDE_ALPHA = 0.01
"""Chance at which a judge whose verdicts do not depend on the side is refused for following the side."""

SIMILAR = 0.1
"""Responses are of similar length where they differ by no more than this share of the longer one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A response of either side to one prompt, judged.

    Attributes:
      row: Place of the prompt.
      left, right: The responses of side A and of side B.
      verdicts: Verdicts of the judge, one for each order that it saw; empty where both are the same text, which
        is a tie.
    """

    row: int
    left: str
    right: str
    verdicts: tuple[Verdict, ...]

    @property
    def value(self) -> float:
        """Value of the pair for side A: 1, 1/2 or 0, or the mean of that over both orders."""
        return sum(VALUE[verdict.choice] for verdict in self.verdicts) / len(self.verdicts) if self.verdicts else 0.5


@dataclass(frozen=True, slots=True)
class WinRate:
    """Figures of one side against another.

    Attributes:
      a, b: Names of the sides.
      judge: The judge.
      orders: Orders in which each pair was shown: 2 where the judge sees the order, with the sides swapped.
      prompts, pairs: Numbers of prompts and of pairs.
      rate: Win rate of A, with its 95 % interval by prompt.
      wins, ties, losses: Pairs that were worth more than 1/2 to A, 1/2, less.
      identical: Ties of identical texts, which were not judged.
      verdicts: Number of verdicts by state: decided, tie, invalid, failed. The last two count 1/2 in `rate`.
      unread: Reasons of invalid and failed verdicts, with their numbers.
      rate_low, rate_high: Win rate with all invalid and failed verdicts lost, and with all of them won.
      agreement: Share of pairs on which both orders had one verdict, of those known in both; None where there are none.
      left_rate: Share of them in which the left response was preferred, a tie 1/2; None where there are none.
      characters_a, characters_b: Mean length of a response.
      similar: Win rate among pairs of similar length; None where fewer than two prompts have one.
      similar_pairs: Number of these pairs.
      controlled: Win rate at equal length and with no preferred side, from all pairs, or why there is none.
      finished_a, finished_b: Share of the responses that the model ended itself; None where not known.
      refused: Why the win rate is no figure to quote, a sentence each; empty where it is one.
      canaries: Results of the judge's canaries; None for a judge that is shown none.
    """

    a: str
    b: str
    judge: str
    orders: int
    prompts: int
    pairs: int
    rate: Estimate
    wins: int
    ties: int
    losses: int
    identical: int
    verdicts: Mapping[VerdictState, int]
    unread: Mapping[str, int]
    rate_low: float
    rate_high: float
    agreement: float | None
    left_rate: float | None
    characters_a: float
    characters_b: float
    similar: Estimate | None
    similar_pairs: int
    controlled: Controlled
    finished_a: float | None
    finished_b: float | None
    refused: tuple[str, ...] = ()
    canaries: CanaryReport | None = None

    def as_json(self) -> dict[str, Any]:
        """The figures as a JSON object; an interval is value, low and high, and null where the headline is refused."""
        figures = asdict(self)
        for name in ("rate", "similar"):
            shown = figures[name] is not None and not self.refused
            figures[name] = Estimate(*figures[name])._asdict() if shown else None
        figures |= self.controlled.as_json(shown=not self.refused)
        return figures | {"canaries": self.canaries and self.canaries.as_json()}


def judge_pairs(judge: Judge, prompts: Sequence[Text], a: Answers, b: Answers) -> list[Pair]:
    """Every sample of A against its counterpart of B; two texts that meet more than once are judged once.

    Raises:
      JudgeError: the judge failed.
    """
    met = [
        (row, ours[index % len(ours)], theirs[index % len(theirs)])
        for row, (ours, theirs) in enumerate(zip(a.texts, b.texts, strict=True))
        for index in range(max(len(ours), len(theirs)))
    ]
    different: dict[tuple[int, str, str], tuple[Verdict, ...]] = {}
    for row, left, right in met:
        if left != right and (row, right, left) not in different:
            different[row, left, right] = ()
    verdicts = ask(judge, [Comparison(prompts[row], left, right) for row, left, right in different])
    different = dict(zip(different, verdicts, strict=True))
    pairs = []
    for row, left, right in met:
        judged = different.get((row, left, right))
        if judged is None:  # in the other order, or identical texts; the first verdict has `left` on the left
            judged = tuple(turn(verdict) for verdict in reversed(different.get((row, right, left), ())))
        pairs.append(Pair(row, left, right, judged))
    return pairs


def count_wins(
    judge: Judge, a: Answers, b: Answers, pairs: Sequence[Pair], canaries: CanaryReport | None = None
) -> WinRate:
    """The figures of judged pairs.

    Args:
      judge: The judge.
      a, b: The sides.
      pairs: From `judge_pairs`.
      canaries: Results of the judge's canaries, if it was shown any.
    """
    values, lengths = _values(pairs), np.array([[len(pair.left), len(pair.right)] for pair in pairs], np.float64)
    similar = np.abs(lengths[:, 0] - lengths[:, 1]) <= SIMILAR * lengths.max(axis=1)
    verdicts = [verdict for pair in pairs for verdict in pair.verdicts]
    twice = [pair.verdicts for pair in pairs if len(pair.verdicts) == 2 and not unknown_in(pair)]
    # The second verdict is already swapped: the response shown on the left there is the right one here.
    lefts = [(VALUE[first.choice] + 1 - VALUE[second.choice]) / 2 for first, second in twice]
    by_prompt = by_row(pairs)
    near = by_row(pairs, similar)
    states = count_states(verdicts)
    return WinRate(
        a=a.name,
        b=b.name,
        judge=judge.name,
        orders=2 if judge.sees_order else 1,
        prompts=len(by_prompt),
        pairs=len(pairs),
        rate=share_interval(by_prompt),
        wins=int((values > 0.5).sum()),
        ties=int((values == 0.5).sum()),
        losses=int((values < 0.5).sum()),
        identical=sum(not pair.verdicts for pair in pairs),
        verdicts=states,
        unread=dict(Counter(verdict.reason or "no reason given" for verdict in verdicts if verdict.choice in UNKNOWN)),
        rate_low=float(by_row(pairs, values=_bounds(pairs, 0.0)).mean()),
        rate_high=float(by_row(pairs, values=_bounds(pairs, 1.0)).mean()),
        agreement=float(np.mean([first.choice == second.choice for first, second in twice])) if twice else None,
        left_rate=float(np.mean(lefts)) if twice else None,
        characters_a=float(lengths[:, 0].mean()),
        characters_b=float(lengths[:, 1].mean()),
        similar=share_interval(near) if len(near) > 1 else None,
        similar_pairs=int(similar.sum()),
        controlled=control_length(
            _by_order(pairs), lengths[:, 0] - lengths[:, 1], np.array([pair.row for pair in pairs])
        ),
        finished_a=a.finished,
        finished_b=b.finished,
        refused=((canaries.refusal,) if canaries is not None and canaries.refusal else ()) + refusals(pairs),
        canaries=canaries,
    )


def unknown_in(pair: Pair) -> bool:
    """Whether a verdict on a pair is invalid or failed."""
    return any(verdict.choice in UNKNOWN for verdict in pair.verdicts)


def count_states(verdicts: Sequence[Verdict]) -> dict[VerdictState, int]:
    """Numbers of verdicts by state, which sum to the number of verdicts."""
    states: dict[VerdictState, int] = {"decided": 0, "tie": 0, "invalid": 0, "failed": 0}
    for verdict in verdicts:
        states[verdict.state] += 1
    return states


def refusals(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Why the verdicts bear no headline: too many are unknown, or the side decides more often than the responses do.

    A judge that does not look at the responses, but at the side, contradicts itself when the sides are swapped. It is
    refused where it does so on all pairs that it decided both times, or on more than half of them, beyond chance
    (exact binomial test).
    """
    verdicts = [verdict for pair in pairs for verdict in pair.verdicts]
    reasons = []
    unknown = sum(verdict.choice in UNKNOWN for verdict in verdicts)
    if unknown > MOST_UNKNOWN * len(verdicts):
        reasons.append(
            f"{unknown} of {len(verdicts)} verdicts are invalid or failed; more than {MOST_UNKNOWN:.0%} are too many"
        )
    twice = [pair.verdicts for pair in pairs if len(pair.verdicts) == 2]
    decided = [(one.choice, two.choice) for one, two in twice if one.state == two.state == "decided"]
    same = sum(one == two for one, two in decided)
    if decided and (not same or binomtest(same, len(decided), alternative="less").pvalue < SIDE_ALPHA):
        reasons.append(
            f"of {len(decided)} pairs that the judge decided in both orders it gave {len(decided) - same} to the side, "
            "whatever stood there"
        )
    return tuple(reasons)


def by_row(
    pairs: Sequence[Pair],
    keep: Bool[np.ndarray, " P"] | None = None,
    *,
    values: Float[np.ndarray, " P"] | None = None,
) -> Float[np.ndarray, " X"]:
    """Value of each prompt for A, the mean over its kept pairs, in order; prompts without a kept pair are left out.

    Args:
      pairs: From `judge_pairs`.
      keep: The pairs that count; all where it is None.
      values: Values of the pairs, where they are not the pairs' own.
    """
    kept = np.ones(len(pairs), bool) if keep is None else keep
    rows = np.array([pair.row for pair in pairs])[kept]
    counts = np.bincount(rows)
    means = np.bincount(rows, (_values(pairs) if values is None else values)[kept]) / np.maximum(counts, 1)
    return means[counts > 0]


def preference_rows(
    prompts: Sequence[Text], pairs: Iterable[Pair], names: tuple[str, str], judge: str
) -> list[dict[str, Any]]:
    """The verdicts as rows of preference data: each two texts once, with how often they met as weight.

    Beside what such a row has, `chosen_by` and `rejected_by` count whose response each was, and in how many of them;
    `judge` names the judge, and `verdicts` has each verdict in terms of chosen and rejected: its state and choice, the
    answer that was shown first, and probability and reason where there are any.
    """
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for pair in pairs:
        turned = pair.value < 0.5 or (pair.value == 0.5 and (pair.row, pair.right, pair.left) in rows)
        texts, by = ((pair.right, pair.left), names[::-1]) if turned else ((pair.left, pair.right), names)
        row = rows.setdefault((pair.row, *texts), {"pair": pair, "turned": turned, "by": (Counter(), Counter())})
        for counter, name in zip(row["by"], by, strict=True):
            counter[name] += 1
    return [_as_row(prompts[key[0]], key[1:], row) | {"judge": judge} for key, row in rows.items()]


def _as_row(prompt: Text, texts: tuple[str, str], row: dict[str, Any]) -> dict[str, Any]:
    pair: Pair = row["pair"]
    given = pair.verdicts[0].scores if len(pair.verdicts) == 1 else None
    scores = (given[1], given[0]) if given and row["turned"] else given
    sides: tuple[str, str] = ("rejected", "chosen") if row["turned"] else ("chosen", "rejected")
    value = max(pair.value, 1 - pair.value)
    probability = win_probability(pair, turned=row["turned"])
    figures: dict[str, tuple[float, ...]] = {"scores": scores} if scores else {}
    if probability is not None and value != 0.5:
        figures["win_prob"] = (probability,)
    elif 0.5 < value < 1:
        figures["win_prob"] = (value,)
    chosen, rejected = (
        response if isinstance(prompt, str) else (Message("assistant", response),) for response in texts
    )
    record = Preference(
        prompt,
        chosen,
        rejected,
        weight=float(row["by"][0].total()),
        tie=value == 0.5,
        figures=figures,
    )
    about = [_verdict_row(verdict, sides, place) for place, verdict in enumerate(pair.verdicts)]
    return to_row(record) | {
        "chosen_by": dict(row["by"][0]),
        "rejected_by": dict(row["by"][1]),
        "verdicts": about,
    }


def win_probability(pair: Pair, *, turned: bool) -> float | None:
    """The judge's probability that A's response is better, or B's where turned, over both orders; None without one."""
    known = [verdict.probability for verdict in pair.verdicts if verdict.probability is not None]
    if not known or len(known) < len(pair.verdicts):
        return None
    mean = sum(known) / len(known)
    return 1 - mean if turned else mean


def _verdict_row(verdict: Verdict, sides: tuple[str, str], place: int) -> dict[str, Any]:
    """A verdict as JSON, with the sides' names for left and right; the second one saw the right response first."""
    row: dict[str, Any] = {"state": verdict.state, "shown_first": sides[place]}
    if verdict.state == "decided":
        row["choice"] = sides[verdict.choice == "right"]
    if verdict.probability is not None:
        row["probability"] = 1 - verdict.probability if sides[0] == "rejected" else verdict.probability
    if verdict.reason is not None:
        row["reason"] = verdict.reason
    return row


def _bounds(pairs: Sequence[Pair], unknown: float) -> Float[np.ndarray, " P"]:
    """Values of pairs for side A, with `unknown` as the value of every invalid and failed verdict."""
    return np.array(
        [
            np.mean([unknown if verdict.choice in UNKNOWN else VALUE[verdict.choice] for verdict in pair.verdicts])
            if pair.verdicts
            else 0.5
            for pair in pairs
        ]
    )


def _values(pairs: Sequence[Pair]) -> Float[np.ndarray, " P"]:
    return np.array([pair.value for pair in pairs], np.float64)


def _by_order(pairs: Sequence[Pair]) -> Float[np.ndarray, "P O"]:
    """Values of pairs for side A in each order, A on the left first."""
    orders = max((len(pair.verdicts) for pair in pairs), default=0) or 1
    return np.array([[VALUE[verdict.choice] for verdict in pair.verdicts] or [0.5] * orders for pair in pairs])
