"""{"instruction": "...", "completions": [{"response": "...", "overall_score": 8.0}, ...]}: K scored completions.

The raw UltraFeedback; NeMo-RL's {"context": [...], "completions": [{"rank": 0, "completion": [...]}]}, where the
smallest rank is best; Gemini's {"contents": [...], "completions": [{"score": 1, "completion": {...}}]}.
"""

from __future__ import annotations

from typing import Any

from preftree.data.rows.assemble import Given, assemble, parts_of
from preftree.data.rows.fields import Row, items, number, present
from preftree.data.rows.format import make_format
from preftree.records import Record

_PROMPTS = ("instruction", "prompt", "context", "contents", "messages")
_RESPONSES = ("response", "completion", "text")
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")


def detect(row: Row) -> bool:
    """Whether there are completions that are objects."""
    completions = row.get("completions")
    return isinstance(completions, list) and any(isinstance(item, dict) for item in completions)


def read(row: Row) -> Record:
    """One ranking: the instruction is the user's turn, a completion the assistant's."""
    prompt, _ = present(row, *_PROMPTS)
    names = {"messages" if isinstance(row[prompt], list) else "prompt": prompt}
    if row.get("system_instruction") is not None:
        names["system"] = "system_instruction"
    parts = parts_of(row, names)
    responses, orders = [], []
    ranked = all(
        isinstance(item, dict) and item.get("rank") is not None for item in items(row.get("completions"), "completions")
    )
    for index, item in enumerate(row["completions"]):
        prefix = f"completions[{index}]"
        completion = item if isinstance(item, dict) else {}
        responses.append(_inside(completion, prefix, *_RESPONSES)[1])
        field, value = _inside(completion, prefix, *(("rank",) if ranked else _SCORES))
        orders.append(number(value, field))
    parts["responses"] = Given("completions", responses)
    parts["ranks" if ranked else "scores"] = Given("completions", orders)
    return assemble(parts, chat=True)


def _inside(completion: Row, prefix: str, *names: str) -> tuple[str, Any]:
    """A field of one completion, under the name that leads to it in the row."""
    named = {f"{prefix}.{name}": completion.get(name) for name in names}
    return present(named, *named)


FORMAT = make_format(
    "ultrafeedback",
    "list",
    "scored or ranked completions",
    detect,
    read,
    (*_PROMPTS, "system_instruction", "completions"),
)
