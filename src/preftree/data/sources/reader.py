"""Reader of a data source: its files or hub data set, the format of its rows, and its records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from preftree.data.formats import FORMATS, Format
from preftree.data.rows.duplicates import Seen
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.sources.files import SUFFIXES, RawRow, data_files, read_file
from preftree.data.sources.hub import HubData, find_on_hub, looks_like_hub_id, read_hub
from preftree.errors import DataError
from preftree.records import Provenance, Record

SNIFFED_ROWS = 100


@dataclass(frozen=True, slots=True)
class Source:
    """A source of rows.

    Attributes:
      path: The path or id that the user named.
      files: Local files, in reading order; empty for the hub.
      hub: The data set on the hub, if any.
    """

    path: str
    files: tuple[str, ...]
    hub: HubData | None = None


def find_source(path: str) -> Source:
    """The source that a path or an id names; a local path comes first.

    Raises:
      DataError: there is neither a file nor a data set.
    """
    if not Path(path).exists() and looks_like_hub_id(path) and not path.lower().endswith(SUFFIXES):
        return Source(path, (), find_on_hub(path))
    try:
        return Source(path, tuple(data_files(path)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def check_out(source: Source, out: Path) -> None:
    """Check that a .jsonl file can be written from a source.

    Raises:
      DataError: it is not .jsonl, its folder does not exist, or it is the source itself.
    """
    if out.suffix != ".jsonl":
        raise DataError(f"the output must end in .jsonl, got {out}")
    if not out.parent.is_dir():
        raise DataError(f"the folder of {out} does not exist; create it first")
    if out.resolve() in (Path(file).resolve() for file in source.files):
        raise DataError(f"{out} is the input; give another name")


def read_rows(source: Source) -> Iterator[RawRow]:
    """All rows, file after file; faulty ones as faults."""
    if source.hub is not None:
        for number, row in enumerate(read_hub(source.hub), start=1):
            yield RawRow(Provenance(source.path, number), row)
    for file in source.files:
        yield from read_file(file)


def find_format(source: Source, name: str | None = None) -> Format:
    """The format of this name, or the format that most of the first rows have.

    Raises:
      DataError: no such name, no readable row, or no format that half of the first rows have.
    """
    if name is not None:
        if name not in FORMATS:
            raise DataError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
        return FORMATS[name]
    first = [raw.row for raw in islice(read_rows(source), SNIFFED_ROWS)]
    rows = [row for row in first if isinstance(row, dict)]
    if not first:
        raise DataError(f"{source.path} holds no rows")
    if not rows:
        raise DataError(f"{source.path}: none of its first {len(first)} rows can be read; the first: {first[0]}")
    hits = {form.name: sum(form.detect(row) for row in rows) for form in FORMATS.values()}
    best = max(hits, key=lambda key: hits[key])
    if 2 * hits[best] < len(rows):
        fields = ", ".join(sorted({ascii(key[:40]) for row in rows for key in row})[:12])
        hint = " (without a prompt, both sides must be HH transcripts)" if "'chosen'" in fields else ""
        raise DataError(
            f"{source.path}: no known format has the fields {fields}{hint}; rename them to one of: "
            "prompt/chosen/rejected, prompt/responses, prompt/completion/label, prompt/completion, messages, text"
        )
    return FORMATS[best]


def read_records(source: Source, form: Format, tally: Tally) -> Iterator[tuple[Provenance, Record]]:
    """The rows without a fault, as records; the others are counted in the tally.

    Repetitions are found by digests of earlier rows: about 100 bytes a row of any size.
    """
    seen = Seen()
    for raw in read_rows(source):
        tally.rows += 1
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            record = form.read(raw.row)
            seen.check(record, raw.where)
        except RowFault as fault:
            tally.reject(raw.where, fault)
        else:
            yield raw.where, record
