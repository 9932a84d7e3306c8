"""How good judges are, on prompts whose right answers are known: accuracy, biases, calibration, and people beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from preftree.crowd.annotators import Votes
from preftree.crowd.copies import fit_once_each
from preftree.errors import DataError
from preftree.evaluate.judging.benchmark_scores import AnswerScores, best_of, ties_score
from preftree.evaluate.judging.labelled import LabelledItem
from preftree.judges.pairwise import UNKNOWN, VALUE, Judge, ask
from preftree.judges.panel import panel_votes
from preftree.records import Comparison, Verdict
from preftree.stats.calibration import Calibration, calibration
from preftree.stats.intervals import Estimate, clustered_mean, clustered_share
from preftree.stats.length_control import Controlled, control_length

LENGTHS = (
    ("right one less than half as long", -np.inf, -0.5),
    ("right one shorter", -0.5, -0.1),
    ("of similar length", -0.1, 0.1),
    ("right one longer", 0.1, 0.5),
    ("right one more than twice as long", 0.5, np.inf),
)
"""Bins of (length of the right answer - that of the wrong one) / the longer one: lowest, excluded unless similar."""


class Part(NamedTuple):
    """Accuracy on some pairs: their number, and the share that was judged right."""

    pairs: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class JudgeFigures:
    """What a judge knows, and what it likes.

    Attributes:
      judge: Its name, as it was given.
      orders: Orders in which each pair was shown.
      accuracy: Share of pairs whose right answer wins, a tie and what cannot be read as one half, the mean of both
        orders; each prompt counts once, and intervals are by prompt.
      both_right: Share of pairs that are right in every order: ties and contradictions are not.
      unknown: Verdicts that are invalid or failed.
      best_of, best_of_items: Share of prompts with one right and several wrong answers whose right one comes first, and
        their number; None where there is none.
      ties_score: RewardBench 2's score of prompts with several right answers, for judges that score single answers.
      ties_called: Share of pairs of equally good answers that were called ties; None where there is none.
      left_rate: Share of left among decided verdicts where both orders were shown; 1/2 without a preferred side.
      unbiased: Accuracy with neither a preferred side nor a liking for length, and log-odds that a longer and a left
        answer gains, by regression.
      calibration: Calibration of the probabilities, or of sigmoid(difference of scores); None where it has neither.
      subsets, lengths: Accuracy by subset, and by how much longer the right answer is.
      with_people: How often it agrees with one person's vote; None without votes.
    """

    judge: str
    orders: int
    accuracy: Estimate
    both_right: Estimate
    unknown: int
    best_of: Estimate | None
    best_of_items: int
    ties_score: float | None
    ties_called: float | None
    left_rate: Estimate | None
    unbiased: Controlled
    calibration: Calibration | None
    subsets: dict[str, Part]
    lengths: dict[str, Part]
    with_people: Estimate | None


@dataclass(frozen=True, slots=True)
class JudgesCompared:
    """Judges on the same items.

    Attributes:
      data: The items' file; "" for those that come along.
      items, pairs: Numbers of prompts with answers, and of pairs of a right and a wrong answer.
      judges: Their figures, in the order given.
      differences: Accuracy of the first judge minus that of each other one, on the same pairs, by name.
      people: How often two people agree on a pair, which no judge can be asked to exceed; None without votes.
      weighed: Probability that each judge and each person is right, by the model of annotators from the votes of all
        alone, whatever is called right; empty without votes of people.
      copies: Judges and people who err together, and the correlation of their errors.
    """

    data: str
    items: int
    pairs: int
    judges: tuple[JudgeFigures, ...]
    differences: dict[str, Estimate]
    people: Estimate | None
    weighed: dict[str, Estimate]
    copies: list[tuple[str, str, float]]

    def as_json(self) -> dict[str, Any]:
        """These figures as a JSON object; an interval is value, low and high."""
        return _plain(asdict(self)) | {"judges": [_plain(asdict(one)) for one in self.judges]}


def compare_judges(
    judges: Sequence[Judge], names: Sequence[str], items: Sequence[LabelledItem], data: str
) -> JudgesCompared:
    """Judge all pairs of right and wrong answers, with every judge.

    Args:
      judges: The judges.
      names: How to call each.
      items: Prompts with answers.
      data: Name of the items' file.
    Raises:
      DataError: the items have fewer than two prompts with a right and a wrong answer.
      JudgeError: a judge failed.
    """
    pairs = _pairs_of(items)
    if len(set(pairs.prompt.tolist())) < 2:
        raise DataError(
            f"{data} has {len(set(pairs.prompt.tolist()))} prompts with a right and a wrong answer, and an interval "
            "over prompts needs two; add prompts"
        )
    answered = [_answer(judge, pairs, items) for judge in judges]
    figures = [_figures(name, one, pairs, items) for name, one in zip(names, answered, strict=True)]
    differences = {
        name: clustered_mean(answered[0].value - other.value, pairs.weight, pairs.prompt)
        for name, other in zip(names[1:], answered[1:], strict=True)
    }
    people, (weighed, copies) = _people(items), _weigh(names, answered, pairs, items)
    return JudgesCompared(data, len(items), len(pairs.prompt), tuple(figures), differences, people, weighed, copies)


class _Pairs(NamedTuple):
    """Every right with every wrong answer of an item.

    Attributes:
      comparisons: The right answer left.
      item, prompt: Numbers of each pair's item and prompt, [P].
      place: Numbers of its right and its wrong answer within the item, [P, 2].
      weight: 1 over the number of the item's pairs, [P].
      gap: Characters that the right answer is longer, [P].
    """

    comparisons: list[Comparison]
    item: Int[np.ndarray, " P"]
    prompt: Int[np.ndarray, " P"]
    place: Int[np.ndarray, "P 2"]
    weight: Float[np.ndarray, " P"]
    gap: Float[np.ndarray, " P"]


class _Answered(NamedTuple):
    """Verdicts of a judge, and the value of each pair for the right answer, [P]."""

    orders: int
    verdicts: list[tuple[Verdict, ...]]
    ties: list[tuple[Verdict, ...]]
    value: Float[np.ndarray, " P"]


def _pairs_of(items: Sequence[LabelledItem]) -> _Pairs:
    comparisons, item, place, weight = [], [], [], []
    for number, one in enumerate(items):
        for r, right in enumerate(one.right):
            for w, wrong in enumerate(one.wrong):
                comparisons.append(Comparison(one.prompt, right, wrong))
                item.append(number)
                place.append((r, w))
                weight.append(1 / (len(one.right) * len(one.wrong)))
    keys = [items[number].key for number in item]
    return _Pairs(
        comparisons,
        np.array(item, np.int64),
        np.unique(keys, return_inverse=True)[1],
        np.array(place, np.int64).reshape(-1, 2),
        np.array(weight, np.float64),
        np.array([len(one.left) - len(one.right) for one in comparisons], np.float64),
    )


def _answer(judge: Judge, pairs: _Pairs, items: Sequence[LabelledItem]) -> _Answered:
    even = [Comparison(one.prompt, *one.wrong[:2]) for one in items if one.is_tie and len(one.wrong) > 1]
    verdicts = ask(judge, [*pairs.comparisons, *even])
    real, ties = verdicts[: len(pairs.comparisons)], verdicts[len(pairs.comparisons) :]
    value = np.array([np.mean([VALUE[verdict.choice] for verdict in both]) for both in real], np.float64)
    return _Answered(2 if judge.sees_order else 1, real, ties, value)


def _figures(name: str, answered: _Answered, pairs: _Pairs, items: Sequence[LabelledItem]) -> JudgeFigures:
    value = answered.value
    right = np.array([all(verdict.choice == "left" for verdict in both) for both in answered.verdicts], np.float64)
    every = np.ones(len(value), bool)
    relative = pairs.gap / np.maximum([max(len(one.left), len(one.right)) for one in pairs.comparisons], 1)
    similar = np.abs(relative) <= LENGTHS[2][2]
    bins = {
        title: similar if low == -LENGTHS[2][2] else (relative > low) & (relative <= high) & ~similar
        for title, low, high in LENGTHS
    }
    subset = np.array([items[number].subset for number in pairs.item])
    first = [number for number, one in enumerate(items) if len(one.right) == 1 and len(one.wrong) > 1]
    ranked = np.array([best_of(value[pairs.item == number]) for number in first])
    prompts = np.array([items[number].key for number in first])
    table = np.array([[VALUE[verdict.choice] for verdict in both] for both in answered.verdicts])
    chances = _chances(answered.verdicts)
    said = [verdict.choice == "tie" for both in answered.ties for verdict in both]
    return JudgeFigures(
        judge=name,
        orders=answered.orders,
        accuracy=_share(value, pairs, every),
        both_right=_share(right, pairs, every),
        unknown=sum(verdict.choice in UNKNOWN for both in answered.verdicts for verdict in both),
        best_of=clustered_share(ranked, np.ones(len(ranked)), prompts) if len(ranked) else None,
        best_of_items=len(ranked),
        ties_score=_ties_score(answered, pairs, items),
        ties_called=float(np.mean(said)) if said else None,
        left_rate=_left_rate(answered, pairs),
        unbiased=control_length(table, pairs.gap, pairs.prompt),
        calibration=None if chances is None else calibration(chances, pairs.weight),
        subsets={
            name: Part(int((subset == name).sum()), _share(value, pairs, subset == name))
            for name in dict.fromkeys(subset.tolist())
            if name
        },
        lengths={
            title: Part(int(kept.sum()), _share(value, pairs, kept)) for title, kept in bins.items() if kept.any()
        },
        with_people=_with_people(value, pairs, items),
    )


def _weigh(
    names: Sequence[str], answered: Sequence[_Answered], pairs: _Pairs, items: Sequence[LabelledItem]
) -> tuple[dict[str, Estimate], list[tuple[str, str, float]]]:
    """Judges and people in one model of annotators: who is right how often, and who errs together."""
    by_people = [(place, vote) for place, number in enumerate(pairs.item.tolist()) for vote in items[number].votes]
    if not by_people:
        return {}, []
    of_judges = panel_votes([one.verdicts for one in answered])
    everyone = [*names, *sorted({vote.by for _, vote in by_people})]
    number_of = {name: place for place, name in enumerate(everyone)}
    of_people = Votes(
        np.array([place for place, _ in by_people]),
        np.array([number_of[vote.by] for _, vote in by_people]),
        np.array([vote.value for _, vote in by_people]),
        np.array([vote.side for _, vote in by_people]),
    )
    votes = Votes(*(np.concatenate(both) for both in zip(of_judges, of_people, strict=True)))
    panel = fit_once_each(votes, len(pairs.item), len(everyone))
    ends = [panel.fit.skill + step * panel.fit.skill_error for step in (0, -1.96, 1.96)]
    weighed = {name: Estimate(*expit([end[place] for end in ends]).tolist()) for name, place in number_of.items()}
    return weighed, [(everyone[pair.kept], everyone[pair.copy], pair.correlation) for pair in panel.copies]


def _share(values: Float[np.ndarray, " P"], pairs: _Pairs, kept: Bool[np.ndarray, " P"]) -> Estimate:
    return clustered_share(values[kept], pairs.weight[kept], pairs.prompt[kept])


def _left_rate(answered: _Answered, pairs: _Pairs) -> Estimate | None:
    """Share of left among decided verdicts of pairs that were decided in both orders."""
    if answered.orders < 2:
        return None
    decided = [all(verdict.state == "decided" for verdict in both) for both in answered.verdicts]
    # The right answer stands left in the first order, and right in the second.
    lefts = [((one.choice == "left") + (two.choice == "right")) / 2 for one, two in answered.verdicts]
    kept = np.array(decided)
    return _share(np.array(lefts), pairs, kept) if kept.any() else None


def _chances(verdicts: Sequence[tuple[Verdict, ...]]) -> Float[np.ndarray, " P"] | None:
    """Probability of the right answer, the mean over orders; None where one has neither probability nor scores."""
    chances = []
    for both in verdicts:
        given = [_chance(verdict) for verdict in both]
        if any(chance is None for chance in given):
            return None
        chances.append(np.mean([chance for chance in given if chance is not None]))
    return np.array(chances)


def _chance(verdict: Verdict) -> float | None:
    if verdict.probability is not None or verdict.scores is None:
        return verdict.probability
    return float(expit(verdict.scores[0] - verdict.scores[1]))


def _ties_score(answered: _Answered, pairs: _Pairs, items: Sequence[LabelledItem]) -> float | None:
    if answered.orders > 1 or any(both[0].scores is None for both in answered.verdicts):
        return None
    groups: dict[str, dict[str, AnswerScores]] = {"ref": {}, "tied": {}}
    for number, one in enumerate(items):
        kind, _, name = one.name.partition(":")
        if kind in groups and name and one.right and one.wrong:
            scores = AnswerScores(np.zeros(len(one.right)), np.zeros(len(one.wrong)))
            for place in np.flatnonzero(pairs.item == number).tolist():
                given = answered.verdicts[place][0].scores
                assert given is not None
                for side in (0, 1):
                    scores[side][pairs.place[place, side]] = given[side]
            groups[kind][name] = scores
    return ties_score(groups["ref"], groups["tied"]) if groups["ref"].keys() & groups["tied"].keys() else None


def _people(items: Sequence[LabelledItem]) -> Estimate | None:
    """How often two people agree on a pair; a tie agrees with anything by half."""
    values, keys = [], []
    for one in items:
        count = len(one.votes)
        if count > 1:
            votes = _values(one)
            same = np.outer(votes, votes) + np.outer(1 - votes, 1 - votes)
            values.append(float((same.sum() - np.trace(same)) / (count * (count - 1))))
            keys.append(one.key)
    return clustered_share(np.array(values), np.ones(len(values)), np.array(keys)) if len(set(keys)) > 1 else None


def _values(one: LabelledItem) -> Float[np.ndarray, " V"]:
    return np.array([vote.value for vote in one.votes])


def _with_people(value: Float[np.ndarray, " P"], pairs: _Pairs, items: Sequence[LabelledItem]) -> Estimate | None:
    mine = [(place, items[number]) for place, number in enumerate(pairs.item.tolist()) if items[number].votes]
    if len({one.key for _, one in mine}) < 2:
        return None
    means = [float(_values(one).mean()) for _, one in mine]
    own, theirs = value[[place for place, _ in mine]], np.array(means)
    agree = own * theirs + (1 - own) * (1 - theirs)
    return clustered_share(agree, np.ones(len(mine)), np.array([one.key for _, one in mine]))


def _plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if (fields := getattr(value, "_asdict", None)) is not None:
        return _plain(fields())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
