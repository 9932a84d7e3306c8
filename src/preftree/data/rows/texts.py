"""Texts of a record by name, their lengths, and a summary of counted lengths."""

from __future__ import annotations

from collections import Counter

from preftree.records import Demonstration, Label, Preference, Ranking, Record, Text


def named_texts(record: Record) -> list[tuple[str, Text]]:
    """The texts of a record by name, the prompt first."""
    if isinstance(record, Preference):
        return [("prompt", record.prompt), ("chosen", record.chosen), ("rejected", record.rejected)]
    if isinstance(record, Ranking):
        return [("prompt", record.prompt), *(("response", response) for response in record.responses)]
    assert isinstance(record, Label | Demonstration)
    return [("prompt", record.prompt), ("response", record.response)]


def length(text: Text) -> int:
    """Characters of a text, or of all turns of a conversation."""
    return len(text) if isinstance(text, str) else sum([len(message.content) for message in text])


def spread(counts: Counter[int]) -> dict[str, int | float]:
    """Smallest, median, mean and largest of counted lengths."""
    total = counts.total()
    reached, median = 0, 0
    for value in sorted(counts):
        reached += counts[value]
        if 2 * reached >= total:
            median = value
            break
    mean = sum(value * count for value, count in counts.items()) / total
    return {"min": min(counts), "median": median, "mean": round(mean, 1), "max": max(counts)}
