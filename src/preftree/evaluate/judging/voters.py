"""Voters who favour a model, or work against one, beyond what chance and everyone else's votes explain."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.special import expit

from preftree.evaluate.judging.battles import Battles
from preftree.stats.bradley_terry import components, strengths

FEWEST_VOTES = 8
"""Battles of one voter with one model, below which that voter alone says nothing."""

LEVEL = 0.01
"""Chance that any voter, and any group, of honest ones is flagged."""

Leaning: TypeAlias = Literal["for", "against"]

_SUSPECT = 0.05
_EXACT = 2000


class Flag(NamedTuple):
    """Voters whose votes for or against a model are no chance.

    Attributes:
      model: The model.
      leaning: Whether they favour it or work against it.
      voters: Their names.
      battles: Their battles with it.
      won: Share of these that it won, a tie as one half.
      expected: What everyone else's votes predict.
      p: Probability of as much among honest voters, adjusted for the number of tests.
    """

    model: str
    leaning: Leaning
    voters: tuple[str, ...]
    battles: int
    won: float
    expected: float
    p: float


def flag_voters(battles: Battles) -> list[Flag]:
    """Voters and groups of voters whose results with a model everyone else's votes do not predict.

    For each voter and model the number of wins is compared with the chances under Bradley-Terry strengths (the exact
    distribution of a sum of unequal chances). One voter is flagged where Holm's adjusted p-value is below `LEVEL`. Many
    who vote a little are flagged as a group where more of them lie below .05 for one model than honest voters would.
    Voters of fewer than `FEWEST_VOTES` votes are tested together, as one. Strengths come from the voters that are not
    flagged; that is repeated once.

    A voter of another taste looks the same: a flag asks for a look.
    """
    if len(battles.voters) < 2:
        return []
    names, voter = _named_voters(battles)
    flags: list[Flag] = []
    for _ in range(2):
        flags = _flags(battles, names, voter, ~flagged_battles(battles, flags))
    return flags


def flagged_battles(battles: Battles, flags: list[Flag]) -> Bool[np.ndarray, " B"]:
    """Which battles were judged by a flagged voter, [B]."""
    names = {name for flag in flags for name in flag.voters}
    return np.isin(battles.voter, [number for number, name in enumerate(battles.voters) if name in names])


class _Result(NamedTuple):
    """A voter with a model: battles, wins, expected wins, and the p-values of so many and of so few."""

    voter: int
    battles: int
    won: float
    expected: float
    many: float
    few: float


def _named_voters(battles: Battles) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """The voters to test, those of few votes as one; and the number among them of each battle's voter."""
    votes = np.bincount(battles.voter, minlength=len(battles.voters))
    often = np.flatnonzero(votes >= FEWEST_VOTES).tolist()
    rare = np.flatnonzero(votes < FEWEST_VOTES).tolist()
    place = np.full(len(votes), len(often))
    place[often] = np.arange(len(often))
    names = [(battles.voters[number],) for number in often]
    return [*names, *([tuple(battles.voters[number] for number in rare)] if rare else [])], place[battles.voter]


def _flags(
    battles: Battles, names: list[tuple[str, ...]], voter: np.ndarray, honest: Bool[np.ndarray, " B"]
) -> list[Flag]:
    wins = battles.wins(honest)
    if len(components(wins)) > 1:
        return []
    skill = strengths(wins)
    results = [_results(battles, voter, skill, model) for model in range(len(battles.models))]
    leanings: tuple[Leaning, ...] = ("for", "against")
    tests: list[tuple[float, int, Leaning, _Result]] = [
        (result.many if leaning == "for" else result.few, model, leaning, result)
        for model, some in enumerate(results)
        for result in some
        for leaning in leanings
    ]
    tests.sort(key=lambda test: test[0])
    flags: list[Flag] = []
    alone: set[int] = set()
    worst = 0.0
    for rank, (p, model, leaning, result) in enumerate(tests):
        worst = max(worst, p * (len(tests) - rank))
        if worst >= LEVEL:
            break
        if result.voter not in alone:  # who favours one model works against the others: the clearest test is enough
            flags.append(_flag(battles, model, leaning, [result], names, worst))
            alone.add(result.voter)
    for model, some in enumerate(results):
        for leaning in leanings:
            if group := _group(battles, model, leaning, [one for one in some if one.voter not in alone], names):
                flags.append(group)
    return flags


def _results(battles: Battles, voter: np.ndarray, skill: Float[np.ndarray, " M"], model: int) -> list[_Result]:
    mine = (battles.first == model) | (battles.second == model)
    turned = battles.second[mine] == model
    value = np.where(turned, 1 - battles.value[mine], battles.value[mine])
    other = np.where(turned, battles.first[mine], battles.second[mine])
    chance = expit(skill[model] - skill[other])
    found = []
    for number in np.unique(voter[mine]).tolist():
        of_voter = voter[mine] == number
        if of_voter.sum() < FEWEST_VOTES:
            continue
        won, chances = float(value[of_voter].sum()), chance[of_voter]
        many, few = _tails(won, chances)
        found.append(_Result(number, int(of_voter.sum()), won, float(chances.sum()), many, few))
    return found


def _tails(won: float, chances: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """P(S >= won) and P(S <= won) of a sum S of independent events."""
    if len(chances) > _EXACT:
        spread = float(np.sqrt((chances * (1 - chances)).sum()))
        z = (won - float(chances.sum())) / spread
        return float(stats.norm.sf(z)), float(stats.norm.cdf(z))
    mass = np.zeros(len(chances) + 1)
    mass[0] = 1
    for chance in chances:
        mass[1:] = mass[1:] * (1 - chance) + mass[:-1] * chance
        mass[0] *= 1 - chance
    return float(mass[int(np.ceil(won)) :].sum()), float(mass[: int(np.floor(won)) + 1].sum())


def _group(
    battles: Battles,
    model: int,
    leaning: Leaning,
    results: list[_Result],
    names: list[tuple[str, ...]],
) -> Flag | None:
    below = [result for result in results if (result.many if leaning == "for" else result.few) < _SUSPECT]
    if len(below) < 2:
        return None
    num_tests = 2 * len(battles.models)
    p = min(1.0, float(stats.binom.sf(len(below) - 1, len(results), _SUSPECT)) * num_tests)
    return _flag(battles, model, leaning, below, names, p) if p < LEVEL else None


def _flag(
    battles: Battles,
    model: int,
    leaning: Leaning,
    results: list[_Result],
    names: list[tuple[str, ...]],
    p: float,
) -> Flag:
    count = sum(result.battles for result in results)
    return Flag(
        battles.models[model],
        leaning,
        tuple(name for result in results for name in names[result.voter]),
        count,
        sum(result.won for result in results) / count,
        sum(result.expected for result in results) / count,
        p,
    )
