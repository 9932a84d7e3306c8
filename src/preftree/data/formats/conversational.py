"""{"prompt": [...], "chosen": [...], "rejected": [...]}: message lists, with the prompt named or implied.

Where `prompt` is absent, or is text beside whole conversations (as in the binarised UltraFeedback), both sides are
whole conversations: what they share up to the assistant turn where they part is the prompt. A side may also be one
message, or text beside a prompt of messages. LLaMA-Factory's `chosen_messages` and `rejected_messages` are the same.
`messages` beside whole conversations repeats the chosen one, or the row is faulty.
"""

from __future__ import annotations

from preftree.data.formats import collected
from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has, make_format
from preftree.data.rows.parts import parts_of
from preftree.records import Record

_NAMES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
_ELSEWHERE = {"messages", "conversations", "conversation", "instruction", "question"}


def detect(row: Row) -> bool:
    """Whether there are two sides, a conversation among them and the prompt."""
    names = _sides(row)
    if names is None or collected.detect(row):
        return False
    chosen, rejected = row[names[0]], row[names[1]]
    if not (_is_messages(chosen) or _is_messages(rejected) or _is_messages(row.get("prompt"))):
        return False
    return _ELSEWHERE.isdisjoint(row) or (_is_whole(chosen) and _is_whole(rejected))


def read(row: Row) -> Record:
    """One pair of conversations."""
    chosen, rejected = _sides(row) or _NAMES[0]
    if row.get("messages") not in (None, "", [], row.get(chosen)):
        raise RowFault("bad_value", "messages", f"'messages' is another conversation than '{chosen}'; take it out")
    return assemble(parts_of(row, {"prompt": "prompt", "chosen": chosen, "rejected": rejected}), chat=True)


def _sides(row: Row) -> tuple[str, str] | None:
    for names in _NAMES:
        if has(row, *names):
            return names
    return None


def _is_messages(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _is_whole(side: object) -> bool:
    """Whether a side begins with another turn than the assistant's."""
    first = side[0] if isinstance(side, list) and side else None
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt", None)


FORMAT = make_format(
    "conversational",
    "pair",
    "message lists chosen and rejected",
    detect,
    read,
    ("prompt", "messages", "chosen", "rejected", "chosen_messages", "rejected_messages"),
)
