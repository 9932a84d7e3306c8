"""The store of a project: a protocol of what the queue and the page need, and the one on SQLite."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from preftree.collect.read import read_settings
from preftree.collect.records import Annotator, Choice, Kept, Picked, Settings, Shown, ShownNow, Vote
from preftree.collect.schema import connect
from preftree.errors import DataError
from preftree.storage.lock import release_lock, take_lock
from preftree.storage.sqlite_writer import Writer


class OutOfTurn(Exception):
    """An action that comes before an earlier one of the same `shown`."""


@runtime_checkable
class Store(Protocol):
    """What keeps a project. A future is done when what it adds is on the disk."""

    @property
    def secret(self) -> bytes:
        """Key of sides, pseudonyms, sessions and links."""
        ...

    def settings(self) -> Settings:
        """What the project asks of its annotators."""
        ...

    def pairs(self, after: int = 0) -> list[tuple[int, Choice | None, int | None, int]]:
        """(number, known answer, place in the order of picking, votes) of each pair with a number above `after`."""
        ...

    def shown_to(self, annotator: int) -> list[ShownNow]:
        """All that an annotator was shown, in order, with what was done with it."""
        ...

    def leased(self, now: float) -> list[Shown]:
        """What was shown, has no vote now, and has a lease beyond `now`."""
        ...

    def show(self, shown: Sequence[Shown], picked: Sequence[Picked]) -> Future[None]:
        """Add what is shown, and how pairs were picked; where an id is there, its lease is renewed."""
        ...

    def vote(self, votes: Sequence[Vote]) -> Future[list[Kept]]:
        """Add votes; a (shown, turn) that has a row keeps that. OutOfTurn where an earlier turn is missing."""
        ...

    def shown(self, number: str) -> Shown | None:
        """What has this id; None where nothing has."""
        ...

    def annotator(self, number: int) -> Annotator | None:
        """An annotator; None where there is none."""
        ...


class SqliteStore:
    """A project file: one writer thread, and a connection for readings of the thread that owns the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reading = connect(path, write=False)
        self.writer = Writer(path, connect(path, write=True), advice="vote again")
        self._settings = read_settings(self.reading)
        self.secret = bytes.fromhex(self._setting("secret"))

    def password_hash(self) -> str:
        """Argon2 hash of the admin's password."""
        return self._setting("password")

    def _setting(self, name: str) -> str:
        query = "SELECT value FROM setting WHERE name = ?"
        return json.loads(self.reading.execute(query, (name,)).fetchone()[0])

    def close(self) -> None:
        """Write what has come in, and close the file."""
        self.writer.close()
        self.reading.close()

    def settings(self) -> Settings:
        """See `Store`."""
        return self._settings

    def pairs(self, after: int = 0) -> list[tuple[int, Choice | None, int | None, int]]:
        """See `Store`."""
        query = "SELECT id, gold, picked_at, votes FROM pair WHERE id > ? ORDER BY id"
        return self.reading.execute(query, (after,)).fetchall()

    def shown_to(self, annotator: int) -> list[ShownNow]:
        """See `Store`."""
        query = f"""SELECT {_SHOWN}, (SELECT kind FROM vote WHERE shown = s.id ORDER BY turn DESC LIMIT 1),
            (SELECT count(*) FROM vote WHERE shown = s.id) FROM shown s WHERE annotator = ? ORDER BY at, rowid"""
        rows = self.reading.execute(query, (annotator,))
        return [ShownNow(_shown(row), row[-2], row[-1]) for row in rows]

    def leased(self, now: float) -> list[Shown]:
        """See `Store`."""
        query = f"""SELECT {_SHOWN} FROM shown s WHERE until > ?
            AND (SELECT count(*) FROM vote WHERE shown = s.id) % 2 = 0 ORDER BY at, rowid"""
        return [_shown(row) for row in self.reading.execute(query, (now,))]

    def show(self, shown: Sequence[Shown], picked: Sequence[Picked]) -> Future[None]:
        """See `Store`."""
        return self.writer.submit(lambda project: _show(project, shown, picked))

    def shown(self, number: str) -> Shown | None:
        """See `Store`."""
        row = self.reading.execute(f"SELECT {_SHOWN} FROM shown s WHERE id = ?", (number,)).fetchone()
        return row and _shown(row)

    def vote(self, votes: Sequence[Vote]) -> Future[list[Kept]]:
        """See `Store`."""
        return self.writer.submit(lambda project: [_vote(project, vote) for vote in votes])

    def annotator(self, number: int) -> Annotator | None:
        """See `Store`."""
        query = "SELECT id, name, pseudonym, state FROM annotator WHERE id = ?"
        row = self.reading.execute(query, (number,)).fetchone()
        return row and Annotator(*row)

    def invitation(self, number: str) -> str | None:
        """The name of who is invited; None where the invitation was used, is too old, or there is none."""
        query = """SELECT a.name FROM invitation i JOIN annotator a ON a.id = i.annotator
            WHERE i.id = ? AND i.used IS NULL AND i.until > ? AND a.state = 'active'"""
        row = self.reading.execute(query, (number, time.time())).fetchone()
        return row and row[0]

    def join(self, name: str) -> Annotator:
        """The annotator of a name, who is added where there is none."""
        return self.writer.submit(lambda project: add_annotator(project, name, self.secret)).result()


