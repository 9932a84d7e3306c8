"""{"messages": [...]}: a conversation; its last assistant turn is imitated, and earlier ones with `train` true.

ShareGPT's {"conversations": [{"from": "human", "value": "..."}, ...]} is the same under other names.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has_any, make_format
from preftree.records import Record

CONVERSATIONS = ("messages", "conversations", "conversation")
REJECTED = ("rejected", "rejected_response", "rejected_message", "rejected_messages")
LABELS = ("label", "kto_tag")
_RESPONSES = ("responses", "completions", "completion", "response", "chosen", "output", *REJECTED, *LABELS)


def detect(row: Row) -> bool:
    """Whether there is a conversation, and no preference beside it."""
    return isinstance(row.get(conversation_field(row)), list) and not has_any(row, *_RESPONSES)


def read(row: Row) -> Record:
    """One demonstration, cut before the last assistant turn."""
    return assemble(parts_of(row, {"messages": conversation_field(row)}))


def conversation_field(row: Row) -> str:
    """Name of the field that holds the conversation."""
    return next((name for name in CONVERSATIONS if row.get(name) is not None), CONVERSATIONS[0])


FORMAT = make_format("messages", "demonstration", "conversations", detect, read, CONVERSATIONS)
