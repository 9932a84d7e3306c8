"""Inspection of a data file without a tokenizer: format, counts, faults, lengths, one record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from preftree.data.rows.conversion import as_kind, check_kind
from preftree.data.rows.faults import Tally
from preftree.data.rows.format import Format
from preftree.data.rows.texts import length, named_texts, spread
from preftree.data.sources.reader import Source, find_format, find_source, read_records
from preftree.records import Kind, Provenance, Record

KEPT_PLACES = 10_000


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of an inspection.

    Attributes:
      source: The source of the rows.
      format: Their format.
      tally: Rows and faults, with the first 10 000 rejected rows.
      lengths: Characters of each part, as length -> count.
      num_records: Records after conversion to the requested kind: a ranking gives several pairs.
      first: The first accepted record, and its origin.
    """

    source: Source
    format: Format
    tally: Tally
    lengths: dict[str, Counter[int]]
    num_records: int
    first: tuple[Provenance, Record] | None

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form; `rejected` names the file as well where there are several."""
        several = len(self.source.files) > 1
        rejected = [
            ({"file": row.file} if several else {})
            | {"line": row.line, "field": row.field, "fault": row.fault, "message": row.message}
            for row in self.tally.rejected
        ]
        return {
            "format": self.format.name,
            "rows": self.tally.rows,
            "accepted": self.tally.accepted,
            "rejected": rejected,
            "faults": dict(self.tally.faults),
            "lengths": {"unit": "characters"} | {part: spread(counts) for part, counts in self.lengths.items()},
        }


def inspect_file(
    path: str, *, format_name: str | None = None, kind: Kind | None = None, chosen_side: bool = False
) -> Inspection:
    """Read a whole source and count its rows; faults do not stop it.

    Raises:
      DataError: the source cannot be read, its format is unknown, or cannot become the requested kind.
    """
    source = find_source(path)
    form = find_format(source, format_name)
    if kind is not None:
        check_kind(path, form, kind, chosen_side=chosen_side)
    tally, lengths, num_records = Tally(keep=KEPT_PLACES), {}, 0
    first = None
    for where, record in read_records(source, form, tally):
        for item in [record] if kind is None else as_kind(record, kind, chosen_side=chosen_side):
            num_records += 1
            first = first or (where, item)
            for part, text in named_texts(item):
                lengths.setdefault(part, Counter())[length(text)] += 1
    return Inspection(source, form, tally, lengths, num_records, first)
