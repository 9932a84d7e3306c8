"""{"text": "..."}: plain text, imitated from its first token to its end."""

from __future__ import annotations

from preftree.data.rows.fields import Row, response_text, take, weight
from preftree.data.rows.format import MEANINGFUL, make_format, names_any
from preftree.records import Demonstration


def detect(row: Row) -> bool:
    """Whether there is text, and no field of another format."""
    return isinstance(row.get("text"), str) and not names_any(row, *MEANINGFUL)


def read(row: Row) -> Demonstration:
    """One demonstration without a prompt."""
    return Demonstration("", take(row, response_text, "text"), weight(row))


FORMAT = make_format("text", "demonstration", "plain text", detect, read, ("text",), beside=("weight",))
