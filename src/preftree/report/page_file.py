"""Files of pages: a page of Preftree may be replaced by a newer one, another file may not."""

from __future__ import annotations

from pathlib import Path

from preftree.errors import DataError
from preftree.storage.atomic import write_result

_MARK = '<meta name="generator" content="Preftree '
_FIRST = 2000
"""Characters among which a page has its mark."""


def write_page(out: Path, page: str, *, advice: str) -> None:
    """Write a page; the folder is made as needed.

    Args:
      out: The file.
      page: The HTML.
      advice: What to do where it cannot be written.
    Raises:
      DataError: the file holds something else.
      WriteError: it cannot be written.
    """
    check_page(out)
    write_result(out, page, advice=advice)


def check_page(out: Path) -> None:
    """Refuse to replace a file that is no page of Preftree.

    Raises:
      DataError: the file holds something else.
    """
    if out.is_dir():
        raise DataError(f"{out} is a folder; give the name of a file")
    try:
        with out.open(encoding="utf-8", errors="replace") as file:
            is_page = _MARK in file.read(_FIRST)
    except OSError:  # it is not there, or writing it says what is wrong
        return
    if not is_page:
        raise DataError(f"{out} exists and is no page of Preftree; give another name")
