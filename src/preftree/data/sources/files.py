"""Rows of data files, read one at a time, so that a file may be larger than memory.

Files: .jsonl, .ndjson, .json, .csv and .tsv, each also packed as .gz or .zst, .parquet, .arrow, or a folder of them. A
row that cannot be read becomes a fault of that row; a file that cannot be read at all is a DataError. Lines are counted
from 1: the line where a row begins, or the row's number in arrays, lists and tables.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path

from preftree.data.rows.raw_row import RawRow
from preftree.data.sources.csv_rows import csv_rows
from preftree.data.sources.folders import files_in, see_regular
from preftree.data.sources.json_rows import json_rows
from preftree.data.sources.streams import PACKED
from preftree.data.sources.tables import arrow_rows, parquet_rows
from preftree.errors import DataError

_TEXTS = {".jsonl": json_rows, ".ndjson": json_rows, ".json": json_rows, ".csv": csv_rows, ".tsv": csv_rows}
_READERS: dict[str, Callable[[str], Iterator[RawRow]]] = {
    **{suffix + packed: read for suffix, read in _TEXTS.items() for packed in ("", *PACKED)},
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}
SUFFIXES = tuple(_READERS)
_WANTED = f"{', '.join(_TEXTS)} (each also with {' or '.join(PACKED)} behind), .parquet, .arrow"


def data_files(path: str) -> list[str]:
    """The files that `path` names: itself, those that match a pattern, or those of a folder; ordered by name.

    Raises:
      DataError: nothing is there, nothing that can be read, or more than one set of files in a folder.
      OSError: the path cannot be read.
    """
    folder_or_file = Path(path)
    if not folder_or_file.exists() and any(sign in path for sign in "*?["):
        files = sorted(file for file in glob(path) if _suffix(Path(file)))
        for file in files:
            see_regular(Path(file))
        if not files:
            raise DataError(f"{path} matches no data file, wanted {_WANTED}")
        return files
    if folder_or_file.is_dir():
        return files_in(folder_or_file, _suffix, _WANTED)
    if not folder_or_file.exists():
        raise DataError(
            f"{path} does not exist; give a data file, a folder of data files, or a hub id such as owner/name"
        )
    see_regular(folder_or_file)
    if not _suffix(folder_or_file):
        raise DataError(f"{path} must end in one of {_WANTED}; rename or convert it")
    return [path]


def read_file(file: str) -> Iterator[RawRow]:
    """The rows of one file.

    Raises:
      DataError: the file cannot be opened, or is damaged from some place on.
    """
    suffix = _suffix(Path(file))
    assert suffix is not None, file
    try:
        yield from _READERS[suffix](file)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not {error.encoding}, which its first bytes say ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error or type(error).__name__}") from error


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
