"""{"text": "..."}: plain text, imitated from its first token to its end."""

from __future__ import annotations

from preftree.data.rows.fields import Row, response_text, take, weight
from preftree.records import Demonstration


def detect(row: Row) -> bool:
    """Whether there is text, and no field of another format."""
    return "text" in row and not {"prompt", "chosen", "rejected", "messages", "label"} & row.keys()


def read(row: Row) -> Demonstration:
    """One demonstration without a prompt."""
    return Demonstration("", take(row, response_text, "text"), weight(row))
