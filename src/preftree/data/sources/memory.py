"""Rows in memory as a data file, and their names in messages: `data[17].chosen` for a field of line 18."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from preftree.errors import DataError, UserError
from preftree.storage.atomic import disk_faults, write_atomic
from preftree.storage.own_folder import own_folder

Rows: TypeAlias = Iterable[Any]
"""A list of mappings, or a `datasets.Dataset`; each row is checked as it is written."""


def write_rows(rows: Rows, path: Path, name: str) -> str:
    """Write rows as .jsonl; the path as a string.

    Args:
      rows: Rows, each a mapping with JSON values.
      path: The file.
      name: The caller's name of the rows.
    Raises:
      DataError: a row is not a mapping, or holds a value that is not JSON; or the file holds other rows, which are
        kept.
      ConfigError: the folder holds files of something else.
      WriteError: the file cannot be written.
    """
    lines = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"{name}[{index}] must be a mapping such as {{'prompt': ...}}, got {type(row).__name__}")
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name}[{index}] cannot be written as JSON ({error}); give text, numbers and lists"
            ) from error
    text = "".join(f"{line}\n" for line in lines)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DataError(f"out={path.parent} holds the rows of another run as {path.name}; choose another out=")
    with own_folder(path.parent), disk_faults():
        write_atomic(path, text)
    return str(path)


@contextmanager
def named_rows(names: Mapping[str, str]) -> Iterator[None]:
    """Use the caller's name of rows in errors and in the log, while the context lasts.

    Args:
      names: Name of the rows by the path of their file.
    """
    naming = _Naming(names)
    log = logging.getLogger("preftree")
    log.addFilter(naming)
    try:
        yield
    except UserError as error:
        error.args = (naming.rename(str(error)), *error.args[1:])
        raise
    finally:
        log.removeFilter(naming)


class _Naming(logging.Filter):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def filter(self, record: logging.LogRecord) -> bool:
        """Rename rows in a record."""
        record.msg, record.args = self.rename(record.getMessage()), ()
        return True

    def rename(self, text: str) -> str:
        """PATH:18: 'chosen' ... as NAME[17].chosen: ..., and PATH as NAME."""
        for path, name in self._names.items():
            text = re.sub(
                rf"{re.escape(path)}:(\d+)(?:: '(\w+)')?",
                lambda match, name=name: f"{name}[{int(match[1]) - 1}]" + (f".{match[2]}:" if match[2] else ""),
                text,
            )
            text = text.replace(path, name)
        return text
