"""{"system": "...", "question": "...", "chosen": "...", "rejected": "..."}: Orca pairs; `input` for `question`.

The question is the user's turn. `status` "tie" (distilabel) makes a tie.
"""

from __future__ import annotations

from preftree.data.formats import conversational
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, has, make_format, names_any
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

_QUESTIONS = ("question", "input")


def detect(row: Row) -> bool:
    """Whether there is a question with two sides."""
    asked = any(isinstance(row.get(name), str) for name in _QUESTIONS)
    elsewhere = names_any(row, "prompt", "messages", "conversations", "conversation", "instruction", "query")
    return asked and has(row, "chosen", "rejected") and not elsewhere and not conversational.detect(row)


def read(row: Row) -> Record:
    """One pair."""
    parts = parts_of(row, {"prompt": first_of(row, _QUESTIONS), "chosen": "chosen", "rejected": "rejected"})
    if row.get("status") == "tie":
        parts["tie"] = Given("status", True)
    return assemble(parts, chat=True)


FORMAT = make_format(
    "question_pair",
    "pair",
    "a question with chosen and rejected answers",
    detect,
    read,
    ("question", "input", "chosen", "rejected", "status"),
)
