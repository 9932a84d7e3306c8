"""{"messages": [...], "rejected_response": "..."}: a conversation whose last answer has a rejected counterpart.

The rejected side is text, one message, or a whole conversation (`rejected`, `rejected_response`, `rejected_message`,
`rejected_messages`); where `chosen` is there as well, the conversation is the prompt. ms-swift, OpenPipe, axolotl's
chat_template, and LLaMA-Factory's ShareGPT preferences.
"""

from __future__ import annotations

from preftree.data.formats.messages import CONVERSATIONS, REJECTED, conversation_field
from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has_any, make_format
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a conversation and a rejected side."""
    return isinstance(row.get(conversation_field(row)), list) and has_any(row, *REJECTED)


def read(row: Row) -> Record:
    """One pair."""
    rejected = next((name for name in REJECTED if row.get(name) is not None), REJECTED[0])
    names = {"messages": conversation_field(row), "rejected": rejected}
    return assemble(parts_of(row, names | ({"chosen": "chosen"} if row.get("chosen") is not None else {})))


FORMAT = make_format(
    "messages_pair",
    "pair",
    "conversations with a rejected answer",
    detect,
    read,
    (*CONVERSATIONS, *REJECTED, "chosen"),
)
