"""{"prompt": ..., "completion": ...} (or `response`): a demonstration, as text or as message lists.

The reference summaries that CarperAI published of TL;DR name the completion `label`: {"prompt": "...", "label": "..."}.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has, has_any, make_format
from preftree.records import Record

RESPONSES = ("completion", "response")


def detect(row: Row) -> bool:
    """Whether a response without a label is there."""
    if has_any(row, *RESPONSES):
        return "prompt" in row and row.get("label") is None and not has_any(row, "rejected", "rejected_response")
    return has(row, "prompt") and isinstance(row.get("label"), str)


def read(row: Row) -> Record:
    """One demonstration."""
    name = response_field(row)
    if row.get(name) is None:
        name = "label"
    elif row.get("label") is not None:
        raise RowFault(
            "unread_field", "label", "'label' says whether the response was liked; read it as --format unpaired"
        )
    return assemble(parts_of(row, {"prompt": "prompt", "response": name}))


def response_field(row: Row) -> str:
    """Name of the field that holds the response."""
    return next((name for name in RESPONSES if row.get(name) is not None), RESPONSES[0])


FORMAT = make_format(
    "prompt_completion", "demonstration", "prompt and completion", detect, read, ("prompt", *RESPONSES, "label")
)
