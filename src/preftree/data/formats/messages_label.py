"""{"messages": [...], "label": true}: a conversation whose last answer is liked or not; `kto_tag` in ShareGPT."""

from __future__ import annotations

from preftree.data.formats.messages import CONVERSATIONS, LABELS, REJECTED, conversation_field
from preftree.data.rows.assemble import assemble, parts_of
from preftree.data.rows.fields import Row
from preftree.data.rows.format import has_any, make_format
from preftree.records import Record


def detect(row: Row) -> bool:
    """Whether there is a conversation and a label."""
    labelled = any(row.get(name) is not None for name in LABELS)
    return isinstance(row.get(conversation_field(row)), list) and labelled and not has_any(row, *REJECTED)


def read(row: Row) -> Record:
    """One label."""
    label = next((name for name in LABELS if row.get(name) is not None), LABELS[0])
    return assemble(parts_of(row, {"messages": conversation_field(row), "label": label}))


FORMAT = make_format(
    "messages_label", "response", "conversations, liked or not", detect, read, (*CONVERSATIONS, *LABELS)
)
