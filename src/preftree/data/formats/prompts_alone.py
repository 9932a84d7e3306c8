"""{"prompt": ...} without a response: rows that only `generate`, `ppo`, `rloo` and the like can use.

The format is not in the table: a file of prompts alone is none to train on. The response of its records is empty.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import MEANINGFUL, make_format
from preftree.data.rows.parts import SYNONYMS, Given, parts_of
from preftree.records import Demonstration, Record, Text

_PROMPT = ("prompt", "system", "tools", "chat_template_kwargs")


def prompt_of(row: Row) -> Text:
    """The prompt of a row that names it so, with the system message, tools and template options beside it.

    Raises:
      RowFault: one of these is not what its name says.
    """
    parts = {name: part for name, part in parts_of(row, {"prompt": "prompt"}).items() if name in _PROMPT}
    return assemble(parts | {"response": Given("response", "-")}).prompt


def detect(row: Row) -> bool:
    """Whether a row has a prompt and no response: no field of several words beside what belongs to the prompt."""
    others = [value for name, value in row.items() if name not in (*_PROMPT, *SYNONYMS)]
    named = any(name in MEANINGFUL for name in row if name != "prompt" and row[name] not in (None, "", [], {}))
    return row.get("prompt") is not None and not named and not any(map(_is_sentence, others))


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and len(value.split()) > 1


def read(row: Row) -> Record:
    """The prompt with an empty response."""
    return Demonstration(prompt_of(row), "")


FORMAT = make_format("prompts", None, "prompts without responses", detect, read, ("prompt",))
