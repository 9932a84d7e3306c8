"""Rows of data files, read one at a time, so that a file may be larger than memory.

Files: .jsonl, .jsonl.gz, .json (an array, or one object a line), .csv, .parquet, or a folder of those. A row that
cannot be read becomes a fault of that row; a file that cannot be read at all is a DataError. Lines are counted from 1:
lines of the file in .jsonl and .csv (where a row begins), rows in .json arrays and .parquet.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.format import RawRow
from preftree.errors import DataError
from preftree.records import Provenance

MAX_ROW_BYTES = 16 * 2**20
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")


def data_files(path: str) -> list[str]:
    """The files that `path` names: itself, or the data files directly inside it, ordered by name.

    Raises:
      DataError: nothing is there, or nothing with a suffix that can be read.
    """
    folder_or_file = Path(path)
    wanted = ", ".join(SUFFIXES)
    if folder_or_file.is_dir():
        files = sorted(str(file) for file in folder_or_file.iterdir() if _suffix(file) and file.is_file())
        if not files:
            raise DataError(f"{path} holds no data file, wanted one of {wanted} directly inside it")
        return files
    if not folder_or_file.exists():
        raise DataError(
            f"{path} does not exist; give a data file, a folder of data files, or a hub id such as owner/name"
        )
    if not _suffix(folder_or_file):
        raise DataError(f"{path} must end in one of {wanted}; rename or convert it")
    return [path]


def read_file(file: str) -> Iterator[RawRow]:
    """The rows of one file.

    Raises:
      DataError: the file cannot be opened, or is damaged from some place on.
    """
    suffix = _suffix(Path(file))
    try:
        if suffix == ".parquet":
            yield from _parquet(file)
        else:
            with _open(file, suffix) as stream:
                if suffix == ".csv":
                    yield from _csv(file, stream)
                elif suffix == ".json" and _begins_with_bracket(stream):
                    yield from _json_array(file, stream)
                else:
                    yield from _json_lines(file, stream)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error or type(error).__name__}") from error


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


@contextmanager
def _open(file: str, suffix: str | None) -> Iterator[BufferedIOBase]:
    with gzip.open(file, "rb") if suffix == ".jsonl.gz" else open(file, "rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        yield stream


def _lines(stream: BufferedIOBase) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None where one is longer than a row may be, which is then skipped without being held."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) <= MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        del line
        while (rest := stream.readline(1 << 16)) and not rest.endswith(b"\n"):
            pass
        yield number, None


def _json_lines(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    for number, line in _lines(stream):
        if line is None:
            fault = RowFault("line_too_long", "row", f"the line is longer than {MAX_ROW_BYTES >> 20} MiB")
            yield RawRow(Provenance(file, number), fault)
        elif not line.isspace():
            yield RawRow(Provenance(file, number), _parse(line))


def _parse(line: bytes) -> Row | RowFault:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowFault("bad_utf8", "row", f"the line is not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowFault("bad_json", "row", f"the line is not JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return RowFault("bad_json", "row", "the line nests too deep")
    except ValueError as error:  # an integer of more digits than Python converts
        return RowFault("bad_json", "row", f"the line is not JSON that can be read: {error}")
    return _as_row(value)


def _as_row(value: Any) -> Row | RowFault:
    if isinstance(value, dict):
        return value
    return RowFault("wrong_type", "row", "the row must be an object with named fields")


def _begins_with_bracket(stream: BufferedIOBase) -> bool:
    start = stream.tell()
    head = stream.read(4096).lstrip()
    stream.seek(start)
    return head.startswith(b"[")


def _json_array(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    """The items of one JSON array, held one at a time.

    A broken item cannot be skipped, since nothing says where the next one begins; so it ends the reading.
    """
    decoder = json.JSONDecoder()
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # a bad byte is then a fault of its field
    buffer, place, at_end, number = "", 0, False, 0

    def skip(characters: str) -> None:
        nonlocal place
        while True:
            while place < len(buffer) and buffer[place] in characters:
                place += 1
            if place < len(buffer) or at_end:
                return
            more()

    def more() -> None:
        nonlocal buffer, place, at_end
        block = stream.read(max(1 << 16, len(buffer) - place))
        at_end = not block
        buffer, place = buffer[place:] + decode.decode(block, final=at_end), 0

    skip(" \t\r\n")
    place += 1  # the bracket
    while True:
        skip(" \t\r\n," if number else " \t\r\n")
        if place < len(buffer) and buffer[place] == "]":
            place += 1
            skip(" \t\r\n")
            if place < len(buffer):
                raise DataError(f"{file} has text after the end of its array (row {number}); fix the file")
            return
        number += 1
        while True:
            try:
                value, end = decoder.raw_decode(buffer, place)
                if end < len(buffer) or at_end:  # a number at the end of the buffer may continue
                    break
            except RecursionError:
                raise DataError(f"{file}: row {number} nests too deep") from None
            except ValueError as error:
                if at_end or len(buffer) - place > MAX_ROW_BYTES:
                    reason = "the array has no end" if place >= len(buffer) else str(error)
                    raise DataError(f"{file}: row {number} is not JSON ({reason}); fix the file") from None
            more()
        place = end
        yield RawRow(Provenance(file, number), _as_row(value))


def _csv(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    def lines() -> Iterator[str]:
        for number, line in _lines(stream):
            if line is None:
                raise DataError(f"{file}:{number}: the line is longer than {MAX_ROW_BYTES >> 20} MiB; fix the file")
            yield line.decode("utf-8", "surrogateescape")  # a bad byte is then a fault of its field

    csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process; the default is shorter than real responses
    rows = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    while True:
        where = Provenance(file, rows.line_num + 1)
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"{file}: the header is not CSV ({error})") from None
            yield RawRow(where, RowFault("bad_csv", "row", f"the row is not CSV: {error}"))
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise DataError(f"{file}: the header names a column twice ({', '.join(header)}); rename one")
        elif cells:
            fault = RowFault("bad_csv", "row", f"the row has {len(cells)} cells, the header has {len(header)}")
            yield RawRow(where, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else fault)


def _parquet(file: str) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file, buffer_size=1 << 20, page_checksum_verification=True) as table:
            for batch in table.iter_batches(batch_size=128):
                for index in range(batch.num_rows):
                    number += 1
                    try:
                        row: Row | RowFault = batch.slice(index, 1).to_pylist()[0]
                    except UnicodeDecodeError:
                        row = RowFault("bad_utf8", "row", "the row holds bytes that are not UTF-8")
                    yield RawRow(Provenance(file, number), row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} is not a parquet file that can be read: {error} (after row {number})") from error
