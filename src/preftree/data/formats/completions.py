"""{"instruction": "...", "completions": [{"response": "...", "overall_score": 8.0}, ...]}: K scored completions.

The raw UltraFeedback; NeMo-RL's {"context": [...], "completions": [{"rank": 0, "completion": [...]}]}, where the
smallest rank is best; Gemini's {"contents": [...], "completions": [{"score": 1, "completion": {...}}]}; Nectar's and
Stack Exchange's `answers`. A prompt that ends with "Assistant:" is plain text, any other the user's turn.
"""

from __future__ import annotations

from typing import Any

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, items, number, present
from preftree.data.rows.format import make_format, names_any
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

LISTS = ("completions", "responses", "answers", "candidates", "generations")
_PROMPTS = ("instruction", "prompt", "context", "contents", "messages", "question")
_RESPONSES = ("response", "completion", "text", "answer", "content")
_SYSTEMS = ("system_instruction", "systemInstruction")
_SCORES = ("overall_score", "score", "rating", "fine-grained_score", "pm_score")
_MISTAKEN = "'{}' is 10 where 'fine-grained_score' is {:g}, a known mistake of the data; take this completion out"


def detect(row: Row) -> bool:
    """Whether there are completions that are objects, with scores or ranks where they have another name."""
    field = _list_of_objects(row)
    return field is not None and not names_any(row, "chosen", "rejected")


def read(row: Row) -> Record:
    """One ranking: the instruction is the user's turn, a completion the assistant's."""
    name, value = present(row, *_PROMPTS)
    plain = isinstance(value, str) and value.rstrip().endswith("Assistant:")
    parts = parts_of(row, {"messages" if isinstance(value, list) else "prompt": name})
    for system in _SYSTEMS:
        if row.get(system) is not None:
            parts["system"] = Given(system, row[system])
    field = _list_of_objects(row) or "completions"
    given = items(row.get(field), field)
    by_rank = all(isinstance(item, dict) and item.get("rank") is not None for item in given)
    responses, orders = [], []
    for index, item in enumerate(given):
        completion, prefix = item if isinstance(item, dict) else {}, f"{field}[{index}]"
        responses.append(Given(*_inside(completion, prefix, *_RESPONSES)))
        orders.append(_order(completion, prefix, by_rank))
    parts["responses"] = Given(field, responses)
    parts["ranks" if by_rank else "scores"] = Given(field, orders)
    return assemble(parts, chat=not plain)


def _list_of_objects(row: Row) -> str | None:
    """Name of the field that lists completions as objects."""
    for name in LISTS:
        value = row.get(name)
        objects = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        if name == "completions" and objects:
            return name
        if any(names_any(item, *_RESPONSES) and names_any(item, "rank", *_SCORES) for item in objects):
            return name
    return None


def _order(completion: Row, prefix: str, by_rank: bool) -> float:
    """Rank or score of a completion."""
    field, value = _inside(completion, prefix, *(("rank",) if by_rank else _SCORES))
    order = number(value, field)
    fine = completion.get("fine-grained_score")
    if field.endswith(".overall_score") and order == 10 and isinstance(fine, int | float) and fine <= 1:
        raise RowFault("bad_value", field, _MISTAKEN.format(field, fine))
    return order


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
    (*_PROMPTS, *_SYSTEMS, *LISTS),
)
