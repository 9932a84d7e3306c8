"""Rows of CSV files: a header, then one row after another, with cells between commas, semicolons or tabs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import BufferedIOBase

from preftree.data.rows.faults import RowFault
from preftree.data.rows.raw_row import MAX_ROW_BYTES, RawRow, check_names, too_long
from preftree.data.sources.streams import BLOCK, open_text
from preftree.errors import DataError
from preftree.records import Provenance

_DELIMITERS = ",;\t"
_BEGINS, _PLAIN, _QUOTED, _AFTER_QUOTE = range(4)  # where in a cell


def csv_rows(file: str) -> Iterator[RawRow]:
    """The rows of a CSV file, by the line where each begins.

    Raises:
      DataError: the header cannot be read, or names a column twice.
      OSError, EOFError, zlib.error, UnicodeDecodeError: as `open_text`.
    """
    csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process; the default is shorter than real responses
    delimiter = _delimiter(file)
    header: list[str] = []
    with open_text(file) as stream:
        lines = _RowLines(stream, delimiter)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            where = Provenance(file, lines.begin_row())
            try:
                cells = next(rows, None)
            except (csv.Error, _TooLong) as error:
                if not header:
                    raise DataError(f"{file}:{where.line}: the header is not CSV ({error}); fix the file") from None
                yield RawRow(where, _fault(error))
                continue
            if cells is None:
                return
            if header and cells:
                fault = RowFault("bad_csv", "row", f"the row has {len(cells)} cells, the header has {len(header)}")
                yield RawRow(where, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else fault)
            elif cells:
                header = check_names(file, cells)


def _fault(error: csv.Error | _TooLong) -> RowFault:
    if isinstance(error, _TooLong):
        return too_long("row")
    return RowFault("bad_csv", "row", f"the row is not CSV: {error}")


def _delimiter(file: str) -> str:
    """The tab in a .tsv; else whichever sign the header has most of, outside its quotes."""
    if file.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv"):
        return "\t"
    with open_text(file) as stream:
        header = b"\n"
        while header.isspace() and b"\t" not in header:
            header = stream.readline(BLOCK)
    unquoted = "".join(header.decode("utf-8", "surrogateescape").split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


class _TooLong(Exception):
    """The row is longer than a row may be; it has been passed, and the next one can be read."""

    def __str__(self) -> str:
        return f"longer than {MAX_ROW_BYTES >> 20} MiB"


class _RowLines:
    """The lines of a CSV file for `csv.reader`, counted, and no more of one row than it may have."""

    def __init__(self, stream: BufferedIOBase, delimiter: str) -> None:
        self._stream = stream
        self._delimiter = delimiter.encode()
        self._line = 0
        self._row = bytearray()

    def begin_row(self) -> int:
        """Begin with the next row; its line, from 1."""
        self._row.clear()
        return self._line + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line of the row.

        Raises:
          _TooLong: the row is, and has been passed.
          csv.Error: the row is too long since a quote in it has no end.
        """
        line = self._stream.readline(MAX_ROW_BYTES + 1 - len(self._row))
        if not line:
            raise StopIteration
        self._row += line
        if len(self._row) > MAX_ROW_BYTES:
            self._pass_row(at_break=line.endswith(b"\n"))
            raise _TooLong
        self._line += 1
        return line.decode("utf-8", "surrogateescape")  # a bad byte is then a fault of its field

    def _pass_row(self, *, at_break: bool) -> None:
        """Go to the end of the row, which only its quotes show, without holding more of it."""
        state = _state_after(bytes(self._row), _BEGINS, self._delimiter)
        self._row.clear()
        self._line += at_break
        while not at_break or state == _QUOTED:
            part = self._stream.readline(BLOCK)
            if not part:
                break
            state = _state_after(part, state, self._delimiter)
            at_break = part.endswith(b"\n")
            self._line += at_break
        if state == _QUOTED:
            raise csv.Error("a quote in it has no end")


def _state_after(part: bytes, state: int, delimiter: bytes) -> int:
    """Where within a cell a part of a row ends, from where it begins; as `csv.reader` sees it."""
    place = 0
    while place < len(part):
        if state in (_BEGINS, _AFTER_QUOTE):  # here a quote opens the cell, or stands for itself
            sign = part[place : place + 1]
            state = _QUOTED if sign == b'"' else _BEGINS if sign == delimiter else _PLAIN
        elif (place := part.find(delimiter if state == _PLAIN else b'"', place)) < 0:
            break
        else:
            state = _BEGINS if state == _PLAIN else _AFTER_QUOTE
        place += 1
    return state
