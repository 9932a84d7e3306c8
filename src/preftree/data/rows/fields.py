"""Typed fields of a row, each checked as it is read; `where` is the field's name in the file.

Every function raises RowFault where the value is not what its name says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_args

from preftree.data.rows.faults import RowFault
from preftree.records import Kind, Message, Preference, Text, figures_of

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")

_FIGURE_FIELDS: dict[Kind, set[str]] = {
    kind: {field for figure in figures_of(kind) for field in figure.fields(kind)} for kind in get_args(Kind)
}
MAX_RESPONSES = 64  # 2016 pairs
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # how Python keeps a byte that was not UTF-8
_WRITTEN_MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:")


def present(row: Row, *names: str) -> tuple[str, Any]:
    """The first of `names` that the row has, and its value."""
    for name in names:
        if row.get(name) is not None:
            return name, row[name]
    wanted = " or ".join(f"'{name}'" for name in names)
    raise RowFault("missing_field", names[0], f"{wanted} is missing")


def take(row: Row, read: Callable[[Any, str], T], *names: str) -> T:
    """The first of `names` that the row has, read by one of the functions below."""
    name, value = present(row, *names)
    return read(value, name)


def is_sound(value: str) -> bool:
    """Whether `text` takes a text, seen at a glance: one of ASCII that is no list."""
    return value.isascii() and "\0" not in value and value.lstrip()[:1] != "["


def text(value: Any, where: str) -> str:
    """Text that can be stored and tokenised as it is."""
    if not isinstance(value, str):
        raise RowFault("wrong_type", where, f"'{where}' must be text, got {type_name(value)}")
    if is_sound(value):
        return value
    _check_characters(value, where)
    if _WRITTEN_MESSAGES.match(value):
        raise RowFault("wrong_type", where, f"'{where}' is a message list written out as text; give it as a list")
    return value


def _check_characters(value: str, where: str) -> None:
    if not value.isascii():
        if _SURROGATE.search(value):
            if _ESCAPED_BYTE.search(value):
                raise RowFault("bad_utf8", where, f"'{where}' holds bytes that are not UTF-8")
            raise RowFault("bad_text", where, f"'{where}' holds half a surrogate pair")
        if "\ufffd" in value:
            raise RowFault("bad_text", where, f"'{where}' holds U+FFFD, the mark of an earlier decoding error")
    if "\0" in value:
        raise RowFault("bad_text", where, f"'{where}' holds a NUL character")


def check_texts(value: Any, where: str) -> None:
    """See that every text in a value, names of fields included, can be stored and tokenised as it is."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            _check_characters(item, where)
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def response_text(value: Any, where: str) -> str:
    """Text that is not blank."""
    value = text(value, where)
    if not value.strip():
        raise RowFault("empty_response", where, f"'{where}' is an empty response; drop the row")
    return value


def number(value: Any, where: str) -> float:
    """A finite number, or text that spells one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowFault("wrong_type", where, f"'{where}' must be a number, got {type_name(value)}")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise RowFault("bad_value", where, f"'{where}' must be a number, got {str(value)[:40]!r}") from None
    if not math.isfinite(result):
        raise RowFault("bad_value", where, f"'{where}' must be finite, got {result}")
    return result


def optional_number(row: Row, name: str) -> float | None:
    """A number that may be absent, null, or an empty cell."""
    return None if row.get(name) in (None, "") else number(row[name], name)


def numbers(value: Any, where: str, count: int) -> tuple[float, ...]:
    """A list of `count` numbers, one for each response."""
    values = tuple(number(item, f"{where}[{index}]") for index, item in enumerate(items(value, where)))
    if len(values) != count:
        raise RowFault("bad_value", where, f"'{where}' has {len(values)} numbers for {count} responses")
    return values


def flag(value: Any, where: str) -> bool:
    """A truth value: true, false, 0 or 1, also spelled as text."""
    spelled = value.strip().lower() if isinstance(value, str) else value
    if isinstance(spelled, str | int | float):
        if spelled in ("true", "1", 1):
            return True
        if spelled in ("false", "0", 0):
            return False
        raise RowFault("bad_value", where, f"'{where}' must be true or false, got {str(value)[:40]!r}")
    raise RowFault("wrong_type", where, f"'{where}' must be true or false, got {type_name(value)}")


def items(value: Any, where: str) -> list[Any]:
    """A list of no more responses than a ranking may have."""
    if not isinstance(value, list):
        raise RowFault("wrong_type", where, f"'{where}' must be a list, got {type_name(value)}")
    if len(value) > MAX_RESPONSES:
        raise RowFault("bad_value", where, f"'{where}' has {len(value)} responses, wanted at most {MAX_RESPONSES}")
    return value


def weight(row: Row) -> float:
    """The row's weight, 1 where it gives none."""
    value = optional_number(row, "weight")
    if value is not None and value <= 0:
        raise RowFault("bad_value", "weight", f"'weight' must be > 0, got {value:g}")
    return 1.0 if value is None else value


