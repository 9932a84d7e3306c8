"""Tables of a project file (SQLite), and the connections to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from preftree.errors import DataError

VERSION = 1
"""`PRAGMA user_version` of the file."""

APPLICATION = 0x50524654
"""`PRAGMA application_id`, "PRFT": a file of something else is not taken for a project."""

TABLES = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE item (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, slice TEXT, added REAL NOT NULL) STRICT;
CREATE TABLE response (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, text TEXT NOT NULL, source TEXT NOT NULL,
  digest TEXT, seed INTEGER, features TEXT) STRICT;
CREATE TABLE pair (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item,
  first INTEGER NOT NULL REFERENCES response, second INTEGER NOT NULL REFERENCES response,
  gold TEXT CHECK (gold IN ('first', 'second', 'tie', 'bad')),
  picked_by TEXT CHECK (picked_by IN ('random', 'active', 'gold', 'chat')), p_pick REAL, picked_at INTEGER,
  votes INTEGER NOT NULL DEFAULT 0,
  UNIQUE (first, second)) STRICT;
CREATE TABLE annotator (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pseudonym TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused')), joined REAL NOT NULL) STRICT;
CREATE TABLE invitation (
  id TEXT PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator, made REAL NOT NULL, until REAL NOT NULL,
  used REAL) STRICT;
CREATE TABLE shown (
  id TEXT PRIMARY KEY, pair INTEGER NOT NULL REFERENCES pair, annotator INTEGER NOT NULL REFERENCES annotator,
  first_is_left INTEGER NOT NULL CHECK (first_is_left IN (0, 1)), visit INTEGER NOT NULL, at REAL NOT NULL,
  until REAL NOT NULL, repeat_of TEXT REFERENCES shown,
  UNIQUE (annotator, pair, visit)) STRICT;
CREATE TABLE vote (
  id INTEGER PRIMARY KEY, shown TEXT NOT NULL REFERENCES shown, turn INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('vote', 'skip', 'flag', 'undo')),
  choice TEXT CHECK (choice IN ('first', 'second', 'tie', 'bad')),
  strength INTEGER CHECK (strength BETWEEN 1 AND 4), ms INTEGER NOT NULL, at REAL NOT NULL,
  note TEXT NOT NULL DEFAULT '',
  UNIQUE (shown, turn), CHECK ((kind = 'vote') = (choice IS NOT NULL)),
  CHECK ((kind = 'undo') = (turn % 2 = 1))) STRICT;
CREATE TRIGGER votes_stay BEFORE UPDATE ON vote BEGIN SELECT RAISE(ABORT, 'votes are only added'); END;
CREATE TRIGGER votes_are_kept BEFORE DELETE ON vote BEGIN SELECT RAISE(ABORT, 'votes are only added'); END;
CREATE INDEX response_of_item ON response (item);
CREATE INDEX shown_to ON shown (annotator, at);
CREATE INDEX pair_of_item ON pair (item);
"""


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection to a project file; one that writes returns from COMMIT when the disk has the bytes.

    Raises:
      DataError: there is no such file, or it is no project of this version.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; make it with `preftree collect new`")
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise DataError(f"{path} is no project of `preftree collect` ({error}); give another file") from error
    if application != APPLICATION:
        connection.close()
        raise DataError(f"{path} is an SQLite file of something else; give a file of `preftree collect new`")
    if version != VERSION:
        connection.close()
        raise DataError(f"{path} has version {version}, and this Preftree reads version {VERSION}; use the other one")
    connection.execute("PRAGMA foreign_keys = ON")
    if write:
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection.execute("PRAGMA query_only = ON")
    return connection


def create(path: Path) -> sqlite3.Connection:
    """An empty project file that only its owner can read, open for writing.

    Raises:
      DataError: something is there.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise DataError(f"{path} exists and is not replaced; give another name, or delete it") from None
    connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.executescript(f"BEGIN IMMEDIATE;{TABLES}PRAGMA user_version = {VERSION}; COMMIT;")
    return connection
