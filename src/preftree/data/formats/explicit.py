"""{"prompt": "...", "chosen": "...", "rejected": "..."}: plain text, with the prompt in a separate field."""

from __future__ import annotations

from preftree.data.rows.fields import Row, preference, response_text, take, text
from preftree.records import Preference


def detect(row: Row) -> bool:
    """Whether the fields are present; their values are checked row by row."""
    return {"prompt", "chosen", "rejected"} <= row.keys()


def read(row: Row) -> Preference:
    """One pair; the responses follow the prompt unchanged, with nothing in between."""
    prompt = take(row, text, "prompt")
    chosen = take(row, response_text, "chosen")
    rejected = take(row, response_text, "rejected")
    return preference(row, prompt, ("chosen", chosen), ("rejected", rejected))
