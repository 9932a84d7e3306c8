"""Faults of rows, and the tally of rows read, rejected and changed.

A faulty row is rejected whole: its first fault is counted, and shown with file, line and field. Nothing is repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preftree.errors import DataError
from preftree.records import Provenance

FAULTS: dict[str, str] = {
    "bad_json": "not JSON, or nested too deep",
    "bad_csv": "not CSV, or another number of cells than the header",
    "bad_utf8": "bytes that are not UTF-8",
    "bad_text": "a NUL, half a surrogate pair, or U+FFFD, the mark of an earlier decoding error",
    "duplicate_key": "a key that occurs twice in one object",
    "line_too_long": "more than 16 MiB",
    "missing_field": "a field that the format needs is absent or null",
    "not_text": "images, sound or film",
    "unread_field": "a field that would change the prompt or the target, and that the format does not read",
    "other_format": "a row of another format than the rows around it",
    "wrong_type": "a field of another type than the format's",
    "bad_value": "an invalid number or label, or one that contradicts another field of the row",
    "bad_transcript": "a transcript without a human turn, or one that does not end with the assistant's",
    "bad_messages": "a conversation with roles out of order, or one that the chat template refuses",
    "empty_response": "a response of white space only",
    "same_responses": "two responses that are equal, as text or as tokens",
    "prompts_differ": "the responses do not answer the same prompt",
    "no_preference": "fewer than two responses, or no two that differ in score",
    "contradiction": "an earlier row prefers the other response",
    "too_long": "over a token budget, and the truncation policy does not make it fit",
    "special_token": "a special token written out in the text",
    "template_alters_prompt": "the chat template renders the prompt differently when the response follows",
    "template_alters_response": "the chat template omits, extends or rewrites a part of the response",
}


ACTIONS: dict[str, str] = {
    "longer_dialogue": "dialogues left out, since they have more human turns than the limit",
    "trimmed_prompt": "prompts trimmed at the beginning",
    "trimmed_response": "responses trimmed at the end, without EOS",
    "dropped_pair": "pairs of a ranking left out, since a response is too long or both are equal as tokens",
    "dropped_response": "responses of a ranking left out, since they are too long or equal a better one as tokens",
    "repeated_response": "chosen responses left out, since an earlier pair has the same",
    "lone_answer": "turns with fewer than two ranked answers",
    "unknown_token": "rows with text that the tokenizer has no token for",
}


class RowFault(Exception):
    """One row is faulty; caught where rows are counted."""

    def __init__(self, fault: str, field: str, message: str) -> None:
        assert fault in FAULTS, fault
        super().__init__(message)
        self.fault = fault
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was left out, and why."""

    file: str
    line: int
    field: str
    fault: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(slots=True)
class Tally:
    """Rows seen and rejected so far, and what was done to accepted ones; keeps the first places, and counts them all.

    Attributes:
      keep: How many rejected rows are kept.
      rows: Rows seen.
      faults: Rejected rows by their first fault.
      rejected: The first of them.
      actions: How often something was cut or left out of an accepted row, by name (see ACTIONS).
      places: The first rows that each action touched.
      repeated: Rows left out since an earlier one says the same; they are no faults.
      unread: Fields that are not empty and that the format does not read, with the rows that have them.
    """

    keep: int = 20
    rows: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    unread: Counter[str] = field(default_factory=Counter)

    @property
    def num_rejected(self) -> int:
        """Rows with a fault."""
        return self.faults.total()

    @property
    def accepted(self) -> int:
        """Rows without a fault that repeat no earlier one."""
        return self.rows - self.num_rejected - self.repeated

    def reject(self, where: Provenance, fault: RowFault) -> None:
        """Count a faulty row."""
        self.faults[fault.fault] += 1
        if len(self.rejected) < self.keep:
            self.rejected.append(Rejected(where.file, where.line, fault.field, fault.fault, fault.message))

    def repeat(self, where: Provenance) -> None:
        """Count a row that says what an earlier one said."""
        self.repeated += 1
        self._keep("repeated", where)

    def note(self, action: str, where: Provenance) -> None:
        """Count what was done to an accepted row."""
        assert action in ACTIONS, action
        self.actions[action] += 1
        self._keep(action, where)

    def _keep(self, action: str, where: Provenance) -> None:
        places = self.places.setdefault(action, [])
        if len(places) < 5 and str(where) not in places:  # both responses of a row may have been cut
            places.append(str(where))


def check_share(path: str, rows: int, faults: Mapping[str, int], first: Sequence[Rejected], max_share: float) -> None:
    """Stop where too much was rejected.

    Raises:
      DataError: there is no row, none is left, or more than `max_share` of the rows were rejected.
    """
    num_rejected = sum(faults.values())
    if not rows:
        raise DataError(f"{path} holds no rows")
    if num_rejected < rows and num_rejected <= max_share * rows:
        return
    counts = ", ".join(f"{fault} {count}" for fault, count in sorted(faults.items(), key=lambda item: -item[1]))
    raise DataError(
        f"{path}: {num_rejected} of {rows} rows rejected, wanted at most {max_share:.1%} ({counts}; first: {first[0]});"
        " fix the file (see 'preftree data inspect'), say with columns what each field is, or raise max_rejected"
    )
