"""The key of a tokenised source: everything that can change a token of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

from preftree.data.formats import Format
from preftree.data.sources.source import Source
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.encode import Encoder
from preftree.errors import DataError
from preftree.records import Kind
from preftree.storage.atomic import make_folder, write_atomic


def store_key(
    source: Source,
    contents: list[str],
    form: Format,
    encoder: Encoder,
    *,
    kind: Kind,
    chosen_side: bool,
    budgets: Budgets,
    truncation: Truncation,
) -> str:
    """A name for the store: hash of the rows, the tokenizer, the options, and the code of this room."""
    hub = None if source.hub is None else asdict(source.hub)
    options = [form.name, kind, chosen_side, asdict(budgets), truncation]
    parts = [source.path, source.files, contents, hub, options, encoder.digest, _code_digest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def content_digests(source: Source, folder: Path) -> list[str]:
    """SHA-256 of each file of a source; remembered in `folder` for as long as size, times and inode stay.

    Raises:
      DataError: a file cannot be read.
    """
    memo_path = folder / "files.json"
    memo = _read_memo(memo_path)
    digests, changed = [], False
    for file in source.files:
        name, mark = str(Path(file).resolve()), file_mark(file)
        known = memo.get(name)
        if not (isinstance(known, list) and len(known) == 2 and known[0] == mark):
            try:
                with open(file, "rb") as stream:
                    known = [mark, hashlib.file_digest(stream, "sha256").hexdigest()]
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error}") from error
            memo[name], changed = known, True
        digests.append(known[1])
    if changed:
        make_folder(folder)
        write_atomic(memo_path, json.dumps(memo))
    return digests


def file_mark(file: str) -> list[int]:
    """What changes when a file does: size, times, inode."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_memo(path: Path) -> dict[str, object]:
    try:
        memo = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # lost or damaged: the files are hashed again
        return {}
    return memo if isinstance(memo, dict) else {}


@cache
def _code_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
