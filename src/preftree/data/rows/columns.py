"""A mapping of columns: which field of a row is its prompt, its responses, its verdict.

`prompt=question,chosen=response_j,rejected=response_k`, or a map in YAML. A field is a name or a dotted path with
indices (`result.0.value.selected`); `*` stands for every item of a list (`answers.*.text`), and of those of a verdict,
which annotators give, all must be equal. `|` joins the fields of a list that a row has one by one
(`responses=answer1|answer2|answer3`). `+` puts the texts of two fields under each other
(`prompt=instruction+input`); one that is empty is left out. Words follow some after a colon:
`winner=choice:A|B|TIE|BOTHBAD` gives the values that stand for the answers `a`, `b` and a tie (`<0|>0|0` for a signed
number), `label=verdict:good|bad` those of a liked and a disliked response, `ranks=rank:0` the rank of the best one.
Without `winner`, `a_wins` and `b_wins` are flags, or `score_a` and `score_b` decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, text
from preftree.data.rows.parts import TARGETS, VERDICTS, Given, kind_of
from preftree.errors import DataError
from preftree.records import Kind, Record

WINNERS = ("a", "b", "tie", "tie")
"""What the words of `winner` stand for, in their order; both bad is a tie."""

_USUAL_WINNERS = {
    "a": "a",
    "model_a": "a",
    "response_a": "a",
    "answer_a": "a",
    "left": "a",
    "first": "a",
    "b": "b",
    "model_b": "b",
    "response_b": "b",
    "answer_b": "b",
    "right": "b",
    "second": "b",
    "tie": "tie",
    "both": "tie",
    "equal": "tie",
    "tie (bothbad)": "tie",
    "both_bad": "tie",
    "bothbad": "tie",
}
_WITH_WORDS = {"winner": (2, 4), "label": (2, 2), "ranks": (1, 1)}
_LISTS = ("responses", "scores", "ranks")
_JOINED = ("prompt", "system")
_ONE_EACH = ("winner", "label")
"""Targets of one value, which several annotators may give."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field that is mapped.

    Attributes:
      path: Name of the field, or a dotted path to it.
      words: Its values in the order that the target gives them a meaning; empty for the usual ones.
    """

    path: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns by target."""

    by_target: Mapping[str, Column]

    @property
    def kind(self) -> Kind | None:
        """Kind of the records; None for prompts alone."""
        return kind_of(self.by_target)

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Targets, each with a path that it is read from."""
        return [
            (target, path) for target, column in self.by_target.items() for path in _single_paths(target, column.path)
        ]

    @property
    def fields(self) -> frozenset[str]:
        """Fields of a row that are read, whole or in part."""
        paths = [path for _, path in self.paths]
        return frozenset([*paths, *(path.split(".")[0] for path in paths)])

    def parts(self, row: Row) -> dict[str, Given]:
        """The parts of a row by target."""
        return {target: _part(row, target, column) for target, column in self.by_target.items()}

    def read(self, row: Row) -> Record:
        """The record of a row."""
        return assemble(self.parts(row))

    def __str__(self) -> str:
        """The mapping as a command line gives it."""
        return ",".join(
            f"{target}={column.path}{':' if column.words else ''}{'|'.join(column.words)}"
            for target, column in self.by_target.items()
        )


def parse_columns(given: str | Mapping[str, str]) -> Columns:
    """Read a mapping.

    Raises:
      DataError: a target is unknown or named twice, a field is missing, or its words are too few or too many.
    """
    pairs = [_halves(item) for item in given.split(",")] if isinstance(given, str) else list(given.items())
    columns: dict[str, Column] = {}
    for target, value in pairs:
        if target not in TARGETS:
            raise DataError(f"columns: {target!r} is nothing that a column can be; choose from {', '.join(TARGETS)}")
        if target in columns:
            raise DataError(f"columns: {target} is named twice; give it one column")
        path, words = value, ""
        if target in _WITH_WORDS and ":" in value:
            path, _, words = value.rpartition(":")
        if not path:
            raise DataError(f"columns: {target}= names no field")
        split = tuple(words.split("|")) if words else ()
        fewest, most = _WITH_WORDS.get(target, (0, 0))
        if split and not fewest <= len(split) <= most:
            raise DataError(f"columns: {target}={value}: wanted {fewest} to {most} words after ':', got {len(split)}")
        columns[target] = Column(path, split)
    _check(columns)
    return Columns(columns)


def _single_paths(target: str, path: str) -> list[str]:
    """The paths that a target's fields are joined from."""
    sign = "|" if target in _LISTS else "+" if target in _JOINED else None
    return [path] if sign is None else path.split(sign)


def _halves(item: str) -> tuple[str, str]:
    target, equals, path = item.strip().partition("=")
    if not equals:
        raise DataError(f"columns: {item.strip()!r} is no TARGET=FIELD; give for example prompt=question,chosen=answer")
    return target.strip(), path.strip()


