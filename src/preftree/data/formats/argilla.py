"""{"fields": {"prompt": ..., "response_1": ...}, "responses": {"preference": [{"value": ...}]}, ...}: Argilla records.

Version 2, nested or flat ("preference.responses"), and version 1, whose answers are lists of {user_id, value, status}.
The preference is the first question whose value ranks the answers, names the better one, or calls them equal. What
people rankings beats what was suggested; people who disagree are a fault. Two answers make a pair, more a ranking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import MAX_RESPONSES, Row
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

_PROMPTS = ("prompt", "instruction", "question", "input", "query")
_ANSWER = re.compile(r"(response|answer|completion|generation|output|reply|text)[-_ ]?(\d+|[a-h])$", re.IGNORECASE)
_TIES = ("tie", "equal", "both", "same", "none", "neither")
_SUGGESTIONS = ("-suggestion", ".suggestion")


class _Question(NamedTuple):
    """A question of a record: its field, the values that were given, and whether people gave them."""

    field: str
    values: list[Any]
    by_people: bool


def detect_pair(row: Row) -> bool:
    """Whether a record compares two answers."""
    return len(_answers(row)) == 2


def detect_ranking(row: Row) -> bool:
    """Whether a record compares more answers."""
    return len(_answers(row)) > 2


def read_pair(row: Row) -> Record:
    """One pair."""
    answers = _answers(row)
    if len(answers) != 2:
        raise RowFault(
            "wrong_type", "fields", f"'fields' must hold a prompt and two answers, got {len(answers)} answers"
        )
    (left, a), (right, b) = answers.items()
    field, ranks = _preference(row, [left, right])
    difference = ranks[right] - ranks[left]
    winner = Given(field, "a" if difference > 0 else "b" if difference < 0 else "tie")
    return assemble(_prompt(row) | {"a": a, "b": b, "winner": winner})


def read_ranking(row: Row) -> Record:
    """One ranking of the answers that have a rank."""
    answers = _answers(row)
    field, ranks = _preference(row, list(answers))
    responses = Given(field, [answer for name, answer in answers.items() if name in ranks])
    places = Given(field, [ranks[name] for name in answers if name in ranks])
    return assemble(_prompt(row) | {"responses": responses, "ranks": places})


def columns_read(row: Row) -> set[str]:
    """Columns of a flat record that are read: answers and questions."""
    if isinstance(row.get("fields"), dict):
        return set()
    return {*_answers(row), *(question.field for question in _questions(row))}


def _texts(row: Row) -> tuple[Row, str]:
    """The fields of a record, and the path to them; none where the row is no record."""
    if isinstance(row.get("fields"), dict):
        return row["fields"], "fields."
    return (row, "") if any(_is_answered(name, value) for name, value in row.items()) else ({}, "")


def _prompt(row: Row) -> dict[str, Given]:
    fields, path = _texts(row)
    if fields.get("context") not in (None, ""):
        field = f"{path}context"
        message = f"'{field}' would change the prompt; join the two, or say with --columns which field is the prompt"
        raise RowFault("unread_field", field, message)
    name = next((name for name in _PROMPTS if fields.get(name) is not None), _PROMPTS[0])
    return parts_of(row, {}) | {"prompt": Given(f"{path}{name}", fields.get(name))}


def _answers(row: Row) -> dict[str, Given]:
    """The answers of a record by the names of their fields."""
    fields, path = _texts(row)
    if not any(name in fields for name in _PROMPTS):
        return {}
    return {name: Given(f"{path}{name}", value) for name, value in fields.items() if _ANSWER.match(name)}


def _is_answered(name: str, value: Any) -> bool:
    """Whether a column of a flat record holds what people rankings."""
    listed = value if isinstance(value, list) else []
    return name.endswith(".responses") or any(
        isinstance(item, dict) and {"user_id", "value"} <= item.keys() for item in listed
    )


def _preference(row: Row, names: list[str]) -> tuple[str, dict[str, float]]:
    """Field and ranks of the first question that compares the answers, the best with the smallest rank."""
    found: list[tuple[str, dict[str, float]]] = []
    for field, values, by_people in _questions(row):
        rankings = [ranks for value in values if (ranks := _ranks(value, names))]
        if any(ranks != rankings[0] for ranks in rankings):
            raise RowFault("bad_value", field, f"'{field}' holds answers that contradict each other; keep one of them")
        if rankings and by_people:
            return field, rankings[0]
        found += [(field, rankings[0])] if rankings else []
    if not found:
        raise RowFault("missing_field", "responses", "no question of 'responses' or 'suggestions' compares the answers")
    return found[0]


def _questions(row: Row) -> Iterator[_Question]:
    if isinstance(row.get("fields"), dict):
        yield from _nested(row.get("responses"), "responses", True)
        yield from _nested(row.get("suggestions"), "suggestions", False)
        return
    for name, value in row.items():
        if name.endswith(_SUGGESTIONS):
            yield _Question(name, [value], False)
        elif _is_answered(name, value):
            yield _Question(name, _submitted(value), True)


def _nested(given: Any, path: str, by_people: bool) -> Iterator[_Question]:
    """Questions by their names (version 2), or in a list that holds their names (version 1)."""
    for name, value in given.items() if isinstance(given, dict) else ():
        yield _Question(f"{path}.{name}", _submitted(value if isinstance(value, list) else [value]), by_people)
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict) and item.get("status") in (None, "submitted"):
            named = item.get("values") if by_people else {item.get("question_name"): item.get("value")}
            for name, value in named.items() if isinstance(named, dict) else ():
                yield _Question(f"{path}.{name}", _submitted([value]), by_people)


def _submitted(given: Any) -> list[Any]:
    """What people rankings, without what they discarded or left as a draft."""
    values = []
    for item in given if isinstance(given, list) else ():
        if not isinstance(item, dict) or "value" not in item or "rank" in item:
            values.append(item)
        elif item.get("status") in (None, "submitted"):
            values.append(item["value"])
    return values


def _ranks(value: Any, names: list[str]) -> dict[str, float] | None:
    """Ranks of the answers under a value of a question; None where the value is about something else."""
    if isinstance(value, dict) and all(isinstance(value.get(name), list) for name in ("rank", "value")):
        value = [{"rank": rank, "value": name} for rank, name in zip(value["rank"], value["value"], strict=False)]
    if isinstance(value, list):
        ranked = [item for item in value if isinstance(item, dict) and item.get("value") in names]
        ranks = {item["value"]: float(item["rank"]) for item in ranked if _is_rank(item.get("rank"))}
        return ranks if 1 < len(ranks) == len(ranked) else None
    if not isinstance(value, str):
        return None
    if value.strip().lower() in _TIES:
        return dict.fromkeys(names, 1.0)
    best = _named(value.strip(), names)
    return None if best is None else {name: 1.0 if name == best else 2.0 for name in names}


def _is_rank(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= MAX_RESPONSES


def _named(value: str, names: list[str]) -> str | None:
    """The answer that a value names: by its field, or by the number or letter at the end of it."""
    ends = {_ANSWER.sub(r"\2", name).lower(): name for name in names}
    return value if value in names else ends.get(_ANSWER.sub(r"\2", value).lower())


_FIELDS = ("fields", "responses", "suggestions", "context", *_PROMPTS)

FORMATS = (
    make_format(
        "argilla",
        "pair",
        "Argilla records of two answers",
        detect_pair,
        read_pair,
        _FIELDS,
        columns_read=columns_read,
    ),
    make_format(
        "argilla_ranking",
        "list",
        "Argilla records of several answers",
        detect_ranking,
        read_ranking,
        _FIELDS,
        columns_read=columns_read,
    ),
)
