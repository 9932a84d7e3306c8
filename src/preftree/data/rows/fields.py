"""Typed fields of a row, each checked as it is read; `where` is the field's name in the file.

Every function raises RowFault where the value does not have the type of its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from preftree.data.rows.faults import RowFault
from preftree.records import Kind, Message, Preference, Text, figures_of

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")

MAX_RESPONSES = 64  # 2016 pairs
ROLES = ("system", "developer", "user", "assistant", "tool")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # Python's escape of a byte that is not UTF-8
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


def text(value: Any, where: str) -> str:
    """Text that can be stored and tokenised unchanged."""
    if not isinstance(value, str):
        raise RowFault("wrong_type", where, f"'{where}' must be text, got {_type_name(value)}")
    if not value.isascii():
        if _SURROGATE.search(value):
            if _ESCAPED_BYTE.search(value):
                raise RowFault("bad_utf8", where, f"'{where}' holds bytes that are not UTF-8")
            raise RowFault("bad_text", where, f"'{where}' holds half a surrogate pair")
        if "\ufffd" in value:
            raise RowFault("bad_text", where, f"'{where}' holds U+FFFD, the mark of an earlier decoding error")
    if "\0" in value:
        raise RowFault("bad_text", where, f"'{where}' holds a NUL character")
    if _WRITTEN_MESSAGES.match(value):
        raise RowFault("wrong_type", where, f"'{where}' is a message list written out as text; give it as a list")
    return value


def response_text(value: Any, where: str) -> str:
    """Text that is not blank."""
    value = text(value, where)
    if not value.strip():
        raise RowFault("empty_response", where, f"'{where}' is an empty response; drop the row")
    return value


def messages(value: Any, where: str) -> tuple[Message, ...]:
    """A list of {role, content} with an optional `train` flag on assistant turns."""
    if not isinstance(value, list):
        raise RowFault("wrong_type", where, f"'{where}' must be a list of messages, got {_type_name(value)}")
    return tuple(_message(item, f"{where}[{index}]") for index, item in enumerate(value))


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault("wrong_type", where, f"'{where}' must be a message, got {_type_name(value)}")
    for name in ("tool_calls", "function_call"):
        if value.get(name):
            raise RowFault("wrong_type", f"{where}.{name}", f"'{where}.{name}': tool calls are not supported")
    role = text(value.get("role"), f"{where}.role")
    if role not in ROLES:
        message = f"'{where}.role' must be one of {', '.join(ROLES)}, got {role[:40]!r}"
        raise RowFault("bad_messages", f"{where}.role", message)
    content = text(value.get("content"), f"{where}.content")
    train = None if value.get("train") is None else flag(value["train"], f"{where}.train")
    if train and role != "assistant":
        raise RowFault("bad_messages", f"{where}.train", f"'{where}.train': only assistant turns are trained on")
    return Message(role, content, train)


def prompt_messages(turns: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """A conversation that ends before a turn of the assistant."""
    if not turns or turns[-1].role == "assistant":
        raise RowFault("bad_messages", where, f"'{where}' has no turn for the assistant to answer")
    return turns


def response_messages(turns: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    """A response: it begins and ends with an assistant turn, and no assistant turn is blank."""
    if not turns or turns[0].role != "assistant" or turns[-1].role != "assistant":
        raise RowFault("bad_messages", where, f"'{where}' must begin and end with an assistant turn after its prompt")
    for turn in turns:
        if turn.role == "assistant" and not turn.content.strip():
            raise RowFault("empty_response", where, f"'{where}' holds an empty assistant turn; drop the row")
    if all(turn.train is False for turn in turns if turn.role == "assistant"):
        raise RowFault("bad_messages", where, f"'{where}' has no assistant turn to score: 'train' is false in all")
    return turns


def split_dialogue(turns: tuple[Message, ...], where: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A whole conversation as prompt and response, split before its last assistant turn."""
    if not turns or turns[-1].role != "assistant":
        raise RowFault("bad_messages", where, f"'{where}' must end with an assistant turn")
    return prompt_messages(turns[:-1], where), response_messages(turns[-1:], where)


def number(value: Any, where: str) -> float:
    """A finite number, or text that spells one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowFault("wrong_type", where, f"'{where}' must be a number, got {_type_name(value)}")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise RowFault("bad_value", where, f"'{where}' must be a number, got {str(value)[:40]!r}") from None
    if not math.isfinite(result):
        raise RowFault("bad_value", where, f"'{where}' must be finite, got {result}")
    return result


def optional_number(row: Row, name: str) -> float | None:
    """A number, or None where it is absent, null, or an empty cell."""
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
    raise RowFault("wrong_type", where, f"'{where}' must be true or false, got {_type_name(value)}")


def items(value: Any, where: str) -> list[Any]:
    """A list of at most MAX_RESPONSES responses."""
    if not isinstance(value, list):
        raise RowFault("wrong_type", where, f"'{where}' must be a list, got {_type_name(value)}")
    if len(value) > MAX_RESPONSES:
        raise RowFault("bad_value", where, f"'{where}' has {len(value)} responses, wanted at most {MAX_RESPONSES}")
    return value


def weight(row: Row) -> float:
    """The row's weight, by default 1."""
    value = optional_number(row, "weight")
    if value is not None and value <= 0:
        raise RowFault("bad_value", "weight", f"'weight' must be > 0, got {value:g}")
    return 1.0 if value is None else value


def figures(row: Row, kind: Kind, count: int = 1) -> dict[str, tuple[float, ...]]:
    """The figures of a row of a kind, within their ranges; a figure with only some of its fields is left out.

    Args:
      row: The row.
      kind: Kind of its record.
      count: Number of responses of a list.
    """
    result: dict[str, tuple[float, ...]] = {}
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
            result[figure.name] = values
    return result


def preference(row: Row, prompt: Text, chosen: tuple[str, Text], rejected: tuple[str, Text]) -> Preference:
    """A pair with the weight, tie and figures of its row; each response is passed with its field's name."""
    tie = row.get("tie") not in (None, "") and flag(row["tie"], "tie")
    pair_figures, source = figures(row, "pair"), "margin"
    if "margin" not in pair_figures and "scores" in pair_figures:
        source, margin = "score_chosen", pair_figures["scores"][0] - pair_figures["scores"][1]
        if not math.isfinite(margin):
            raise RowFault("bad_value", source, "'score_chosen' minus 'score_rejected' is not finite")
        pair_figures["margin"] = (margin,)
    (margin,) = pair_figures.get("margin", (0.0,))
    if margin < 0:
        message = f"'{source}' puts the chosen response below the rejected one, by {-margin:g}"
        raise RowFault("bad_value", source, message)
    if not tie:
        check_differ((chosen, rejected))
    return Preference(prompt, chosen[1], rejected[1], weight(row), tie, pair_figures)


def check_differ(named: tuple[tuple[str, Text], ...]) -> None:
    """Check that no two responses are equal up to surrounding white space."""
    seen: dict[tuple[object, ...], str] = {}
    for name, response in named:
        key = (response.strip(),) if isinstance(response, str) else tuple((m.role, m.content.strip()) for m in response)
        if key in seen:
            raise RowFault("same_responses", name, f"'{seen[key]}' equals '{name}'; drop the row or label it a tie")
        seen[key] = name


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a truth value", int: "a number", float: "a number", str: "text"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
