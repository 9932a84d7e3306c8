"""{"system": "...", "question": "...", "chosen": "...", "rejected": "..."}: Orca pairs; `input` for `question`.

The question is the user's turn. `status` "tie" (distilabel) makes a tie.
"""

from __future__ import annotations

from preftree.data.rows.assemble import Given, assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has, has_any, make_format
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a question with two sides."""
    elsewhere = has_any(row, "prompt", "messages", "conversations", "instruction")
    return any(isinstance(row.get(name), str) for name in ("question", "input")) and (
        has(row, "chosen", "rejected") and not elsewhere
    )


def read(row: Row) -> Record:
    """One pair."""
    question = "question" if has(row, "question") else "input"
    parts = parts_of(row, {"prompt": question, "chosen": "chosen", "rejected": "rejected"})
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
