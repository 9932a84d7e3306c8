"""Rows of tables in Arrow's formats: .parquet, and .arrow as `datasets` writes it. Rows count from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.raw_row import RawRow, check_names
from preftree.errors import DataError
from preftree.records import Provenance

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch


def parquet_rows(file: str) -> Iterator[RawRow]:
    """The rows of a .parquet file.

    Raises:
      DataError: it is damaged from some row on, or names a column twice.
    """
    from pyarrow import parquet

    with (
        _damage_is_an_error(file, "parquet"),
        parquet.ParquetFile(file, buffer_size=1 << 20, page_checksum_verification=True) as table,
    ):
        check_names(file, table.schema_arrow.names)
        yield from _rows(file, table.iter_batches(batch_size=128), checked=True)


def arrow_rows(file: str) -> Iterator[RawRow]:
    """The rows of an .arrow file, a stream or a file of record batches; it is mapped, since a batch may hold all rows.

    Raises:
      DataError: it is damaged from some row on, or names a column twice.
    """
    from pyarrow import ipc, memory_map

    with open(file, "rb") as stream:
        is_file = stream.read(6) == b"ARROW1"
    with _damage_is_an_error(file, "arrow"), memory_map(file) as mapped:
        if is_file:
            table = ipc.open_file(mapped)
            batches: Iterable[RecordBatch] = map(table.get_batch, range(table.num_record_batches))
        else:
            table = batches = ipc.open_stream(mapped)
        check_names(file, table.schema.names)
        yield from _rows(file, batches, checked=False)


@contextmanager
def _damage_is_an_error(file: str, what: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file} is not {what} that can be read: {reason}; fetch or write it anew") from error


def _rows(file: str, batches: Iterable[RecordBatch], *, checked: bool) -> Iterator[RawRow]:
    """Rows one by one; `checked` where the format itself saw to it that the batches are sound."""
    from pyarrow import ArrowException

    number = 0
    for batch in batches:
        for index in range(batch.num_rows):
            number += 1
            one = batch.slice(index, 1)
            try:
                if not checked:
                    one.validate(full=True)  # a damaged offset would have Python read outside its memory
                row = _row(one)
            except ArrowException as error:
                if "UTF8" not in str(error):
                    raise DataError(
                        f"{file}: row {number} is damaged ({error}); fetch or write the file anew"
                    ) from error
                row = _bad_utf8()
            yield RawRow(Provenance(file, number), row)


def _row(one: RecordBatch) -> Row | RowFault:
    """The only row of a batch."""
    try:
        return one.to_pylist()[0]
    except UnicodeDecodeError:
        return _bad_utf8()
    except (OverflowError, ValueError):  # such as a date after the year 9999, perhaps in a column that nothing reads
        row: Row = {}
        for name, column in zip(one.schema.names, one.columns, strict=True):
            try:
                row[name] = column.to_pylist()[0]
            except (OverflowError, ValueError) as error:
                try:
                    row[name] = _as_stored(column, name, error)
                except RowFault as fault:
                    return fault
        return row


def _as_stored(column: Array, name: str, error: Exception) -> int:
    """The number that a date or a time is stored as, where Python has no such date.

    Raises:
      RowFault: the value is nested, and no number.
    """
    from pyarrow import ArrowException, int32, int64

    for kind in (int64(), int32()):
        try:
            return column.cast(kind).to_pylist()[0]
        except ArrowException:
            continue
    raise RowFault("bad_value", name, f"'{name}' holds a value that cannot be read ({error}); drop the column")


def _bad_utf8() -> RowFault:
    return RowFault("bad_utf8", "row", "the row holds bytes that are not UTF-8")
