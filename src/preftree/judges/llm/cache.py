"""Answers of judges by content, in one SQLite file: what was paid for is kept, whatever ends the process.

A key is the SHA-256 of everything that the answer depends on, with placeholders for the nonces, so that the same
question has one key for whoever asks it. Failures are never stored.
"""

from __future__ import annotations

import functools
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preftree.errors import WriteError
from preftree.runtime.paths import cache_root
from preftree.storage.atomic import make_folder
from preftree.storage.sqlite_writer import Writer

VERSION = 1

TABLES = """
CREATE TABLE IF NOT EXISTS secret (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS probe (
  place TEXT PRIMARY KEY, answered TEXT NOT NULL, form TEXT NOT NULL, at REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS answer (
  key TEXT PRIMARY KEY, place TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL, refusal TEXT,
  model TEXT NOT NULL, input INTEGER, output INTEGER, characters INTEGER NOT NULL, at REAL NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS answer_of_place ON answer (place);
"""

BLOCK = 500
"""Keys of one query."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a model.

    Attributes:
      text: What it says; "" where it refuses.
      finish: Why it ended, in the server's words: `stop`, `length`.
      refusal: The refusal, where the server gives one.
      model: Id of the model that answered.
      input, output: Tokens read and written, where the server says so.
    """

    text: str
    finish: str
    refusal: str | None
    model: str
    input: int | None
    output: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What a planted question showed of an endpoint.

    Attributes:
      answered: Id of the model that answered.
      form: How the server is asked for JSON: `json_schema`, `json_object` or `text`.
    """

    answered: str
    form: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the answers that a place has given so far.

    Attributes:
      answers: Number of answers whose tokens are known.
      characters: Characters that were sent for them.
      input, output: Their tokens.
    """

    answers: int
    characters: int
    input: int
    output: int


def shared_cache(path: Path | None = None) -> AnswerCache:
    """The open file of answers of this process, so that several judges have one writer.

    Args:
      path: The file; by default one in the cache folder.
    Raises:
      WriteError: it cannot be made, or is no such file.
    """
    return _open(path or cache_root() / "judges" / "answers.db", os.getpid())


@functools.cache
def _open(path: Path, process: int) -> AnswerCache:
    """An open file is never handed to a forked process: neither its connections nor its thread survive there."""
    return AnswerCache(path)


class AnswerCache:
    """The file of answers. Readings belong to the thread that owns it; any thread may add."""

    def __init__(self, path: Path) -> None:
        """Open or make the file, readable by its owner only.

        Raises:
          WriteError: it cannot be made, or is no such file.
        """
        self.path = path
        try:
            make_folder(self.path.parent)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._reading = self._connect()
            self._reading.execute("PRAGMA journal_mode = WAL")
            version = self._reading.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise WriteError(f"{self.path} is of another version of Preftree; move it away, or use that one")
            self._reading.executescript(f"BEGIN IMMEDIATE;{TABLES}PRAGMA user_version = {VERSION}; COMMIT;")
            new = (1, secrets.token_bytes(32))
            self._reading.execute("INSERT INTO secret (one, value) VALUES (?, ?) ON CONFLICT DO NOTHING", new)
            self._writer = Writer(self.path, self._connect(), advice="run the same command again")
        except (OSError, sqlite3.Error) as error:
            raise WriteError(f"{self.path} cannot hold the judge's answers ({error}); move it away") from error
        self.secret: bytes = self._reading.execute("SELECT value FROM secret").fetchone()[0]

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored answers of keys."""
        keys = list(keys)
        stored: dict[str, Reply] = {}
        for start in range(0, len(keys), BLOCK):
            part = keys[start : start + BLOCK]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, text, finish, refusal, model, input, output FROM answer WHERE key IN ({marks})"
            stored |= {row[0]: Reply(*row[1:]) for row in self._reading.execute(query, part)}
        return stored

    def add(self, key: str, place: str, reply: Reply, characters: int) -> None:
        """Keep an answer; returns when the disk has it.

        Raises:
          WriteError: the disk refuses.
        """
        row = (key, place, reply.text, reply.finish, reply.refusal, reply.model, reply.input, reply.output, characters)
        statement = """INSERT INTO answer (key, place, text, finish, refusal, model, input, output, characters, at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
        self._writer.submit(lambda file: file.execute(statement, (*row, time.time()))).result()

    def probe(self, place: str) -> Probe | None:
        """What the last probe of a place showed; None where there was none."""
        row = self._reading.execute("SELECT answered, form FROM probe WHERE place = ?", (place,)).fetchone()
        return row and Probe(*row)

    def set_probe(self, place: str, probe: Probe) -> None:
        """Keep what a probe showed."""
        statement = """INSERT INTO probe (place, answered, form, at) VALUES (?, ?, ?, ?)
            ON CONFLICT (place) DO UPDATE SET answered = excluded.answered, form = excluded.form, at = excluded.at"""
        row = (place, probe.answered, probe.form, time.time())
        self._writer.submit(lambda file: file.execute(statement, row)).result()

    def usage(self, place: str) -> Usage:
        """Tokens of the answers of a place."""
        query = """SELECT count(*), coalesce(sum(characters), 0), coalesce(sum(input), 0), coalesce(sum(output), 0)
            FROM answer WHERE place = ? AND input IS NOT NULL AND output IS NOT NULL"""
        return Usage(*self._reading.execute(query, (place,)).fetchone())

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        return connection
