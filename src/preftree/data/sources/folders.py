"""Data files of a folder: those directly in it, those of its only subfolder that has any, or those of a saved data set.

A folder of several splits is refused, since training on a test split goes unseen; the user names one by a pattern. What
`datasets` writes with `save_to_disk` is read by its own list of files; of several splits the user names one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK
from typing import Any

from preftree.errors import DataError

_SPLIT_NAME = re.compile("(train|test|validation|valid|val|dev|eval)(?![a-z0-9])", re.IGNORECASE)
"""How the names of a split's files begin: train-00000-of-00002.parquet, test.jsonl."""

_SPLITS, _SAVED = "dataset_dict.json", "state.json"
_ABOUT_DATA = {_SPLITS, _SAVED, "dataset_info.json", "dataset_infos.json"}
_KINDS = ((S_ISFIFO, "pipe"), (S_ISCHR, "device"), (S_ISBLK, "device"), (S_ISSOCK, "socket"), (S_ISDIR, "folder"))


def see_regular(path: Path) -> None:
    """See that a path is a regular file, which has an end, and can be read twice.

    Raises:
      DataError: it is something else.
      OSError: it is not there.
    """
    mode = path.stat().st_mode
    if not S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "special file")
        raise DataError(f"{path} is a {kind}, wanted a regular file; write its rows to one")


def files_in(folder: Path, is_data: Callable[[Path], object], wanted: str) -> list[str]:
    """The data files of a folder, in reading order.

    Args:
      folder: The folder.
      is_data: Whether a name is that of a data file.
      wanted: Such names, in words.
    Raises:
      DataError: there are none, they lie in several subfolders or splits, or one is no regular file.
      OSError: the folder cannot be read.
    """
    if files := _files_of(folder, is_data):
        return files
    inner = {sub.name: files for sub in _subfolders(folder) if (files := _files_of(sub, is_data))}
    if not inner:
        raise DataError(f"{folder} holds no data file, wanted one of {wanted} in it or in one subfolder")
    return _only(folder, inner, "subfolders with data files")


def _files_of(folder: Path, is_data: Callable[[Path], object]) -> list[str]:
    """The data files directly in a folder, or of the data set that was saved there; none is no error."""
    if (folder / _SPLITS).is_file():
        splits = _names_in(folder / _SPLITS, lambda content: content["splits"])
        return _only(folder, {name: _saved(folder / name) for name in splits}, "splits")
    if (folder / _SAVED).is_file() and (folder / "dataset_info.json").is_file():
        return _saved(folder)
    files = sorted(
        file for file in folder.iterdir() if is_data(file) and file.name not in _ABOUT_DATA and not file.is_dir()
    )
    for file in files:
        see_regular(file)
    splits = {match[1].lower() for file in files if (match := _SPLIT_NAME.match(file.name))}
    if len(splits) > 1:
        first = folder / ("train" if "train" in splits else min(splits))
        raise DataError(f"{folder} holds {len(splits)} splits ({', '.join(sorted(splits))}); name one, as '{first}*'")
    return [str(file) for file in files]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _saved(folder: Path) -> list[str]:
    """The files of a data set that `save_to_disk` wrote, in the order of its rows."""
    names = _names_in(folder / _SAVED, lambda content: [file["filename"] for file in content["_data_files"]])
    for name in names:
        if not (name.endswith(".arrow") and (folder / name).is_file()):
            raise DataError(f"{folder / _SAVED} lists {name}, which is no .arrow file there; save the data set anew")
    return [str(folder / name) for name in names]


def _names_in(file: Path, take: Callable[[Any], list[str]]) -> list[str]:
    """Names that a file of a saved data set lists.

    Raises:
      DataError: it does not.
    """
    try:
        return [str(Path(name)) for name in take(json.loads(file.read_bytes()))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} is not as save_to_disk writes it ({error!r}); save the data set anew") from error


def _only(folder: Path, parts: dict[str, list[str]], what: str) -> list[str]:
    if len(parts) != 1:
        first = next(iter(parts), "")
        raise DataError(f"{folder} holds {len(parts)} {what} ({', '.join(parts)}); name one, as {folder / first}")
    return next(iter(parts.values()))
