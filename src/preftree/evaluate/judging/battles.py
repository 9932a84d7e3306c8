"""Battles of models from files: verdicts of `eval winrate`, votes of `collect export`, and rows of an arena."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.sources.reader import find_source, read_rows
from preftree.errors import DataError

_WINNERS = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "both_bad": 0.5,
    "bothbad": 0.5,
}

_VALUES = {"chosen": 1.0, "rejected": 0.0, "tie": 0.5, "bad": 0.5}


class Battle(NamedTuple):
    """One comparison of two models' responses.

    Attributes:
      first, second: The models.
      value: 1 where the first won, 0 where the second did, .5 for a tie.
      weight: How many comparisons it stands for.
      prompt: What was asked; battles of one prompt are not independent.
      voter: Who judged; "" where that is not known.
    """

    first: str
    second: str
    value: float
    weight: float
    prompt: str
    voter: str


@dataclass(frozen=True, slots=True)
class Battles:
    """Battles as arrays, [B] each.

    Attributes:
      models, voters: Names, in alphabetical order; a voter without a name is "".
      first, second: Numbers of the models.
      value, weight: As in `Battle`.
      prompt: Number of the prompt.
      voter: Number of the voter.
      left_out: What is no battle, by reason.
    """

    models: tuple[str, ...]
    voters: tuple[str, ...]
    first: Int[np.ndarray, " B"]
    second: Int[np.ndarray, " B"]
    value: Float[np.ndarray, " B"]
    weight: Float[np.ndarray, " B"]
    prompt: Int[np.ndarray, " B"]
    voter: Int[np.ndarray, " B"]
    left_out: dict[str, int]

    def points(self) -> Float[np.ndarray, "2 B"]:
        """What each battle was worth to its first and to its second model."""
        return np.stack([self.weight * self.value, self.weight * (1 - self.value)])

    def wins(self, kept: np.ndarray | None = None) -> Float[np.ndarray, "M M"]:
        """How often each model beat each other one, a tie as half a win for each; of the kept battles."""
        table = np.zeros((len(self.models), len(self.models)))
        points = self.points() if kept is None else self.points() * kept
        np.add.at(table, (self.first, self.second), points[0])
        np.add.at(table, (self.second, self.first), points[1])
        return table


def read_battles(files: Sequence[str]) -> Battles:
    """The battles of files, each in one of three forms.

    - `verdicts.jsonl` of `preftree eval winrate`: `chosen_by` and `rejected_by`; the voter is the `judge`, and pairs
      without a verdict that can be read are left out.
    - A row of `preftree collect export`: each of its `votes` is a battle of the `source` models; a second vote of one
      person on one pair is left out.
    - A row of an arena: `model_a`, `model_b` and `winner`, or `winner_model_a` and `winner_model_b`; the prompt is
      `prompt`, the first turn of `conversation_a`, or `question_id`, the voter `judge`.

    A battle of a model with itself is left out. What is left out is counted.

    Raises:
      DataError: a file cannot be read, a row is of no such form, or no two models meet.
    """
    left_out: Counter[str] = Counter()
    battles = [battle for file in files for battle in _read_file(file, left_out)]
    kept = [battle for battle in battles if battle.first != battle.second]
    if len(kept) < len(battles):
        left_out["battles of a model with itself"] += len(battles) - len(kept)
    if not kept:
        raise DataError(f"{', '.join(files)}: no battle of two models; give verdicts on two models or more")
    models, sides = np.unique([(battle.first, battle.second) for battle in kept], return_inverse=True)
    voters, voter = np.unique([battle.voter for battle in kept], return_inverse=True)
    prompt = np.unique([battle.prompt for battle in kept], return_inverse=True)[1]
    sides = sides.reshape(-1, 2)
    return Battles(
        models=tuple(models.tolist()),
        voters=tuple(voters.tolist()),
        first=sides[:, 0],
        second=sides[:, 1],
        value=np.array([battle.value for battle in kept]),
        weight=np.array([battle.weight for battle in kept]),
        prompt=prompt,
        voter=voter,
        left_out=dict(left_out),
    )


def _read_file(file: str, left_out: Counter[str]) -> Iterator[Battle]:
    for raw in read_rows(find_source(file)):
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            yield from _battles_of(raw.row, str(raw.where), left_out)
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault


def _battles_of(row: Row, where: str, left_out: Counter[str]) -> Iterator[Battle]:
    if isinstance(row.get("chosen_by"), dict) and isinstance(row.get("rejected_by"), dict):
        yield from _of_verdict(row, left_out)
    elif isinstance(row.get("votes"), list) and isinstance(row.get("source"), dict):
        yield from _of_votes(row, left_out)
    elif {"model_a", "model_b"} <= row.keys():
        yield _of_arena(row, where)
    else:
        fields = ", ".join(ascii(name) for name in list(row)[:8])
        raise RowFault("other_format", "row", f"the row is no verdict, no export with votes, and no battle ({fields})")


def _of_verdict(row: Row, left_out: Counter[str]) -> Iterator[Battle]:
    by, against = row["chosen_by"], row["rejected_by"]
    verdicts = row.get("verdicts") or [{"state": "tie" if row.get("tie") else "decided", "choice": "chosen"}]
    values = [
        _VALUES[verdict.get("choice", "tie")] for verdict in verdicts if verdict.get("state") in ("decided", "tie")
    ]
    names = dict.fromkeys([*by, *against])
    for name, count in by.items():
        others = [other for other in names if other != name] or [name]
        if len(others) != 1 or not isinstance(count, int):
            raise RowFault("bad_value", "chosen_by", f"'chosen_by' must count the responses of two sides, got {by!r}")
        if not values:
            left_out["comparisons without a verdict that can be read"] += count
            continue
        value = sum(values) / len(values)
        yield Battle(name, others[0], value, float(count), _key(row.get("prompt")), str(row.get("judge") or ""))


def _of_votes(row: Row, left_out: Counter[str]) -> Iterator[Battle]:
    sides = [_model_of(row["source"].get(side), side) for side in ("chosen", "rejected")]
    for vote in row["votes"]:
        if vote.get("repeat_of") is not None:
            left_out["repeated votes of one person on one pair"] += 1
            continue
        value = _VALUES.get(str(vote.get("choice")))
        if value is None:
            raise RowFault("bad_value", "votes", f"'choice' of a vote must be a side, tie or bad, got {vote!r}")
        yield Battle(sides[0], sides[1], value, 1.0, _key(row.get("prompt")), str(vote.get("by", "")))


def _model_of(source: Any, side: str) -> str:
    name = source.get("model") if isinstance(source, dict) else None
    if not isinstance(name, str):
        raise RowFault("missing_field", "source", f"'source.{side}.model' is missing, so nobody's response won")
    return name


def _of_arena(row: Row, where: str) -> Battle:
    names = [row["model_a"], row["model_b"]]
    if not all(isinstance(name, str) for name in names):
        raise RowFault("wrong_type", "model_a", f"'model_a' and 'model_b' must be names, got {names!r}")
    if {"winner_model_a", "winner_model_b"} <= row.keys():
        value = (1 + float(row["winner_model_a"]) - float(row["winner_model_b"])) / 2
    elif (value := _WINNERS.get(str(row.get("winner")))) is None:
        raise RowFault(
            "bad_value", "winner", f"'winner' must be one of {', '.join(_WINNERS)}, got {row.get('winner')!r}"
        )
    talk = row.get("conversation_a")
    asked = row.get("prompt", talk[0] if isinstance(talk, list) and talk else row.get("question_id", where))
    return Battle(names[0], names[1], value, 1.0, _key(asked), str(row.get("judge") or ""))


def _key(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
