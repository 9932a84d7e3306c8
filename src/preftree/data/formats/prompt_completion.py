"""{"prompt": ..., "completion": ...} (or `response`): a demonstration, as text or as message lists.

The reference summaries that CarperAI published of TL;DR name the completion `label`: {"prompt": "...", "label": "..."}.
"""

from __future__ import annotations

from preftree.data.rows.fields import (
    Row,
    messages,
    present,
    prompt_messages,
    response_messages,
    response_text,
    text,
    weight,
)
from preftree.records import Demonstration, Text


def detect(row: Row) -> bool:
    """Whether there is a response without a label."""
    if "completion" in row or "response" in row:
        return "prompt" in row and "label" not in row
    return "prompt" in row and isinstance(row.get("label"), str)


def read(row: Row) -> Demonstration:
    """One demonstration."""
    prompt, response = exchange(row, "label")
    return Demonstration(prompt, response, weight(row))


def exchange(row: Row, *more: str) -> tuple[Text, Text]:
    """Prompt and response, both as text or both as messages; `more` are other names of the response."""
    prompt = present(row, "prompt")[1]
    where, response = present(row, "completion", "response", *more)
    if isinstance(prompt, list):
        turns = prompt_messages(messages(prompt, "prompt"), "prompt")
        return turns, response_messages(messages(response, where), where)
    return text(prompt, "prompt"), response_text(response, where)
