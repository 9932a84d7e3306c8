"""Detection of rows that repeat or contradict an earlier one, with eight bytes of digest a comparison.

Equal digests of different rows are as good as impossible: one in 30 000 data sets of 32 million rows would have a pair.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from itertools import combinations

from preftree.data.rows.faults import RowFault
from preftree.records import Conversation, Demonstration, Label, Preference, Provenance, Ranking, Record, Text


class Repeated(Exception):
    """A row says what an earlier one said; it is left out, and is no fault."""


class Seen:
    """Digests of the comparisons so far, and their places."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._places: dict[int, int] = {}  # digest -> line * 2^20 + file

    def check(self, record: Record, where: Provenance) -> None:
        """Remember a record.

        Raises:
          Repeated: earlier rows say the same.
          RowFault: earlier rows prefer the other response of a pair; the record is not remembered.
        """
        keys = _keys(record)
        for _, reverse in keys:
            if reverse is not None and reverse in self._places:
                message = f"the row prefers the other response than {self._where(reverse)} does; keep one of the two"
                raise RowFault("contradiction", "row", message)
        if all(key in self._places for key, _ in keys):
            raise Repeated(f"the row repeats {self._where(keys[0][0])}")
        if not self._files or self._files[-1] != where.file:
            self._files.append(where.file)
        for key, _ in keys:
            self._places.setdefault(key, where.line << 20 | len(self._files) - 1)

    def _where(self, key: int) -> str:
        line, file = divmod(self._places[key], 1 << 20)
        return f"{self._files[file]}:{line}"


def _keys(record: Record) -> list[tuple[int, int | None]]:
    """Digests of the comparisons in a record, each with the digest of its opposite."""
    prompt = _digest(record.prompt)
    if isinstance(record, Preference):
        chosen, rejected = _digest(record.chosen), _digest(record.rejected)
        if record.tie:
            return [(_key(b"tie", prompt, *sorted((chosen, rejected))), None)]
        return [(_key(b"pair", prompt, chosen, rejected), _key(b"pair", prompt, rejected, chosen))]
    if isinstance(record, Ranking):
        digests = [_digest(response) for response in record.responses]
        return [
            (_key(b"pair", prompt, digests[i], digests[j]), _key(b"pair", prompt, digests[j], digests[i]))
            for i, j in ordered_pairs(record)
        ]
    response = _digest(record.response)
    if isinstance(record, Label):
        keys = [_key(b"label", prompt, response, side) for side in (b"0", b"1")]
        return [(keys[record.desirable], keys[not record.desirable])]
    assert isinstance(record, Demonstration)
    return [(_key(b"demonstration", prompt, response), None)]


def ordered_pairs(ranking: Ranking) -> list[tuple[int, int]]:
    """Places (better, worse) of all pairs of a ranking; responses of equal score make none."""
    scores = ranking.figures.get("scores")
    pairs = combinations(range(len(ranking.responses)), 2)
    return [(i, j) for i, j in pairs if scores is None or scores[i] > scores[j]]


def _digest(text: Text) -> bytes:
    if isinstance(text, str):
        return blake2b(text.encode(), digest_size=16, person=b"text").digest()
    turns = blake2b(digest_size=16, person=b"messages")
    for message in text:
        content = message.content.encode()
        turns.update(f"{message.role} {message.train} {len(content)} ".encode())
        turns.update(content)
        if message.rest:
            turns.update(json.dumps(message.rest, sort_keys=True, default=str).encode())
    if isinstance(text, Conversation):
        turns.update(json.dumps([text.tools, text.options], sort_keys=True, default=str).encode())
    return turns.digest()


def _key(kind: bytes, *parts: bytes) -> int:
    return int.from_bytes(blake2b(b"".join(parts), digest_size=8, person=kind).digest(), "big")
