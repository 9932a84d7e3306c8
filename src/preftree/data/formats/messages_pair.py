"""{"messages": [...], "rejected_response": "..."}: a conversation whose last answer has a rejected counterpart.

The rejected side is text, one message, or a whole conversation (`rejected`, `rejected_response`, `rejected_message`,
`rejected_messages`); where `chosen` is there as well, the conversation is the prompt. ms-swift, OpenPipe, axolotl's
chat_template, and LLaMA-Factory's ShareGPT preferences.
"""

from __future__ import annotations

from preftree.data.formats import conversational
from preftree.data.formats.messages import CONVERSATIONS, REJECTED, conversation_field
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, has_any, make_format
from preftree.data.rows.parts import parts_of
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a conversation and a rejected side."""
    conversation = isinstance(row.get(conversation_field(row)), list)
    return conversation and has_any(row, *REJECTED) and not conversational.detect(row)


def read(row: Row) -> Record:
    """One pair."""
    names = {"messages": conversation_field(row), "rejected": first_of(row, REJECTED)}
    return assemble(parts_of(row, names | ({"chosen": "chosen"} if "chosen" in row else {})))


FORMAT = make_format(
    "messages_pair",
    "pair",
    "conversations with a rejected answer",
    detect,
    read,
    (*CONVERSATIONS, *REJECTED, "chosen"),
)