def _check(columns: Mapping[str, Column]) -> None:
    if {"a", "b", "winner", "a_wins", "b_wins"} & columns.keys():
        verdict = any(columns.keys() >= {*way} for way in VERDICTS)
        if not (verdict and columns.keys() >= {"a", "b"}):
            if "response" in columns:
                raise DataError("columns: a verdict on one response is its label; give label=FIELD:GOOD|BAD")
            raise DataError(
                "columns: two answers and a verdict belong together; give a, b, and winner (or a_wins and b_wins, or "
                "score_a and score_b)"
            )
    if "chosen" in columns and "rejected" not in columns:
        raise DataError("columns: chosen needs rejected beside it; a response alone is response=FIELD")
    if not {"prompt", "messages", "response", "chosen", "a"} & columns.keys():
        raise DataError("columns: no text is named; give prompt=FIELD, messages=FIELD or response=FIELD at least")


def look_up(row: Row, path: str) -> Any:
    """The value at a path of a row; None where there is none. A field whose name is the whole path comes first."""
    return row[path] if path in row else _within(row, path.split("."))


def _within(value: Any, steps: list[str]) -> Any:
    """What a path leads to inside a value."""
    for place, step in enumerate(steps):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step == "*":
            return [_within(item, steps[place + 1 :]) for item in value]
        elif isinstance(value, list) and step.lstrip("-").isdecimal() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _part(row: Row, target: str, column: Column) -> Given:
    """What one column gives, under the field that it comes from."""
    value: Any
    if target in _LISTS and "|" in column.path:
        given = [Given(path, look_up(row, path)) for path in column.path.split("|")]
        value = given if target == "responses" else [item.value for item in given]
    elif target in _JOINED and "+" in column.path and column.path not in row:
        value = _joined([Given(path, look_up(row, path)) for path in column.path.split("+")])
    else:
        value = look_up(row, column.path)
    if target in _ONE_EACH and "*" in column.path.split(".") and isinstance(value, list):
        value = _agreed(value, column.path)
    if value is None:
        return Given(column.path, None)
    if target == "winner":
        return Given(column.path, _winner(value, column))
    if target == "label" and column.words:
        return Given(column.path, _chosen_word(value, column) == 0)
    if target == "label" and isinstance(value, str) and value.strip().lower() not in ("true", "false", "1", "0"):
        message = f"'{column.path}' is {value[:40]!r}; say which word is liked: label={column.path}:GOOD|BAD"
        raise RowFault("bad_value", column.path, message)
    if target == "ranks" and column.words:
        _check_ranks(value, column)
    return Given(column.path, value)


def _agreed(values: list[Any], path: str) -> Any:
    """What all annotators say, but for those who say nothing; None where none does.

    Raises:
      RowFault: they differ.
    """
    given = [value for value in values if value is not None]
    if any(value != given[0] for value in given):
        message = f"the annotators differ: '{path}' is {', '.join(ascii(value)[:40] for value in given[:4])}"
        raise RowFault("bad_value", path, f"{message}; write a row for each annotator, or leave the row out")
    return given[0] if given else None


def _joined(given: list[Given]) -> str | None:
    """Texts under each other, without those that are absent or empty."""
    texts = [text(value, field) for field, value in given if value not in (None, "")]
    return "\n".join(texts) or None


def usual_winner(word: str) -> str | None:
    """What a word says of two answers where no words are given: a, b or tie; None where it is not a usual one."""
    return _USUAL_WINNERS.get(word.strip().lower())


def _winner(value: Any, column: Column) -> str:
    if column.words:
        return WINNERS[_chosen_word(value, column)]
    usual = usual_winner(str(value))
    if usual is None:
        message = f"'{column.path}' is {str(value)[:40]!r}; say what stands for a and b: winner={column.path}:A|B|TIE"
        raise RowFault("bad_value", column.path, message)
    return usual


def _chosen_word(value: Any, column: Column) -> int:
    """The place of a value among the words of its column."""
    for place, word in enumerate(column.words):
        if _matches(value, word):
            return place
    words = ", ".join(map(repr, column.words))
    raise RowFault("bad_value", column.path, f"'{column.path}' is {str(value)[:40]!r}, wanted one of {words}")


def _matches(value: Any, word: str) -> bool:
    if isinstance(value, bool):
        return word.strip().lower() == str(value).lower()
    try:
        number = float(value)
        if word[:1] in ("<", ">"):
            return number < float(word[1:]) if word[0] == "<" else number > float(word[1:])
        return number == float(word)
    except (TypeError, ValueError, OverflowError):
        return str(value).strip() == word.strip()


def _check_ranks(value: Any, column: Column) -> None:
    best = (
        min((rank for rank in value if isinstance(rank, int | float)), default=None)
        if isinstance(value, list)
        else None
    )
    if best is not None and not _matches(best, column.words[0]):
        message = f"the best of '{column.path}' is {best:g}, wanted {column.words[0]}"
        raise RowFault("bad_value", column.path, message)
