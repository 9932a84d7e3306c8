"""Reader of a data source: its files or hub data set, the format of its rows, and its records."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from preftree.data.formats import FORMATS, format_of
from preftree.data.formats.refusal import refusal
from preftree.data.rows.columns import Columns, look_up
from preftree.data.rows.duplicates import Repeated, Seen
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.fields import Row
from preftree.data.rows.format import Format
from preftree.data.rows.raw_row import RawRow
from preftree.data.sources.files import SUFFIXES, data_files, read_file
from preftree.data.sources.hub import HubData, find_on_hub, looks_like_hub_id, read_hub
from preftree.data.sources.json_rows import LIST_NAMES
from preftree.errors import DataError
from preftree.records import Provenance, Record

SNIFFED_ROWS = 100


@dataclass(frozen=True, slots=True)
class Source:
    """A source of rows.

    Attributes:
      path: As the user named it.
      files: Files on this disk, in reading order; empty for the hub.
      hub: The data set on the hub, where it is one.
    """

    path: str
    files: tuple[str, ...]
    hub: HubData | None = None


def find_source(path: str) -> Source:
    """The source that a path or an id names; a path on this disk comes first.

    Raises:
      DataError: nothing is there.
    """
    if not Path(path).exists() and looks_like_hub_id(path) and not path.lower().endswith(SUFFIXES):
        return Source(path, (), find_on_hub(path))
    try:
        return Source(path, tuple(map(_named_in_utf8, data_files(path))))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _named_in_utf8(file: str) -> str:
    try:
        file.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name {file!a} is not UTF-8, so no log or report could show it; rename the file") from None
    return file


def check_out(source: Source, out: Path) -> None:
    """See that a .jsonl file can be written from a source.

    Raises:
      DataError: it is no .jsonl, its folder does not exist, or it is the source itself or another file that exists.
    """
    if out.suffix != ".jsonl":
        raise DataError(f"the output must end in .jsonl, got {out}")
    if not out.parent.is_dir():
        raise DataError(f"the folder of {out} does not exist; create it first")
    if out.resolve() in (Path(file).resolve() for file in source.files):
        raise DataError(f"{out} is the input; give another name")
    if os.path.lexists(out):
        raise DataError(f"{out} exists and is not replaced; delete it, or give another name")


def read_rows(source: Source) -> Iterator[RawRow]:
    """All rows, file after file; faulty ones as faults."""
    if source.hub is not None:
        for number, row in enumerate(read_hub(source.hub), start=1):
            yield RawRow(Provenance(source.path, number), row)
    for file in source.files:
        yield from read_file(file)


def find_format(source: Source, name: str | None = None, columns: Columns | None = None) -> Format:
    """The format of a mapping, that a name gives, or that most of the first rows are of.

    Raises:
      DataError: no such name, no readable row, no format that half of the first rows are of, or a name and a mapping.
    """
    if columns is not None:
        if name is not None:
            raise DataError("give a format or columns, not both: a mapping says how rows are read")
        _see_columns(source, columns)
        title = f"columns {columns}"
        return Format(
            "columns", columns.kind, title, _any_row, columns.read, columns.fields, columns=str(columns), named=True
        )
    if name is not None:
        if name not in FORMATS:
            raise DataError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
        return replace(FORMATS[name], detect=_any_row, named=True)
    first = [raw.row for raw in islice(read_rows(source), SNIFFED_ROWS)]
    rows = [row for row in first if isinstance(row, dict)]
    if not first:
        raise DataError(f"{source.path} holds no rows")
    if not rows:
        raise DataError(f"{source.path}: none of its first {len(first)} rows can be read; the first: {first[0]}")
    if len(first) == 1 and rows and (name := next((name for name in LIST_NAMES if rows[0].get(name) == []), None)):
        raise DataError(f"{source.path} holds no rows: its list {name!r} is empty")
    votes = _votes(rows) or _votes(_without_unused(rows))
    if votes:
        name, count = votes.most_common(1)[0]
        if 2 * count >= len(rows):
            return FORMATS[name]
    raise DataError(f"{source.path}: {refusal(rows)}")


def _see_columns(source: Source, columns: Columns) -> None:
    """See that the first rows have each field of a mapping, be it empty: a misspelt one would be absent in all.

    Raises:
      DataError: one is in none of them.
    """
    rows = [raw.row for raw in islice(read_rows(source), SNIFFED_ROWS) if isinstance(raw.row, dict)]
    for target, path in columns.paths:
        if rows and not any(path in row or look_up(row, path) is not None for row in rows):
            names = ", ".join(ascii(name[:40]) for name in dict.fromkeys(name for row in rows for name in row))
            raise DataError(
                f"{source.path}: {target}={path}: none of the first {len(rows)} rows has a field '{path}', they have "
                f"{names}; correct the columns"
            )


def _votes(rows: Sequence[Row]) -> Counter[str]:
    """How many rows are of each format."""
    return Counter(form.name for row in rows if (form := format_of(row)) is not None)


def _without_unused(rows: Sequence[Row]) -> list[Row]:
    """The rows without the fields that are empty in all of them, as in a table that is made for several formats."""
    used = {name for row in rows for name, value in row.items() if value not in (None, "", [])}
    return [{name: value for name, value in row.items() if name in used} for row in rows]


def _any_row(row: Row) -> bool:
    return True


def read_records(
    source: Source, form: Format, tally: Tally, *, keep_repeats: bool = False
) -> Iterator[tuple[Provenance, Record]]:
    """The rows without a fault, as records; the others go to the tally, and so do fields that are not read.

    Repetitions are found by digests of what was read before: about 100 bytes a row, whatever a row holds. With
    `keep_repeats` they are rows like others.
    """
    seen = Seen()
    rows = read_rows(source) if form.group is None else form.group(read_rows(source), tally)
    for raw in rows:
        tally.rows += 1
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            if form.group is None and not form.detect(raw.row):
                _refuse_other(raw.row, form, raw.where)
            unread = form.unread(raw.row)
            record = form.read(raw.row)
            if not keep_repeats:
                seen.check(record, raw.where)
        except Repeated:
            tally.repeat(raw.where)
        except RowFault as fault:
            tally.reject(raw.where, fault)
        else:
            if unread:
                tally.unread.update(unread)
            yield raw.where, record


def _refuse_other(row: Row, form: Format, where: Provenance) -> None:
    """Refuse a row of another format than its file's; what is of no format is left to the reader, which names a field.

    Raises:
      RowFault: it is of another format of the same kind.
      DataError: it is of another kind: read as the file's, it would say something else than it does.
    """
    other = format_of(row)
    if other is None:
        return
    message = f"the row holds {other.title} ({other.name}) in a file of {form.title} ({form.name})"
    if other.kind == form.kind:
        raise RowFault("other_format", "row", f"{message}; take it out")
    fields = ", ".join(ascii(name) for name in row)
    raise DataError(f"{where}: {message}: its fields are {fields}; take such rows out, or name a format or columns")
