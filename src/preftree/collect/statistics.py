"""Figures of a project: progress, agreement by slice, annotators with skill, side and flags, and undecided pairs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from preftree.collect.read import read_annotators, read_settings
from preftree.crowd.agreement import Agreement, agreement, consistency
from preftree.crowd.annotators import CrowdFit, Votes, adjudication_order, fit_annotators
from preftree.crowd.detectors import check_test, side_test, too_fast
from preftree.stats.intervals import Estimate

_FOR_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5, "bad": 0.5}

_IS_LAST = """(v.shown NOT IN (SELECT shown FROM vote WHERE kind = 'undo')
    OR NOT EXISTS (SELECT 1 FROM vote w WHERE w.shown = v.shown AND w.turn = v.turn + 1))"""
"""Whether a row is the last of its `shown`; only where something was undone are there further ones."""

_BALLOTS = f"""
SELECT v.id, s.pair, s.annotator, CASE v.choice WHEN 'first' THEN 2 WHEN 'second' THEN 0 ELSE 1 END,
  s.first_is_left, v.ms, s.repeat_of IS NOT NULL, s.rowid, coalesce(o.rowid, -1)
FROM vote v JOIN shown s ON s.id = v.shown LEFT JOIN shown o ON o.id = s.repeat_of
WHERE v.kind = 'vote' AND {_IS_LAST} ORDER BY v.id
"""


@dataclass(frozen=True)
class Crowd:
    """The current votes of a project in numbers, and what the model of annotators makes of them.

    Attributes:
      pairs: Id of each pair, [I].
      people: Id of each annotator, [J].
      known: 1, 0 or .5 where a pair's answer is known, else nan, [I].
      is_gold: Whether it was known from the start, rather than decided by an adjudicator, [I].
      votes: All votes but repeats.
      ids: Id of each of them, [V].
      ms: Milliseconds of each, [V].
      fit: The model of annotators.
      first, again: Both votes of each hidden repeat, as in `Votes.for_first`, [R].
      again_by: Annotator of each, [R].
    """

    pairs: Int[np.ndarray, " I"]
    people: Int[np.ndarray, " J"]
    known: Float[np.ndarray, " I"]
    is_gold: Bool[np.ndarray, " I"]
    votes: Votes
    ids: Int[np.ndarray, " V"]
    ms: Float[np.ndarray, " V"]
    fit: CrowdFit
    first: Float[np.ndarray, " R"]
    again: Float[np.ndarray, " R"]
    again_by: Int[np.ndarray, " R"]

    @property
    def num_votes(self) -> Int[np.ndarray, " I"]:
        """Votes of each pair, [I]."""
        return np.bincount(self.votes.item, minlength=len(self.pairs))


@dataclass(frozen=True, slots=True)
class PersonFigures:
    """An annotator in figures.

    Attributes:
      id, name, pseudonym: Of the annotator.
      votes: Votes without repeats.
      ties: Share of ties and both-bad among them; None without votes.
      skill: Estimated probability of choosing the better response of a pair whose sides are balanced.
      skill_low, skill_high: The same at one standard error of the skill below and above.
      side_bias, side_error: Estimated log-odds that left adds, and its standard error.
      left: Share of left among choices of a side; None without one.
      left_p: Exact p-value of no preferred side, adjusted for the number of annotators.
      with_others: Mean probability, by the votes of others alone, that the chosen response is the better one; None
        where no pair has other votes.
      right, checks: Known answers got right and repeats answered alike, of how many.
      seconds: Median time of a vote; None without votes.
      flags: What is wrong, in words.
    """

    id: int
    name: str
    pseudonym: str
    votes: int
    ties: float | None
    skill: float
    skill_low: float
    skill_high: float
    side_bias: float
    side_error: float
    left: float | None
    left_p: float
    with_others: float | None
    right: int
    checks: int
    seconds: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class ProjectFigures:
    """A project in figures.

    Attributes:
      pairs: Pairs without a known answer from the start, and how many of them have votes, and have all that they need.
      golds: Pairs with a known answer.
      votes, repeats, skips, flags, undone: Current rows by kind, and actions that were taken back.
      needed: Votes that are needed in all.
      alpha: Agreement on all pairs but golds.
      alpha_random: Agreement on those that were picked at random, where picks are active; None where all are random.
      slices: Agreement by slice, where items have slices.
      consistency: How often people say the same of a repeat; None without repeats.
      people: Everyone who was invited, by number of votes.
      undecided: Ids of pairs that a person should decide, least certain first, with the probability for the first.
    """

    pairs: tuple[int, int, int]
    golds: int
    votes: int
    repeats: int
    skips: int
    flags: int
    undone: int
    needed: int
    alpha: Agreement
    alpha_random: Agreement | None
    slices: dict[str, Agreement]
    consistency: Estimate | None
    people: tuple[PersonFigures, ...]
    undecided: tuple[tuple[int, float], ...]


def read_crowd(project: sqlite3.Connection) -> Crowd:
    """The current votes of a project, and the model of its annotators."""
    rows = project.execute(_BALLOTS).fetchall()
    pair_rows = project.execute("SELECT id, gold, picked_by FROM pair ORDER BY id").fetchall()
    pairs = np.array([row[0] for row in pair_rows], np.int64)
    known = np.array([np.nan if gold is None else _FOR_FIRST[gold] for _, gold, _ in pair_rows], np.float64)
    is_gold = np.array([gold is not None and by in ("gold", None) for _, gold, by in pair_rows], np.bool_)
    people = np.array([row[0] for row in project.execute("SELECT id FROM annotator ORDER BY id")], np.int64)
    ids, pair, person, choice, left, ms, is_repeat, shown, earlier = np.array(rows, np.int64).reshape(-1, 9).T
    once = is_repeat == 0
    item, annotator, for_first = np.searchsorted(pairs, pair), np.searchsorted(people, person), choice / 2
    votes = Votes(item[once], annotator[once], for_first[once], np.where(left[once] == 1, 1.0, -1.0))
    order = np.argsort(shown)
    place = np.minimum(np.searchsorted(shown, earlier, sorter=order), max(len(shown) - 1, 0))
    before = order[place] if len(order) else place
    again = np.flatnonzero(~once & (shown[before] == earlier))  # the first vote may have been taken back
    before = before[again]
    return Crowd(
        pairs,
        people,
        known,
        is_gold,
        votes,
        ids[once],
        ms[once].astype(np.float64),
        fit_annotators(votes, len(pairs), len(people), known),
        for_first[before],
        for_first[again],
        annotator[again],
    )


def figures_of_project(project: sqlite3.Connection, crowd: Crowd | None = None) -> ProjectFigures:
    """All figures of a project."""
    crowd = crowd or read_crowd(project)
    settings = read_settings(project)
    count, open_pairs = crowd.num_votes, ~crowd.is_gold
    query = f"SELECT kind, count(*) FROM vote v WHERE kind IN ('skip', 'flag') AND {_IS_LAST} GROUP BY kind"
    kinds = dict(project.execute(query).fetchall())
    undone = project.execute("SELECT count(*) FROM vote WHERE kind = 'undo'").fetchone()[0]
    pair_rows = project.execute(
        "SELECT i.slice, p.picked_by FROM pair p JOIN item i ON i.id = p.item ORDER BY p.id"
    ).fetchall()
    names, group = np.unique([name or "" for name, _ in pair_rows], return_inverse=True)
    at_random = np.array([by == "random" for _, by in pair_rows], np.bool_)
    order = adjudication_order(crowd.fit.win_prob, np.where(np.isnan(crowd.known), count, 0))
    return ProjectFigures(
        pairs=(
            int(open_pairs.sum()),
            int((open_pairs & (count > 0)).sum()),
            int((open_pairs & (count >= settings.overlap)).sum()),
        ),
        golds=int(crowd.is_gold.sum()),
        votes=len(crowd.ids),
        repeats=len(crowd.again),
        skips=kinds.get("skip", 0),
        flags=kinds.get("flag", 0),
        undone=undone,
        needed=int(open_pairs.sum()) * settings.overlap,
        alpha=_alpha(crowd, open_pairs),
        alpha_random=None if settings.pick == "random" else _alpha(crowd, open_pairs & at_random),
        slices={str(name): _alpha(crowd, open_pairs & (group == number)) for number, name in enumerate(names) if name},
        consistency=consistency(crowd.first, crowd.again),
        people=_people(project, crowd),
        undecided=tuple((int(crowd.pairs[i]), float(crowd.fit.win_prob[i])) for i in order),
    )


def _alpha(crowd: Crowd, inside: Bool[np.ndarray, " I"]) -> Agreement:
    kept = inside[crowd.votes.item]
    return agreement(crowd.votes.item[kept], crowd.votes.for_first[kept])


def _people(project: sqlite3.Connection, crowd: Crowd) -> tuple[PersonFigures, ...]:
    num, votes, fit = len(crowd.people), crowd.votes, crowd.fit
    count = np.bincount(votes.annotator, minlength=num)
    sided = votes.for_first != 0.5
    left = (votes.for_first == 1) == (votes.side == 1)
    on_left, on_side = (np.bincount(votes.annotator[kept], minlength=num) for kept in (sided & left, sided))
    sides = side_test(on_left, on_side)
    known = crowd.known[votes.item]
    asked = crowd.is_gold[votes.item] & (known != 0.5)
    right = np.bincount(votes.annotator[asked & (known == votes.for_first)], minlength=num)
    same = np.bincount(crowd.again_by[crowd.first == crowd.again], minlength=num)
    golds, repeats = np.bincount(votes.annotator[asked], minlength=num), np.bincount(crowd.again_by, minlength=num)
    tested, fast = check_test(right, golds, same, repeats), too_fast(votes.annotator, crowd.ms, num)
    joined = sided & (crowd.num_votes[votes.item] > 1)
    agreed = np.where(votes.for_first == 1, fit.by_others, 1 - fit.by_others)
    annotators, people = read_annotators(project), []
    for j, number in enumerate(crowd.people.tolist()):
        mine = votes.annotator == j
        flags = {
            f"prefers {'left' if sides.left[j] > 0.5 else 'right'}": bool(sides.flagged[j]),
            "answers at random": bool(tested.at_random[j]),
            "answers against what is known": bool(tested.contrary[j]),
            "too fast to have read": bool(fast[j]),
        }
        with_others = agreed[mine & joined]
        people.append(
            PersonFigures(
                number,
                annotators[number].name,
                annotators[number].pseudonym,
                votes=int(count[j]),
                ties=float((~sided[mine]).mean()) if count[j] else None,
                skill=_chance(fit.skill[j], fit.side_bias[j]),
                skill_low=_chance(fit.skill[j] - fit.skill_error[j], fit.side_bias[j]),
                skill_high=_chance(fit.skill[j] + fit.skill_error[j], fit.side_bias[j]),
                side_bias=float(fit.side_bias[j]),
                side_error=float(fit.side_error[j]),
                left=float(sides.left[j]) if on_side[j] else None,
                left_p=float(sides.p[j]),
                with_others=float(with_others.mean()) if len(with_others) else None,
                right=int(right[j] + same[j]),
                checks=int(golds[j] + repeats[j]),
                seconds=float(np.median(crowd.ms[mine])) / 1000 if count[j] else None,
                flags=tuple(words for words, raised in flags.items() if raised),
            )
        )
    return tuple(sorted(people, key=lambda person: (-person.votes, person.id)))


def _chance(skill: float, side_bias: float) -> float:
    """Probability of choosing the better response where it is left as often as right."""
    return float(expit(skill + side_bias) + expit(skill - side_bias)) / 2
