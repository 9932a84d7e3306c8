"""{"messages": [...], "label": true}: a conversation whose last answer is liked or not; `kto_tag` in ShareGPT."""

from __future__ import annotations

from preftree.data.formats.messages import CONVERSATIONS, LABELS, REJECTED, conversation_field
from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row
from preftree.data.rows.format import first_of, has_any, make_format, names_any
from preftree.data.rows.parts import parts_of
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a conversation and a label."""
    labelled = has_any(row, *LABELS) and not names_any(row, "chosen", *REJECTED)
    return isinstance(row.get(conversation_field(row)), list) and labelled


def read(row: Row) -> Record:
    """One label."""
    return assemble(parts_of(row, {"messages": conversation_field(row), "label": first_of(row, LABELS)}))


FORMAT = make_format(
    "messages_label", "response", "conversations, liked or not", detect, read, (*CONVERSATIONS, *LABELS)
)
