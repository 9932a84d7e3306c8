"""{"prompt": ..., "completion": ...} (or `response`): a demonstration, as text or as message lists.

The reference summaries that CarperAI published of TL;DR name the completion `label`: {"prompt": "...", "label": "..."}.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, has, has_any, make_format, names_any
from preftree.data.rows.parts import parts_of
from preftree.records import Record

RESPONSES = ("completion", "response")
_ELSEWHERE = ("chosen", "rejected", "rejected_response", "messages", "conversations", "conversation", "responses")


def detect(row: Row) -> bool:
    """Whether a response without a label is there."""
    if "prompt" not in row or names_any(row, *_ELSEWHERE):
        return False
    if names_any(row, *RESPONSES):
        return "label" not in row and has_any(row, *RESPONSES)
    return has(row, "prompt") and isinstance(row.get("label"), str)


def read(row: Row) -> Record:
    """One demonstration."""
    name = first_of(row, RESPONSES) if names_any(row, *RESPONSES) else "label"
    if name != "label" and row.get("label") is not None:
        raise RowFault(
            "unread_field", "label", "'label' says whether the response was liked; read it as --format unpaired"
        )
    return assemble(parts_of(row, {"prompt": "prompt", "response": name}))


FORMAT = make_format(
    "prompt_completion", "demonstration", "prompt and completion", detect, read, ("prompt", *RESPONSES, "label")
)
