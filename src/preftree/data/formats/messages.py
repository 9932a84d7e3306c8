"""{"messages": [...]}: a conversation; its last assistant turn is imitated, and earlier ones with `train` true.

ShareGPT's {"conversations": [{"from": "human", "value": "..."}, ...]} is the same under other names.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, take, text
from preftree.data.rows.format import first_of, make_format, names_any
from preftree.data.rows.parts import parts_of
from preftree.records import Message, Record

CONVERSATIONS = ("messages", "conversations", "conversation")
REJECTED = ("rejected", "rejected_response", "rejected_message", "rejected_messages")
LABELS = ("label", "kto_tag")
_RESPONSES = ("responses", "completions", "completion", "response", "chosen", "output", *REJECTED, *LABELS)


def detect(row: Row) -> bool:
    """Whether there is a conversation, and no preference beside it."""
    return isinstance(row.get(conversation_field(row)), list) and not names_any(row, *_RESPONSES)


def read(row: Row) -> Record:
    """One demonstration, cut before the last assistant turn; a prompt beside it repeats one of its turns."""
    record = assemble(parts_of(row, {"messages": conversation_field(row)}))
    if row.get("prompt") not in (None, ""):
        asked = take(row, text, "prompt").strip()
        if asked not in (turn.content.strip() for turn in record.prompt if isinstance(turn, Message)):
            raise RowFault("prompts_differ", "prompt", f"'prompt' is no turn of '{conversation_field(row)}'")
    return record


def conversation_field(row: Row) -> str:
    """Name of the field that holds the conversation."""
    return first_of(row, CONVERSATIONS)


FORMAT = make_format("messages", "demonstration", "conversations", detect, read, (*CONVERSATIONS, "prompt"))
