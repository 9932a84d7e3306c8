"""What can be wrong with a row, and the count of it.

A faulty row is rejected whole: its first fault is counted, and shown with file, line and field. Nothing is repaired.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from preftree.errors import DataError
from preftree.records import Provenance

FAULTS: dict[str, str] = {
    "bad_json": "not JSON, or nested too deep",
    "bad_csv": "not CSV, or another number of cells than the header has",
    "bad_utf8": "bytes that are not UTF-8",
    "bad_text": "a NUL, half a surrogate pair, or U+FFFD, the mark of an earlier decoding error",
    "line_too_long": "more than 16 MiB",
    "missing_field": "a field that the format needs is absent or null",
    "wrong_type": "a field of another type than the format says",
    "bad_value": "a number or label that makes no sense, or contradicts another field of the row",
    "bad_transcript": "a transcript without a human turn, or one that does not end with the assistant's",
    "bad_messages": "a conversation whose roles are out of order, or that the chat template refuses",
    "empty_response": "a response of nothing but white space",
    "same_responses": "two responses that are equal, as text or as tokens",
    "prompts_differ": "the responses do not answer the same prompt",
    "no_preference": "fewer than two responses, or no two that differ in score",
    "duplicate": "the same comparison, label or demonstration stood in an earlier row",
    "contradiction": "an earlier row prefers the other response",
    "too_long": "over a token budget, and the truncation policy does not mend it",
    "special_token": "a special token written out in the text",
    "template_alters_prompt": "the chat template renders the prompt otherwise once the response follows",
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
    """Rows seen and rejected so far; keeps the first `keep` places, and counts them all."""

    keep: int = 20
    rows: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def num_rejected(self) -> int:
        """Rows with a fault."""
        return self.faults.total()

    @property
    def accepted(self) -> int:
        """Rows without a fault."""
        return self.rows - self.num_rejected

    def reject(self, where: Provenance, fault: RowFault) -> None:
        """Count a faulty row."""
        self.faults[fault.fault] += 1
        if len(self.rejected) < self.keep:
            self.rejected.append(Rejected(where.file, where.line, fault.field, fault.fault, fault.message))

    def check(self, path: str, max_share: float) -> None:
        """Stop where too much was rejected.

        Raises:
          DataError: no row is left, or more than `max_share` of the rows were rejected.
        """
        if not self.rows:
            raise DataError(f"{path} holds no rows")
        if self.accepted and self.num_rejected <= max_share * self.rows:
            return
        counts = ", ".join(f"{fault} {count}" for fault, count in self.faults.most_common())
        raise DataError(
            f"{path}: {self.num_rejected} of {self.rows} rows rejected, wanted at most {max_share:.1%} "
            f"({counts}; first: {self.rejected[0]}); mend the file, look at it with 'preftree data inspect', "
            "or allow more with data.max_rejected"
        )
