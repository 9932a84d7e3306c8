"""A row as its file has it, and how long it may be: what every reader of files yields."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.errors import DataError
from preftree.records import Provenance

MAX_ROW_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file has it, or why it could not be read."""

    where: Provenance
    row: Row | RowFault


def too_long(what: str) -> RowFault:
    """The fault of a line or a row over MAX_ROW_BYTES."""
    return RowFault("line_too_long", "row", f"the {what} is longer than {MAX_ROW_BYTES >> 20} MiB; drop or shorten it")


def as_row(value: Any) -> Row | RowFault:
    """A decoded value as a row; a fault where it is no object."""
    if isinstance(value, dict):
        return value
    return RowFault("wrong_type", "row", "the row must be an object with named fields")


def check_names(file: str, names: list[str]) -> list[str]:
    """See that the columns of a table differ in name.

    Raises:
      DataError: two have the same.
    """
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{file} names column {twice[0]!r} twice; rename one")
    return names
