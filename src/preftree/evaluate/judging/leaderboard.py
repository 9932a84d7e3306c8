"""Leaderboard of models from verdicts: Bradley-Terry strengths with intervals by prompt, and ranks with theirs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from preftree.errors import DataError
from preftree.evaluate.judging.battles import Battles
from preftree.evaluate.judging.voters import Flag, flag_voters, flagged_battles
from preftree.stats.bradley_terry import components, resampled_strengths, strengths
from preftree.stats.intervals import Estimate

RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place.

    Attributes:
      model: Its name.
      battles: Comparisons with other models.
      strength: Log-odds against a model of mean strength, with its 95 % interval by prompt.
      field_rate: Mean probability of beating the others, with its 95 % interval by prompt.
      rank: 1 for the strongest.
      best, worst: Ranks that the verdicts do not rule out: models count as above or below where the 95 % interval of
        the difference says so.
      rank_without: Rank without the votes of flagged voters; None where nobody is flagged, or where it does not exist.
    """

    model: str
    battles: int
    strength: Estimate
    field_rate: Estimate
    rank: int
    best: int
    worst: int
    rank_without: int | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Models in order of strength.

    Attributes:
      standings: The strongest first.
      battles, prompts, voters: Numbers of what it rests on; voters without a name count as one.
      flags: Voters whose votes are no chance.
      left_out: What was read and is no battle, by reason.
    """

    standings: tuple[Standing, ...]
    battles: int
    prompts: int
    voters: int
    flags: tuple[Flag, ...]
    left_out: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The leaderboard as a JSON object; an interval is value, low and high."""
        standings = [
            asdict(standing) | {name: getattr(standing, name)._asdict() for name in ("strength", "field_rate")}
            for standing in self.standings
        ]
        return asdict(self) | {"standings": standings, "flags": [flag._asdict() for flag in self.flags]}


def rank_models(battles: Battles, *, seed: int = 0, resamples: int = RESAMPLES) -> Leaderboard:
    """Rank models by their battles.

    Raises:
      DataError: the models do not form one group within which each has taken a point from each other, directly or
        through others; or there is one prompt, which says nothing of others.
      ConfigError: the extra `stats` is not installed.
    """
    wins = battles.wins()
    _check_connected(battles, wins)
    num_prompts = int(battles.prompt.max()) + 1
    if num_prompts < 2:
        raise DataError("all verdicts are on one prompt, and intervals by prompt need two; add prompts")
    skill = strengths(wins)
    drawn = resampled_strengths(
        battles.first,
        battles.second,
        battles.points(),
        battles.prompt,
        len(battles.models),
        seed=seed,
        resamples=resamples,
    )
    apart = np.quantile(drawn[:, :, None] - drawn[:, None, :], [0.025, 0.975], axis=0)
    best, worst = 1 + (apart[1] < 0).sum(1), len(skill) - (apart[0] > 0).sum(1)
    flags = flag_voters(battles)
    without = _ranks_without(battles, flags)
    ends, field_ends = (np.quantile(values, [0.025, 0.975], axis=0) for values in (drawn, _field_rates(drawn)))
    field, rank = _field_rates(skill[None])[0], _ranks(skill)
    counts = (wins + wins.T).sum(1)
    standings = [
        Standing(
            battles.models[number],
            round(counts[number]),
            Estimate(float(skill[number]), *ends[:, number].tolist()),
            Estimate(float(field[number]), *field_ends[:, number].tolist()),
            int(rank[number]),
            int(best[number]),
            int(worst[number]),
            None if without is None else int(without[number]),
        )
        for number in np.argsort(-skill, kind="stable")
    ]
    return Leaderboard(
        tuple(standings), round(battles.weight.sum()), num_prompts, len(battles.voters), tuple(flags), battles.left_out
    )


def _check_connected(battles: Battles, wins: Float[np.ndarray, "M M"]) -> None:
    groups = components(wins)
    if len(groups) == 1:
        return
    named = "; ".join(", ".join(battles.models[number] for number in group) for group in groups)
    first, second = groups[0], groups[1]
    between = wins[np.ix_(first, second)].sum() + wins[np.ix_(second, first)].sum()
    why = "one side has won every battle between them" if between else "there is no battle between them"
    raise DataError(
        f"the verdicts do not connect the models: {named} are {len(groups)} groups, and {why}, so how far they are "
        "apart cannot be said; add verdicts between them, or rank each group alone"
    )


def _field_rates(skill: Float[np.ndarray, "R M"]) -> Float[np.ndarray, "R M"]:
    """Mean probability of beating each other model."""
    chances = expit(skill[:, :, None] - skill[:, None, :])
    return (chances.sum(2) - 0.5) / (skill.shape[1] - 1)


def _ranks(skill: Float[np.ndarray, " M"]) -> np.ndarray:
    return 1 + (skill[None, :] > skill[:, None] + 1e-9).sum(1)


def _ranks_without(battles: Battles, flags: list[Flag]) -> np.ndarray | None:
    if not flags:
        return None
    wins = battles.wins(~flagged_battles(battles, flags))
    return _ranks(strengths(wins)) if len(components(wins)) == 1 else None
