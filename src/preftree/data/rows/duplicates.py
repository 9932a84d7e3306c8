"""Detection of rows that repeat or contradict an earlier one, by eight bytes of Python's own hash a comparison.

Equal hashes of different rows are as good as impossible: one in 4 000 data sets of 32 million rows would have a pair.
Python's hash of texts has a new key in each process, so nobody can write rows that collide; it is never kept.
"""

from __future__ import annotations

import json
from itertools import combinations

from preftree.data.rows.faults import RowFault
from preftree.records import (
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


class Repeated(Exception):
    """A row says what an earlier one said; it is left out, and is no fault."""


class Seen:
    """Hashes of the comparisons so far, and their places."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._places: dict[int, int] = {}  # hash -> line * 2^20 + file

    def check(self, record: Record, where: Provenance) -> None:
        """Remember a record.

        Raises:
          Repeated: earlier rows say the same.
          RowFault: earlier rows prefer the other response of a pair; the record is not remembered.
        """
        keys = _keys(record)
        repeats = True
        for key, reverse in keys:
            repeats = repeats and key in self._places
            if reverse is not None and reverse in self._places:
                message = f"the row prefers the other response than {self._where(reverse)} does; keep one of the two"
                raise RowFault("contradiction", "row", message)
        if repeats:
            raise Repeated(f"the row repeats {self._where(keys[0][0])}")
        if not self._files or self._files[-1] != where.file:
            self._files.append(where.file)
        for key, _ in keys:
            self._places.setdefault(key, where.line << 20 | len(self._files) - 1)

    def _where(self, key: int) -> str:
        line, file = divmod(self._places[key], 1 << 20)
        return f"{self._files[file]}:{line}"


def _keys(record: Record) -> list[tuple[int, int | None]]:
    """Hashes of the comparisons in a record, each with the hash of its opposite."""
    prompt = _hash(record.prompt)
    if isinstance(record, Preference):
        chosen, rejected = _hash(record.chosen), _hash(record.rejected)
        if record.tie:
            return [(hash(("tie", prompt, *sorted((chosen, rejected)))), None)]
        return [_pair_keys(prompt, chosen, rejected)]
    if isinstance(record, Ranking):
        hashes = [_hash(response) for response in record.responses]
        return [_pair_keys(prompt, hashes[i], hashes[j]) for i, j in ordered_pairs(record)]
    response = _hash(record.response)
    if isinstance(record, Label):
        keys = [hash(("label", prompt, response, side)) for side in (False, True)]
        return [(keys[record.desirable], keys[not record.desirable])]
    assert isinstance(record, Demonstration)
    return [(hash(("demonstration", prompt, response)), None)]


def _pair_keys(prompt: int, better: int, worse: int) -> tuple[int, int]:
    return hash(("pair", prompt, better, worse)), hash(("pair", prompt, worse, better))


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
    tools, options = tools_of(text), template_options_of(text)
    if not (beside or tools or options):
        return hash(tuple(text))
    return hash((tuple(text), json.dumps([beside, tools, options], sort_keys=True, default=str)))
