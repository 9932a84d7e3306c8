"""{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}: OpenAI, Azure, Together.

Tools are read from `input.tools`.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, type_name
from preftree.data.rows.format import has, make_format
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether the two outputs are there."""
    return has(row, "input", "preferred_output", "non_preferred_output")


def read(row: Row) -> Record:
    """One pair."""
    given = row["input"] if row.get("input") is not None else {}
    if not isinstance(given, dict):
        raise RowFault("wrong_type", "input", f"'input' must be an object with messages, got {type_name(given)}")
    parts = parts_of(row, {"chosen": "preferred_output", "rejected": "non_preferred_output"})
    parts["messages"] = Given("input.messages", given.get("messages"))
    if given.get("tools"):
        parts["tools"] = Given("input.tools", given["tools"])
    return assemble(parts, chat=True)


FORMAT = make_format(
    "preferred_output",
    "pair",
    "preferred and other outputs",
    detect,
    read,
    ("input", "preferred_output", "non_preferred_output"),
)
