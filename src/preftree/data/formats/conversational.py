"""{"prompt": [...], "chosen": [...], "rejected": [...]}: message lists, with the prompt named or implied.

Where `prompt` is absent, or is text beside whole conversations (as in the binarised UltraFeedback), both sides are
whole conversations: what they share up to the assistant turn where they part is the prompt. A side may also be one
message, or text beside a prompt of messages. ms-swift's and LLaMA-Factory's `chosen_messages`, `rejected_messages`.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has, has_any, make_format
from preftree.records import Record

_NAMES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))


def detect(row: Row) -> bool:
    """Whether there are two sides, a conversation among them and the prompt."""
    names = _sides(row)
    if names is None or has_any(row, "messages", "conversations", "conversation", "instruction", "question"):
        return False
    values = row.get("prompt"), row[names[0]], row[names[1]]
    return any(_is_messages(value) for value in values)


def read(row: Row) -> Record:
    """One pair of conversations."""
    chosen, rejected = _sides(row) or _NAMES[0]
    return assemble(parts_of(row, {"prompt": "prompt", "chosen": chosen, "rejected": rejected}), chat=True)


def _sides(row: Row) -> tuple[str, str] | None:
    return next((names for names in _NAMES if has(row, *names)), None)


def _is_messages(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


FORMAT = make_format(
    "conversational",
    "pair",
    "message lists chosen and rejected",
    detect,
    read,
    ("prompt", "chosen", "rejected", "chosen_messages", "rejected_messages"),
)
