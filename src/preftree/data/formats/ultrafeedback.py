"""{"instruction": "...", "completions": [{"response": "...", "overall_score": 8.0}, ...]}: K scored completions.

A row is a ranking; as pairs it gives each better completion with each worse one, with the score difference as margin.
"""

from __future__ import annotations

from typing import Any

from preftree.data.formats.ranking import rank
from preftree.data.rows.fields import Row, items, number, present, response_text, take, text
from preftree.records import Message, Ranking

_SCORES = ("overall_score", "score", "rating", "fine-grained_score")


def detect(row: Row) -> bool:
    """Whether there are completions as objects."""
    completions = row.get("completions")
    return isinstance(completions, list) and any(isinstance(item, dict) for item in completions)


def read(row: Row) -> Ranking:
    """One ranking: the instruction is the user's turn, a completion the assistant's."""
    prompt = (Message("user", take(row, text, "instruction", "prompt")),)
    named, scores = [], []
    for index, item in enumerate(items(row.get("completions"), "completions")):
        prefix = f"completions[{index}]"
        completion = item if isinstance(item, dict) else {}
        field, value = _inside(completion, prefix, "response", "text", "completion")
        named.append((field, (Message("assistant", response_text(value, field)),)))
        field, value = _inside(completion, prefix, *_SCORES)
        scores.append(number(value, field))
    return rank(row, prompt, named, {"scores": tuple(scores)}, "completions")


def _inside(completion: Row, prefix: str, *names: str) -> tuple[str, Any]:
    """A field of one completion, with its path in the row."""
    named = {f"{prefix}.{name}": completion.get(name) for name in names}
    return present(named, *named)
