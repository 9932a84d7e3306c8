"""{"messages": [...]}: a conversation; its last assistant turn is imitated, and earlier ones with `train` true."""

from __future__ import annotations

from preftree.data.rows.fields import Row, messages, split_dialogue, take, weight
from preftree.records import Demonstration


def detect(row: Row) -> bool:
    """Whether there is a conversation, and no preference beside it."""
    return isinstance(row.get("messages"), list) and not {"chosen", "rejected", "label"} & row.keys()


def read(row: Row) -> Demonstration:
    """One demonstration, split before the last assistant turn."""
    prompt, response = split_dialogue(take(row, messages, "messages"), "messages")
    return Demonstration(prompt, response, weight(row))
