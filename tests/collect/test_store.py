"""The store: votes are only added, an answer comes after the commit, and a full disk is told."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

import preftree
from preftree.collect.queue import Queue
from preftree.collect.read import last_vote, project_digest, read_ballots
from preftree.collect.records import Shown, Vote
from preftree.collect.schema import connect
from preftree.collect.store import OutOfTurn, SqliteStore, own_project
from preftree.errors import DataError
from support.collect import add_people, make_numbered, rows, with_settings

PATHS = [str(Path(preftree.__file__).parents[1]), str(Path(__file__).parents[1])]


@pytest.fixture
def store(tmp_path: Path):
    path = make_numbered(tmp_path / "P.db", 30, with_settings(overlap=2))
    add_people(path, 3)
    with own_project(path) as opened:
        yield opened


def show(store: SqliteStore, annotator: int = 1, count: int = 1) -> list[Shown]:
    shown, picked = Queue(store, 0.0).next(annotator, count, 0.0)
    store.show(shown, picked).result()
    return shown


def vote(shown: Shown, turn: int = 0, **changes) -> Vote:
    row = {"kind": "vote", "choice": "first", "strength": None, "ms": 5, "at": 1.5, "note": ""} | changes
    return Vote(shown.id, turn, **row)


def test_a_vote_that_is_sent_twice_is_one_row(store: SqliteStore) -> None:
    (shown,) = show(store)
    (first,) = store.vote([vote(shown)]).result()
    (second,) = store.vote([vote(shown, choice="second")]).result()
    assert first.is_new and not second.is_new and second.row.choice == "first"
    assert rows(store.path, "SELECT choice FROM vote") == [("first",)]
    assert rows(store.path, "SELECT votes FROM pair WHERE id = ?", shown.pair) == [(1,)]


def test_an_undo_is_a_row_and_the_vote_before_it_stays(store: SqliteStore) -> None:
    (shown,) = show(store)
    undo = vote(shown, 1, kind="undo", choice=None)
    store.vote([vote(shown), undo]).result()
    assert list(read_ballots(store.reading)) == []
    store.vote([vote(shown, 2, choice="tie", strength=None)]).result()
    (ballot,) = read_ballots(store.reading)
    assert (ballot.choice, ballot.pair, ballot.slice) == ("tie", shown.pair, f"slice {(shown.pair - 1) % 3}")
    assert [kind for (kind,) in rows(store.path, "SELECT kind FROM vote ORDER BY id")] == ["vote", "undo", "vote"]
    assert last_vote(store.reading) == 3


def test_rows_of_votes_cannot_be_changed_or_deleted(store: SqliteStore) -> None:
    (shown,) = show(store)
    store.vote([vote(shown)]).result()
    for statement in ("UPDATE vote SET choice = 'second'", "DELETE FROM vote"):
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            store.writer.submit(lambda project, statement=statement: project.execute(statement)).result()
    assert rows(store.path, "SELECT choice FROM vote") == [("first",)]


def test_a_turn_that_skips_one_is_refused_and_the_others_of_the_transaction_stay(store: SqliteStore) -> None:
    one, two = show(store, count=2)
    gate = threading.Event()
    blocked = store.writer.submit(lambda project: gate.wait(10))  # what follows is one transaction
    early, good = store.vote([vote(one, 2)]), store.vote([vote(two)])
    gate.set()
    blocked.result()
    with pytest.raises(OutOfTurn):
        early.result()
    assert good.result()[0].is_new
    assert rows(store.path, "SELECT shown FROM vote") == [(two.id,)]


def test_the_answer_comes_after_the_commit_and_one_commit_serves_many(store: SqliteStore) -> None:
    shown = show(store, count=20)
    commits: list[str] = []
    store.writer.submit(lambda project: project.set_trace_callback(commits.append)).result()
    gate, futures = threading.Event(), []
    first = store.writer.submit(lambda project: gate.wait(10))

    def seen(future: Future, number: int) -> None:
        assert rows(store.path, "SELECT count(*) FROM vote WHERE shown = ?", shown[number].id) == [(1,)]

    for number, one in enumerate(shown):
        futures.append(store.vote([vote(one)]))
        futures[-1].add_done_callback(lambda future, number=number: seen(future, number))
    gate.set()
    first.result()
    assert all(future.result()[0].is_new for future in futures)
    assert commits.count("COMMIT") <= 3


def test_a_project_has_one_process_that_writes(store: SqliteStore) -> None:
    code = f"import pathlib, preftree.collect.store as s; s.own_project(pathlib.Path({str(store.path)!r})).__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": PATHS[0]}, capture_output=True, text=True
    )
    assert "being served or labelled by another process" in done.stderr


def test_another_file_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to have a header of one hundred bytes " * 3)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.commit()
    for name, words in (("none.db", "does not exist"), ("text.db", "is no project"), ("other.db", "something else")):
        with pytest.raises(DataError, match=words):
            connect(tmp_path / name, write=False)


def test_the_digest_is_of_the_votes_and_of_what_they_are_about(store: SqliteStore) -> None:
    empty = project_digest(store.reading)
    (shown,) = show(store)
    store.vote([vote(shown)]).result()
    one = project_digest(store.reading)
    assert len({empty, one}) == 2 and project_digest(store.reading) == one
    store.writer.submit(lambda project: project.execute("UPDATE annotator SET name = name || ' Smith'")).result()
    assert project_digest(store.reading) == one
    store.writer.submit(lambda project: project.execute("UPDATE response SET text = text || '!'")).result()
    assert project_digest(store.reading) != one


FULL = """
import json, resource, signal, sys
from pathlib import Path
from preftree.collect.store import SqliteStore
from preftree.errors import WriteError
from support.collect import rows
from preftree.collect.queue import Queue
from preftree.collect.records import Vote

