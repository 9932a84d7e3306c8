"""{"prompt": "...", "responses": [...]}: best first, or ordered by `scores` (more is better) or `ranks` (less is).

Responses of equal score or rank are equally good. The prompt is text, or messages in `prompt` or `messages`.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has_any, make_format
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a list of responses to a prompt."""
    return has_any(row, "prompt", "messages") and isinstance(row.get("responses"), list)


def read(row: Row) -> Record:
    """One ranking."""
    prompt = "messages" if row.get("prompt") is None else "prompt"
    return assemble(parts_of(row, {prompt: prompt, "responses": "responses", "ranks": "ranks"}))


FORMAT = make_format(
    "ranking",
    "list",
    "responses to a prompt, ranked or scored",
    detect,
    read,
    ("prompt", "messages", "responses", "ranks"),
)
