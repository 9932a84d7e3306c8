"""Choices made in `preftree chat`, as rows of a project: the pair, what was shown where, and the vote."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from preftree.collect.fill import Filling
from preftree.collect.records import Side
from preftree.collect.store import SqliteStore, new_shown_id
from preftree.records import Text


def count_choices(store: SqliteStore) -> int:
    """Number of choices of chats."""
    return store.reading.execute("SELECT count(*) FROM pair WHERE picked_by = 'chat'").fetchone()[0]


def add_choice_of_chat(
    store: SqliteStore, annotator: int, prompt: Text, answers: Sequence[tuple[str, str]], side: Side, seed: int
) -> None:
    """Add a choice; it is on the disk on return.

    Args:
      store: The project.
      annotator: Who chose.
      prompt: The prompt.
      answers: Model and text of the left and of the right answer, which differ in text.
      side: The choice.
      seed: Seed of the samples.
    Raises:
      WriteError: the file cannot be written.
    """

    def add(project: sqlite3.Connection) -> None:
        filling, now = Filling.of(project), time.time()
        item = filling.item(prompt, "chat")
        left, right = (filling.response(item, text, source, seed=seed) for source, text in answers)
        filling.pair(item, left, right)
        pair, first = project.execute(
            "SELECT id, first FROM pair WHERE first IN (?1, ?2) AND second IN (?1, ?2)", (left, right)
        ).fetchone()
        (place,) = project.execute("SELECT coalesce(max(picked_at), -1) + 1 FROM pair").fetchone()
        project.execute(
            "UPDATE pair SET picked_by = 'chat', picked_at = ? WHERE id = ? AND picked_by IS NULL", (place, pair)
        )
        (visit,) = project.execute(
            "SELECT count(*) FROM shown WHERE annotator = ? AND pair = ?", (annotator, pair)
        ).fetchone()
        choice = side if side in ("tie", "bad") else "first" if (side == "left") == (left == first) else "second"
        row = (shown := new_shown_id(), pair, annotator, left == first, visit, now, now)
        project.execute(
            "INSERT INTO shown (id, pair, annotator, first_is_left, visit, at, until) VALUES (?, ?, ?, ?, ?, ?, ?)", row
        )
        project.execute(
            "INSERT INTO vote (shown, turn, kind, choice, ms, at) VALUES (?, 0, 'vote', ?, 0, ?)", (shown, choice, now)
        )
        if visit == 0:
            project.execute("UPDATE pair SET votes = votes + 1 WHERE id = ?", (pair,))

    store.writer.submit(add).result()