path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(path)
shown, picked = Queue(store, 0.0).next(1, 200, 0.0)
store.show(shown, picked).result()
refused = acked = 0
messages = set()
for number, one in enumerate(shown):
    size = Path(f"{path}-wal").stat().st_size
    # The limit falls into another write of the commit each time: no byte, part of a page, some pages.
    room = (0, 1, 24, 100, 4096, 4120, 5000, 8240)[number % 8]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    row = Vote(one.id, 0, "vote", "first", None, 5, 1.0)
    try:
        store.vote([row]).result()
        acked += 1
        kept = True
    except WriteError as error:
        refused += 1
        kept = False
        messages.add(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    there = rows(path, "SELECT count(*) FROM vote WHERE shown = ?", one.id)[0][0]
    assert there == int(kept), (number, there, kept)
    if not kept:
        assert store.vote([row]).result()[0].is_new
store.close()
integrity = rows(path, "PRAGMA integrity_check")[0][0]
print(json.dumps({"refused": refused, "acked": acked, "messages": sorted(messages), "integrity": integrity}))
"""


def test_a_disk_that_is_full_at_any_write_acknowledges_nothing_that_is_not_there(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 200, with_settings())
    add_people(path, 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["refused"] >= 100 and found["integrity"] == "ok", found
    assert all(str(path) in message and "see to the disk" in message for message in found["messages"])


def test_a_full_file_system_is_named(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "P.db", 300, with_settings())
    add_people(path, 1)
    with own_project(path) as store:
        shown = show(store, count=300)
        pages = rows(path, "PRAGMA page_count")[0][0]
        store.writer.submit(lambda project: project.execute(f"PRAGMA max_page_count = {pages + 1}").fetchone()).result()
        refused = [one for one in shown if store.vote([vote(one, note="long " * 300)]).exception() is not None]
        there = {number for (number,) in rows(path, "SELECT shown FROM vote")}
        assert refused and {one.id for one in refused}.isdisjoint(there)
        assert len(there) + len(refused) == len(shown)
        with pytest.raises(Exception, match=r"database or disk is full.*see to the disk"):
            store.vote([vote(refused[0], note="long " * 300)]).result()


def test_commits_wait_for_the_disk(store: SqliteStore) -> None:
    """A kill cannot show it: the kernel keeps what was written. SQLite syncs the log at each COMMIT with FULL (2)."""
    for setting, wanted in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
        found = store.writer.submit(lambda project, name=setting: project.execute(f"PRAGMA {name}").fetchone()).result()
        assert found == (wanted,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.reading.execute("DELETE FROM item")
