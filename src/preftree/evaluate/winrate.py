"""Win rate of one side's responses over another's, with its interval.

Sample i of one side meets sample i of the other; a side with fewer samples starts again with its first. A pair is
worth 1 to the side that wins, 1/2 in a tie, 0 to the other; a prompt is worth the mean of its pairs, and the win rate
is the mean over prompts, which are the independent units of its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from preftree.data.rows.conversion import to_row
from preftree.evaluate.answers import Answers
from preftree.judges.pairwise import VALUE, Judge, ask, turn
from preftree.records import Comparison, Message, Preference, Text, Verdict
from preftree.stats.intervals import Estimate, share_interval
from preftree.stats.length_control import Controlled, control_length

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
      invalid: Verdicts that could not be read; they count 1/2.
      agreement: Share of pairs on which both orders had one verdict; None where one was shown.
      left_rate: Share of pairs in which the left response was preferred, a tie 1/2; None where one order was shown.
      characters_a, characters_b: Mean length of a response.
      similar: Win rate among pairs of similar length; None where fewer than two prompts have one.
      similar_pairs: Number of these pairs.
      controlled: Win rate at equal length and with no preferred side, from all pairs, or why there is none.
      finished_a, finished_b: Share of the responses that the model ended itself; None where not known.
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
    invalid: int
    agreement: float | None
    left_rate: float | None
    characters_a: float
    characters_b: float
    similar: Estimate | None
    similar_pairs: int
    controlled: Controlled
    finished_a: float | None
    finished_b: float | None

    def as_json(self) -> dict[str, Any]:
        """The figures as a JSON object; an interval is value, low and high."""
        figures = asdict(self)
        for name in ("rate", "similar"):
            figures[name] = figures[name] and Estimate(*figures[name])._asdict()
        rate, effect, reason = self.controlled
        return figures | {
            "controlled": rate and rate._asdict(),
            "length_effect": effect,
            "not_controlled": reason or None,
        }


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


def count_wins(judge: Judge, a: Answers, b: Answers, pairs: Sequence[Pair]) -> WinRate:
    """The figures of judged pairs.

    Args:
      judge: The judge.
      a, b: The sides.
      pairs: From `judge_pairs`.
    """
    values, lengths = _values(pairs), np.array([[len(pair.left), len(pair.right)] for pair in pairs], np.float64)
    similar = np.abs(lengths[:, 0] - lengths[:, 1]) <= SIMILAR * lengths.max(axis=1)
    verdicts = [verdict for pair in pairs for verdict in pair.verdicts]
    twice = [pair.verdicts for pair in pairs if len(pair.verdicts) == 2]
    # The second verdict is already swapped: the response shown on the left there is the right one here.
    lefts = [(VALUE[first.choice] + 1 - VALUE[second.choice]) / 2 for first, second in twice]
    by_prompt = by_row(pairs)
    near = by_row(pairs, similar)
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
        invalid=sum(verdict.choice == "invalid" for verdict in verdicts),
        agreement=float(np.mean([first.choice == second.choice for first, second in twice])) if twice else None,
        left_rate=float(np.mean(lefts)) if twice else None,
        characters_a=float(lengths[:, 0].mean()),
        characters_b=float(lengths[:, 1].mean()),
        similar=share_interval(near) if len(near) > 1 else None,
        similar_pairs=int(similar.sum()),
        controlled=_controlled(pairs),
        finished_a=a.finished,
        finished_b=b.finished,
    )


def by_row(pairs: Sequence[Pair], keep: Bool[np.ndarray, " P"] | None = None) -> Float[np.ndarray, " X"]:
    """Value of each prompt for A, the mean over its kept pairs, in order; prompts without a kept pair are left out."""
    kept = np.ones(len(pairs), bool) if keep is None else keep
    rows = np.array([pair.row for pair in pairs])[kept]
    counts = np.bincount(rows)
    return (np.bincount(rows, _values(pairs)[kept]) / np.maximum(counts, 1))[counts > 0]


def _controlled(pairs: Sequence[Pair]) -> Controlled:
    """The win rate at equal length; a prompt counts by the means over its pairs."""
    orders = max((len(pair.verdicts) for pair in pairs), default=0) or 1
    table = np.array(
        [[VALUE[verdict.choice] for verdict in pair.verdicts] or [0.5] * orders for pair in pairs], np.float64
    )
    gaps = np.array([len(pair.left) - len(pair.right) for pair in pairs], np.float64)
    rows = np.unique([pair.row for pair in pairs], return_inverse=True)[1]
    counts = np.bincount(rows)
    values = [np.bincount(rows, column) / counts for column in table.T]
    return control_length(np.stack(values, axis=1), np.bincount(rows, gaps) / counts)


def preference_rows(prompts: Sequence[Text], pairs: Iterable[Pair], names: tuple[str, str]) -> list[dict[str, Any]]:
    """The verdicts as rows of preference data: each two texts once, with how often they met as weight.

    Beside what such a row has, `chosen_by` and `rejected_by` count whose response each was, and in how many of them.
    """
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for pair in pairs:
        turned = pair.value < 0.5 or (pair.value == 0.5 and (pair.row, pair.right, pair.left) in rows)
        texts, by = ((pair.right, pair.left), names[::-1]) if turned else ((pair.left, pair.right), names)
        row = rows.setdefault((pair.row, *texts), {"pair": pair, "turned": turned, "by": (Counter(), Counter())})
        for counter, name in zip(row["by"], by, strict=True):
            counter[name] += 1
    return [_as_row(prompts[key[0]], key[1:], row) for key, row in rows.items()]


def _as_row(prompt: Text, texts: tuple[str, str], row: dict[str, Any]) -> dict[str, Any]:
    pair: Pair = row["pair"]
    given = pair.verdicts[0].scores if len(pair.verdicts) == 1 else None
    scores = (given[1], given[0]) if given and row["turned"] else given
    value = max(pair.value, 1 - pair.value)
    figures: dict[str, tuple[float, ...]] = {"scores": scores} if scores else {}
    if 0.5 < value < 1:
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
    return to_row(record) | {"chosen_by": dict(row["by"][0]), "rejected_by": dict(row["by"][1])}


def _values(pairs: Sequence[Pair]) -> Float[np.ndarray, " P"]:
    return np.array([pair.value for pair in pairs], np.float64)
