"""{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "..."}: raw transcripts of Anthropic's HH-RLHF.

The prompt ends with the last "\\n\\nAssistant:" of each side, and both sides must have the same one. A common beginning
of the two texts would not do: responses that begin alike would lose their first words to the prompt.
"""

from __future__ import annotations

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, preference, response_text, take, text
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import NUMBERS
from preftree.records import Preference

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"


def detect(row: Row) -> bool:
    """Whether a side without a prompt holds an assistant turn."""
    if "chosen" not in row or "rejected" not in row or row.get("prompt"):
        return False
    chosen, rejected = row["chosen"], row["rejected"]
    return (isinstance(chosen, str) and ASSISTANT in chosen) or (isinstance(rejected, str) and ASSISTANT in rejected)


def read(row: Row) -> Preference:
    """One pair, cut at the last assistant turn."""
    prompt, chosen = take(row, split, "chosen")
    other, rejected = take(row, split, "rejected")
    if prompt != other:
        raise RowFault("prompts_differ", "rejected", "'chosen' and 'rejected' differ before their last assistant turn")
    response_text(chosen, "chosen")
    response_text(rejected, "rejected")
    return preference(row, prompt, ("chosen", chosen), ("rejected", rejected))


def split(transcript: object, where: str) -> tuple[str, str]:
    """Prompt and response of a transcript.

    Raises:
      RowFault: no human turn, or the last turn is not the assistant's.
    """
    whole = text(transcript, where)
    place = whole.rfind(ASSISTANT)
    if place < 0 or whole.rfind(HUMAN) > place:
        raise RowFault("bad_transcript", where, f"'{where}' does not end with an assistant turn")
    place += len(ASSISTANT)
    if HUMAN not in whole[:place]:
        raise RowFault("bad_transcript", where, f"'{where}' has no human turn")
    return whole[:place], whole[place:]


FORMAT = make_format(
    "hh",
    "pair",
    "HH transcripts, cut at the last assistant turn",
    detect,
    read,
    ("prompt", "chosen", "rejected"),
    beside=NUMBERS,
)