def figures(row: Row, kind: Kind, count: int = 1) -> dict[str, tuple[float, ...]]:
    """The figures that a row of a kind gives, within their ranges; one that is given in part is left out.

    Args:
      row: The row.
      kind: Kind of the record that it becomes.
      count: Responses of a list.
    """
    given: dict[str, tuple[float, ...]] = {}
    if _FIGURE_FIELDS[kind].isdisjoint(row):
        return given
    for figure in figures_of(kind):
        fields = figure.fields(kind)
        if figure.per_response and kind == "list":
            read = () if row.get(figure.name) is None else numbers(row[figure.name], figure.name, count)
            fields = tuple(f"{figure.name}[{index}]" for index in range(len(read)))
        else:
            read = tuple(optional_number(row, field) for field in fields)
        for field, value in zip(fields, read, strict=True):
            if value is not None and not figure.lowest <= value <= figure.highest:
                message = f"'{field}' must be in [{figure.lowest:g}, {figure.highest:g}], got {value:g}"
                raise RowFault("bad_value", field, message)
        values = tuple(value for value in read if value is not None)
        if values and len(values) == len(read):
            given[figure.name] = values
    return given


def preference(row: Row, prompt: Text, chosen: tuple[str, Text], rejected: tuple[str, Text]) -> Preference:
    """A pair with the weight, tie and figures that its row gives; each response comes with its field's name."""
    if not row:
        check_differ((chosen, rejected))
        return Preference(prompt, chosen[1], rejected[1])
    tie = row.get("tie") not in (None, "") and flag(row["tie"], "tie")
    given, source = figures(row, "pair"), "margin"
    if "margin" not in given and "scores" in given:
        source, margin = "score_chosen", given["scores"][0] - given["scores"][1]
        if not math.isfinite(margin):
            raise RowFault("bad_value", source, "'score_chosen' minus 'score_rejected' is not finite")
        given["margin"] = (margin,)
    (margin,) = given.get("margin", (0.0,))
    if margin < 0:
        message = f"'{source}' puts the chosen response below the rejected one, by {-margin:g}"
        raise RowFault("bad_value", source, message)
    if not tie:
        check_differ((chosen, rejected))
    return Preference(prompt, chosen[1], rejected[1], weight(row), tie, given)


def check_differ(named: tuple[tuple[str, Text], ...]) -> None:
    """No two responses are equal but for white space around them."""
    seen: dict[Any, str] = {}
    for name, response in named:
        key = response.strip() if isinstance(response, str) else _stripped(response)
        if key in seen:
            raise RowFault("same_responses", name, f"'{seen[key]}' equals '{name}'; drop the row or label it a tie")
        seen[key] = name


def _stripped(turns: tuple[Message, ...]) -> tuple[object, ...]:
    """What tells one conversation from another, but for white space."""
    return tuple([(turn.role, turn.content.strip(), str(turn.rest) if turn.rest else "") for turn in turns])


def type_name(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number", str: "text"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
