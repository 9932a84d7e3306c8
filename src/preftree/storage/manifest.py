"""Manifest of a folder: its files with sizes and SHA-256 digests, by which damage is detected."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import TypedDict

from preftree.errors import CheckpointError
from preftree.storage.atomic import write_atomic

MANIFEST = "MANIFEST.json"


class FileRecord(TypedDict):
    """Size in bytes and SHA-256 digest in hex."""

    sha256: str
    size: int


def write_manifest(folder: Path) -> None:
    """Record every file below `folder` in MANIFEST.json."""
    files: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            files[path.relative_to(folder).as_posix()] = FileRecord(sha256=hash_file(path), size=path.stat().st_size)
    write_atomic(folder / MANIFEST, _dump(files))


def verify_manifest(folder: Path, *, but: Collection[str] = ()) -> dict[str, FileRecord]:
    """Check every file that MANIFEST.json lists.

    Other files are ignored: nothing reads them.

    Args:
      folder: The folder.
      but: Names of files that need not be as they were written.

    Raises:
      CheckpointError: the manifest or a listed file is missing or damaged; the message names it.
    """
    files = read_manifest(folder)
    checked = {name: record for name, record in files.items() if name not in but}
    for name, record in checked.items():  # sizes first: they are cheap
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, though {MANIFEST} lists it")
        if (size := path.stat().st_size) != record["size"]:
            raise CheckpointError(f"{path} is damaged: it should have {record['size']} bytes and has {size}")
    for name, record in checked.items():
        if (digest := hash_file(folder / name)) != record["sha256"]:
            raise CheckpointError(
                f"{folder / name} is damaged: its sha256 should be {record['sha256'][:8]}.. and is {digest[:8]}.."
            )
    return files


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """Content of MANIFEST.json, without a check of the files.

    Raises:
      CheckpointError: the manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}), so {folder} is not complete") from error
    try:
        files = json.loads(text)["files"]
        # The content must give the same bytes again, so that a changed byte that JSON ignores is found.
        if _dump(files) != text.decode() or not all(_is_record(name, record) for name, record in files.items()):
            raise ValueError("not as written")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: it is not a list of files as this program writes it") from error
    return files


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(files: dict[str, FileRecord]) -> str:
    return json.dumps({"files": files}, indent=1, sort_keys=True) + "\n"


def _is_record(name: str, record: FileRecord) -> bool:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and ".." not in parts and not os.path.isabs(name)
    whole = set(record) == {"sha256", "size"} and isinstance(record["sha256"], str)
    return inside and whole and isinstance(record["size"], int)
