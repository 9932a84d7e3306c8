"""What statistics and exports read of a project: settings, items, responses, pairs, annotators and current votes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from preftree.collect.records import Annotator, Ballot, Item, Response, Settings, StoredPair
from preftree.data.formats.prompts_alone import prompt_of

CURRENT = """
SELECT v.id, v.shown, s.pair, p.item, s.annotator, v.kind, v.choice, v.strength, v.ms, v.at, v.note,
       s.first_is_left, s.repeat_of, p.gold, p.picked_by, p.p_pick, i.slice
FROM vote v JOIN shown s ON s.id = v.shown JOIN pair p ON p.id = s.pair JOIN item i ON i.id = p.item
WHERE v.kind <> 'undo' AND NOT EXISTS (SELECT 1 FROM vote w WHERE w.shown = v.shown AND w.turn = v.turn + 1)
ORDER BY v.id
"""
"""Current vote of each `shown`: its last row, where that is no undo. Column for column the fields of `Ballot`."""


def read_settings(project: sqlite3.Connection) -> Settings:
    """What the project asks of its annotators."""
    known = {field.name for field in fields(Settings)}
    rows = project.execute("SELECT name, value FROM setting").fetchall()
    return Settings(**{name: json.loads(value) for name, value in rows if name in known})


def read_items(project: sqlite3.Connection) -> dict[int, Item]:
    """All items by number."""
    rows = project.execute("SELECT id, prompt, slice FROM item ORDER BY id")
    return {number: Item(number, prompt_of(json.loads(prompt)), group) for number, prompt, group in rows}


def read_responses(project: sqlite3.Connection) -> dict[int, Response]:
    """All responses by number."""
    rows = project.execute("SELECT id, item, text, source, digest, seed, features FROM response ORDER BY id")
    return {row[0]: Response(*row[:6], features=row[6] and tuple(json.loads(row[6]))) for row in rows}


def read_pairs(project: sqlite3.Connection) -> dict[int, StoredPair]:
    """All pairs by number."""
    rows = project.execute("SELECT id, item, first, second, gold, picked_by, p_pick FROM pair ORDER BY id")
    return {row[0]: StoredPair(*row) for row in rows}


def read_annotators(project: sqlite3.Connection) -> dict[int, Annotator]:
    """All annotators by number."""
    rows = project.execute("SELECT id, name, pseudonym, state FROM annotator ORDER BY id")
    return {row[0]: Annotator(*row) for row in rows}


def read_ballots(project: sqlite3.Connection) -> Iterator[Ballot]:
    """All current votes, skips and flags, by vote id."""
    for row in project.execute(CURRENT):
        values = list(row)
        values[11] = bool(values[11])
        yield Ballot(*values)


def last_vote(project: sqlite3.Connection) -> int:
    """Number of the last vote's row, undone ones included; 0 where there is none."""
    return project.execute("SELECT coalesce(max(id), 0) FROM vote").fetchone()[0]


def project_digest(project: sqlite3.Connection) -> str:
    """SHA-256 of the canonical export in hex: one JSON object a current vote, by vote id, with sorted keys.

    A row has everything that the vote depends on: prompt and both texts, their sources, what was shown where, to which
    pseudonym, and what was done. Names of people are not in it.
    """
    items, responses, pairs = read_items_raw(project), read_responses(project), read_pairs(project)
    people = read_annotators(project)
    digest = hashlib.sha256()
    for ballot in read_ballots(project):
        pair = pairs[ballot.pair]
        row: dict[str, Any] = {
            "vote": ballot.id,
            "shown": ballot.shown,
            "by": people[ballot.annotator].pseudonym,
            "prompt": items[pair.item],
            "kind": ballot.kind,
            "choice": ballot.choice,
            "strength": ballot.strength,
            "ms": ballot.ms,
            "at": ballot.at,
            "first_is_left": ballot.first_is_left,
            "repeat_of": ballot.repeat_of,
            "gold": ballot.gold,
            "picked_by": ballot.picked_by,
            "p_pick": ballot.p_pick,
            "slice": ballot.slice,
        }
        for name, response in (("first", responses[pair.first]), ("second", responses[pair.second])):
            row |= {name: response.text, f"{name}_source": response.source, f"{name}_digest": response.digest}
            row[f"{name}_seed"] = response.seed
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def read_items_raw(project: sqlite3.Connection) -> dict[int, Any]:
    """Prompts by item number as JSON values: `{"prompt": ...}` with tools and template options beside it."""
    return {number: json.loads(prompt) for number, prompt in project.execute("SELECT id, prompt FROM item")}
