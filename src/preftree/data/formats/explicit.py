"""{"prompt": "...", "chosen": "...", "rejected": "..."}: plain text, with the prompt in a separate field.

The responses follow the prompt unchanged, with nothing in between. A `system` text makes a conversation of them.
"""

from __future__ import annotations

from preftree.data.formats import collected, hh, tldr_pairs
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import parts_of
from preftree.records import Record

_NAMES = ("prompt", "chosen", "rejected")


def detect(row: Row) -> bool:
    """Whether the three are text, and neither TL;DR pairs nor transcripts nor pairs with votes."""
    for name in _NAMES:
        if not isinstance(row.get(name), str):
            return False
    return not (tldr_pairs.detect(row) or hh.detect(row) or collected.detect(row))


def read(row: Row) -> Record:
    """One pair."""
    return assemble(parts_of(row, {name: name for name in _NAMES}))


FORMAT = make_format("explicit", "pair", "prompt, chosen and rejected as text", detect, read, _NAMES)
