"""{"prompt": ..., "completion": ..., "label": true}: one response and whether it was liked; text or message lists.

Where `prompt` is absent, the completion is a whole conversation.
"""

from __future__ import annotations

from preftree.data.formats.prompt_completion import RESPONSES
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, has_any, make_format, names_any
from preftree.data.rows.parts import parts_of
from preftree.records import Record

_ELSEWHERE = ("instruction", "query", "question", "messages", "conversations", "conversation", "chosen", "rejected")


def detect(row: Row) -> bool:
    """Whether a labelled response is there, with a prompt or inside a conversation."""
    asked = "prompt" in row or isinstance(row.get("completion"), list)
    labelled = row.get("label") not in (None, "") and has_any(row, *RESPONSES)
    return asked and labelled and not names_any(row, *_ELSEWHERE)


def read(row: Row) -> Record:
    """One label."""
    if "prompt" not in row and isinstance(row.get("completion"), list):
        return assemble(parts_of(row, {"messages": "completion", "label": "label"}))
    return assemble(parts_of(row, {"prompt": "prompt", "response": first_of(row, RESPONSES), "label": "label"}))


FORMAT = make_format(
    "unpaired", "response", "single responses, liked or not", detect, read, ("prompt", *RESPONSES, "label")
)
