"""{"prompt": ..., "completion": ...} (or `response`): a demonstration, as text or as message lists."""

from __future__ import annotations

from preftree.data.fields import Row, messages, present, prompt_messages, response_messages, response_text, text, weight
from preftree.records import Demonstration, Text


def detect(row: Row) -> bool:
    """Whether a response without a label is there."""
    return "prompt" in row and ("completion" in row or "response" in row) and "label" not in row


def read(row: Row) -> Demonstration:
    """One demonstration."""
    prompt, response = exchange(row)
    return Demonstration(prompt, response, weight(row))


def exchange(row: Row) -> tuple[Text, Text]:
    """Prompt and response, both as text or both as messages."""
    prompt = present(row, "prompt")[1]
    where, response = present(row, "completion", "response")
    if isinstance(prompt, list):
        turns = prompt_messages(messages(prompt, "prompt"), "prompt")
        return turns, response_messages(messages(response, where), where)
    return text(prompt, "prompt"), response_text(response, where)
