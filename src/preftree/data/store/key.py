"""Key of a tokenised source: everything that can change one of its tokens."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from preftree.data.formats import FORMATS
from preftree.data.rows.format import Format
from preftree.data.sources.reader import Source
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.encoder import Encoder
from preftree.errors import DataError
from preftree.records import Kind
from preftree.storage.code_digest import code_digest
from preftree.storage.json_file import read_json, write_json

TOKEN_CODE = (
    "preftree.data.formats",
    *sorted({form.read.__module__ for form in FORMATS.values()} | {"preftree.data.formats.oasst"}),
    "preftree.data.formats.refusal",
    "preftree.data.rows.assemble",
    "preftree.data.rows.columns",
    "preftree.data.rows.conversion",
    "preftree.data.rows.duplicates",
    "preftree.data.rows.fields",
    "preftree.data.rows.format",
    "preftree.data.rows.messages",
    "preftree.data.rows.parts",
    "preftree.data.rows.ranking",
    "preftree.data.rows.raw_row",
    "preftree.data.rows.texts",
    "preftree.data.sources.csv_rows",
    "preftree.data.sources.files",
    "preftree.data.sources.folders",
    "preftree.data.sources.hub",
    "preftree.data.sources.json_rows",
    "preftree.data.sources.json_text",
    "preftree.data.sources.reader",
    "preftree.data.sources.streams",
    "preftree.data.sources.tables",
    "preftree.data.store.example",
    "preftree.data.store.token_report",
    "preftree.data.store.token_store",
    "preftree.data.store.writer",
    "preftree.data.tokens.apply_template",
    "preftree.data.tokens.budgets",
    "preftree.data.tokens.came_out",
    "preftree.data.tokens.encoder",
    "preftree.data.tokens.row_examples",
    "preftree.data.tokens.template",
    "preftree.data.tokens.template_facts",
    "preftree.data.tokens.tokenize",
    "preftree.data.tokens.written_out",
    "preftree.records",
    "preftree.tree.layout",
)
"""Modules that can change a token, or the content of a store."""


def store_key(
    source: Source,
    contents: list[str],
    form: Format,
    encoder: Encoder,
    *,
    kind: Kind,
    chosen_side: bool,
    turns: str,
    keep_repeats: bool,
    budgets: Budgets,
    truncation: Truncation,
) -> str:
    """Name of the store: hash of the rows, the tokenizer, the options, and the code of tokenisation."""
    hub = None if source.hub is None else asdict(source.hub)
    options = [form.name, form.columns, kind, chosen_side, turns, keep_repeats, asdict(budgets), truncation]
    parts = [source.path, source.files, contents, hub, options, encoder.digest, code_digest(TOKEN_CODE)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def content_digests(source: Source, folder: Path) -> list[str]:
    """SHA-256 of each file of a source, cached in `folder` until size, times or inode change.

    Raises:
      DataError: a file cannot be read.
    """
    memo_path = folder / "files.json"
    memo = _read_memo(memo_path)
    digests, changed = [], False
    for file in source.files:
        name, mark = str(Path(file).resolve()), file_mark(file)
        known = memo.get(name)
        if known is None or known[0] != mark:
            try:
                with open(file, "rb") as stream:
                    known = (mark, hashlib.file_digest(stream, "sha256").hexdigest())
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error}") from error
            memo[name], changed = known, True
        digests.append(known[1])
    if changed:
        write_json(memo_path, {"files": memo})
    return digests


def file_mark(file: str) -> list[int]:
    """Size, times and inode of a file, which change when the file does."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


class _Memo(BaseModel):
    """Schema of files.json: size, times, inode and digest of files, by path."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, tuple[list[int], str]]


def _read_memo(path: Path) -> dict[str, tuple[list[int], str]]:
    try:
        return read_json(path, _Memo, "delete it").files
    except DataError:  # lost, damaged, or of an earlier version: the files are hashed again
        return {}
