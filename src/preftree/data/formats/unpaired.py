"""{"prompt": ..., "completion": ..., "label": true}: one response and whether it was liked; text or message lists."""

from __future__ import annotations

from preftree.data.formats.prompt_completion import RESPONSES, response_field
from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has_any, make_format
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether a labelled response to a prompt is there."""
    return "prompt" in row and row.get("label") is not None and has_any(row, *RESPONSES)


def read(row: Row) -> Record:
    """One label."""
    return assemble(parts_of(row, {"prompt": "prompt", "response": response_field(row), "label": "label"}))


FORMAT = make_format(
    "unpaired", "response", "single responses, liked or not", detect, read, ("prompt", *RESPONSES, "label")
)
