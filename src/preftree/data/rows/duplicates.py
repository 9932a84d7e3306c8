"""Detection of rows that repeat or contradict an earlier one, by Python's own hash of what they compare.

Equal hashes of different rows are as good as impossible: one in 4 000 data sets of 32 million rows would have a pair.
Python's hash of texts has a new key in each process, so nobody can write rows that collide; it is never kept.
"""

from __future__ import annotations

import json
import sqlite3
from itertools import combinations

from preftree.data.rows.faults import RowFault
from preftree.errors import DataError
from preftree.records import (
    Conversation,
    Demonstration,
    Label,
    Preference,
    Provenance,
    Ranking,
    Record,
    Text,
    template_options_of,
    tools_of,
)

IN_MEMORY = 131_072
"""Hashes that are held in memory, about 100 bytes each; there they cost a tenth of what they cost in a file."""

BATCH = 65_536
"""Hashes that are held once there is a file; as many as before would take more memory than the first ones did."""

_MAKE = "CREATE TABLE seen(hash INTEGER PRIMARY KEY, place INTEGER) WITHOUT ROWID"
_FIND = "SELECT place FROM seen WHERE hash = ?"
_KEEP = "INSERT INTO seen VALUES (?, ?)"


class Repeated(Exception):
    """A row says what an earlier one said; it is left out, and is no fault."""


class Seen:
    """Hashes of the comparisons so far, with their sides and places: the last ones in memory, the others in a file.

    The file is SQLite's, temporary, and read with little memory, so that memory does not grow with the rows.
    """

    def __init__(self) -> None:
        self._files: list[str] = []
        self._recent: dict[int, int] = {}  # hash -> (line * 2^20 + file) * 2 + side
        self._older: sqlite3.Connection | None = None

    def check(self, record: Record, where: Provenance) -> None:
        """Remember a record.

        Raises:
          Repeated: earlier rows say the same.
          RowFault: earlier rows prefer the other response of a pair; the record is not remembered.
          DataError: the temporary file cannot be written.
        """
        new = []
        place = 0
        for key, side in _sides(record):
            known = self._recent.get(key) if self._older is None else self._find(key)
            if known is None:
                new.append((key, side))
            elif known & 1 != side:
                message = f"the row prefers the other response than {self._where(known)} does; keep one of the two"
                raise RowFault("contradiction", "row", message)
            else:
                place = known
        if not new:
            raise Repeated(f"the row repeats {self._where(place)}")
        if not self._files or self._files[-1] != where.file:
            self._files.append(where.file)
        place = where.line << 20 | len(self._files) - 1
        for key, side in new:
            self._recent[key] = place << 1 | side
        if len(self._recent) >= (IN_MEMORY if self._older is None else BATCH):
            self._write()

    def _find(self, key: int) -> int | None:
        place = self._recent.get(key)
        if place is None and self._older is not None:
            row = self._older.execute(_FIND, (key,)).fetchone()
            return None if row is None else row[0]
        return place

    def _write(self) -> None:
        """Move what is in memory to the file."""
        try:
            if self._older is None:
                self._older = sqlite3.connect("", isolation_level=None)  # a file that nobody else sees
                for setting in ("temp_store=FILE", "journal_mode=OFF", "synchronous=OFF", "cache_size=-1000"):
                    self._older.execute(f"PRAGMA {setting}")
                self._older.execute(_MAKE)
            with self._older:
                self._older.execute("BEGIN")
                # In the order of the file, and without a list of pairs: that would take as much memory again.
                self._older.executemany(_KEEP, ((key, self._recent[key]) for key in sorted(self._recent)))
        except sqlite3.Error as error:
            message = f"the rows seen so far cannot be kept in a temporary file ({error}); make room, or set TMPDIR"
            raise DataError(message) from error
        self._recent.clear()

    def _where(self, place: int) -> str:
        line, file = divmod(place >> 1, 1 << 20)
        return f"{self._files[file]}:{line}"


def _sides(record: Record) -> list[tuple[int, bool]]:
    """Hashes of the comparisons in a record, each with its side: the opposite comparison has the other one."""
    prompt = _hash(record.prompt)
    if isinstance(record, Preference):
        chosen, rejected = _hash(record.chosen), _hash(record.rejected)
        if record.tie:
            return [(hash(("tie", prompt, *sorted((chosen, rejected)))), False)]
        return [_pair(prompt, chosen, rejected)]
    if isinstance(record, Ranking):
        hashes = [_hash(response) for response in record.responses]
        return [_pair(prompt, hashes[i], hashes[j]) for i, j in ordered_pairs(record)]
    response = _hash(record.response)
    if isinstance(record, Label):
        return [(hash(("label", prompt, response)), record.desirable)]
    assert isinstance(record, Demonstration)
    return [(hash(("demonstration", prompt, response)), False)]


def _pair(prompt: int, better: int, worse: int) -> tuple[int, bool]:
    if better < worse:
        return hash(("pair", prompt, better, worse)), False
    return hash(("pair", prompt, worse, better)), True


def ordered_pairs(ranking: Ranking) -> list[tuple[int, int]]:
    """Places (better, worse) of all pairs of a ranking; responses of equal score make none."""
    scores = ranking.figures.get("scores")
    pairs = combinations(range(len(ranking.responses)), 2)
    return [(i, j) for i, j in pairs if scores is None or scores[i] > scores[j]]


def _hash(text: Text) -> int:
    """Hash of a text, or of all that a conversation is rendered with."""
    if isinstance(text, str):
        return hash(text)
    beside = {place: message.rest for place, message in enumerate(text) if message.rest}
    if not beside and not isinstance(text, Conversation):
        return hash(text)
    more = json.dumps([beside, tools_of(text), template_options_of(text)], sort_keys=True, default=str)
    return hash((tuple(text), more))
