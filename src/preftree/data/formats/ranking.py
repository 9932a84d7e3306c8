"""{"prompt": "...", "responses": [...]}: best first, or ordered by `scores` (more is better) or `ranks` (less is).

Responses of equal score or rank are equally good. The prompt is text, or messages in `prompt` or `messages`; an
`instruction` is the user's turn. distilabel's `generations` with `ratings` are the same.
"""

from __future__ import annotations

from preftree.data.formats import completions
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, make_format, names_any
from preftree.data.rows.parts import parts_of
from preftree.records import Record

_PROMPTS = ("prompt", "messages", "instruction")
_RESPONSES = ("responses", "generations")
_SCORES = ("scores", "ratings")


def detect(row: Row) -> bool:
    """Whether there is a list of responses to a prompt; of generations, with scores or ranks."""
    if (
        not any(isinstance(row.get(name), str | list) for name in _PROMPTS)
        or names_any(row, "chosen", "rejected")
        or completions.detect(row)
    ):
        return False
    generated = isinstance(row.get("generations"), list) and names_any(row, "ranks", *_SCORES)
    return isinstance(row.get("responses"), list) or generated


def read(row: Row) -> Record:
    """One ranking."""
    prompt = first_of(row, _PROMPTS)
    names = {"messages" if prompt == "messages" else "prompt": prompt, "responses": first_of(row, _RESPONSES)}
    if names_any(row, *_SCORES):
        names["scores"] = first_of(row, _SCORES)
    elif "ranks" in row:
        names["ranks"] = "ranks"
    return assemble(parts_of(row, names), chat=prompt == "instruction")


FORMAT = make_format(
    "ranking",
    "list",
    "responses to a prompt, ranked or scored",
    detect,
    read,
    (*_PROMPTS, *_RESPONSES, *_SCORES, "ranks"),
)
