"""{"prompt": ..., "completion": ..., "label": true}: one response and whether it was liked; text or message lists."""

from __future__ import annotations

from preftree.data.formats.prompt_completion import exchange
from preftree.data.rows.fields import Row, figures, flag, take, weight
from preftree.records import Label


def detect(row: Row) -> bool:
    """Whether there is a labelled response."""
    return {"prompt", "label"} <= row.keys() and ("completion" in row or "response" in row)


def read(row: Row) -> Label:
    """One label."""
    prompt, response = exchange(row)
    return Label(prompt, response, take(row, flag, "label"), weight(row), figures(row, "response"))