_SHOWN = "s.id, s.pair, s.annotator, s.first_is_left, s.visit, s.at, s.until, s.repeat_of"


def _shown(row: tuple[Any, ...]) -> Shown:
    number, pair, annotator, first_is_left, *rest = row[:8]
    return Shown(number, pair, annotator, bool(first_is_left), *rest)


def _show(project: sqlite3.Connection, shown: Sequence[Shown], picked: Sequence[Picked]) -> None:
    project.executemany(
        "UPDATE pair SET picked_by = ?, p_pick = ?, picked_at = ? WHERE id = ? AND picked_by IS NULL",
        [(pick.by, pick.p, pick.place, pick.pair) for pick in picked],
    )
    project.executemany(
        """INSERT INTO shown (id, pair, annotator, first_is_left, visit, at, until, repeat_of)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET until = excluded.until""",
        [(s.id, s.pair, s.annotator, s.first_is_left, s.visit, s.at, s.until, s.repeat_of) for s in shown],
    )


_VOTE = "shown, turn, kind, choice, strength, ms, at, note"


def _vote(project: sqlite3.Connection, vote: Vote) -> Kept:
    last = project.execute(
        "SELECT turn, kind FROM vote WHERE shown = ? ORDER BY turn DESC LIMIT 1", (vote.shown,)
    ).fetchone()
    turn, before = (0, None) if last is None else (last[0] + 1, last[1])
    if vote.turn > turn:
        raise OutOfTurn(f"turn {vote.turn} of {vote.shown} comes before turn {turn}")
    if vote.turn < turn:
        query = f"SELECT {_VOTE} FROM vote WHERE shown = ? AND turn = ?"
        return Kept(Vote(*project.execute(query, (vote.shown, vote.turn)).fetchone()), False, None)
    project.execute(
        f"INSERT INTO vote ({_VOTE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (vote.shown, vote.turn, vote.kind, vote.choice, vote.strength, vote.ms, vote.at, vote.note),
    )
    change = 1 if vote.kind == "vote" else -1 if vote.kind == "undo" and before == "vote" else 0
    if change:
        update = "UPDATE pair SET votes = votes + ? WHERE id = (SELECT pair FROM shown WHERE id = ? AND visit = 0)"
        project.execute(update, (change, vote.shown))
    return Kept(vote, True, before)


def add_annotator(project: sqlite3.Connection, name: str, secret: bytes) -> Annotator:
    """The annotator of a name, who is added where there is none.

    Raises:
      DataError: the name is empty or long.
    """
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise DataError(f"an annotator's name has 1 to 80 characters, this one {len(name)}; give another")
    pseudonym = "a" + hmac.new(secret, b"pseudonym:" + name.encode(), hashlib.sha256).hexdigest()[:8]
    project.execute(
        "INSERT INTO annotator (name, pseudonym, joined) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING",
        (name, pseudonym, time.time()),
    )
    query = "SELECT id, name, pseudonym, state FROM annotator WHERE name = ?"
    return Annotator(*project.execute(query, (name,)).fetchone())


def new_shown_id() -> str:
    """A text that nobody guesses."""
    return secrets.token_urlsafe(12)


@contextmanager
def own_project(path: Path) -> Iterator[SqliteStore]:
    """The store of a project that no other process serves, labels or fills meanwhile.

    Raises:
      DataError: it is no project, or another process has it.
    """
    connect(path, write=False).close()
    lock = take_lock(path, wait=False)
    if lock is None:
        raise DataError(f"{path} is being served or labelled by another process; do that there, or stop it first")
    try:
        store = SqliteStore(path)
        try:
            yield store
        finally:
            store.close()
    finally:
        release_lock(lock)
