"""Near repeats: rows whose prompt and responses are nearly those of an earlier row.

Texts are compared as sets of five words in a row: the share of those that two have in common (Jaccard's index) is
found by MinHash (Broder 1997, "On the resemblance and containment of documents"), and then counted. Rows that differ
in one of prompt and responses alone are no near repeats: refusals are alike, and a prompt has several answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast
from zlib import crc32

import numpy as np

from preftree.data.rows.texts import named_texts
from preftree.errors import ConfigError
from preftree.records import Provenance, Record, Text

SIMILARITY = 0.8
"""Share of words in a row that two texts have in common at least; Lee et al. 2022 (arXiv:2107.06499) take as much."""

SHOWN = 10
_WORDS = 5
_PERMUTATIONS = 64
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")  # a character where words are written without spaces


class NearRepeats:
    """Rows so far, and those that nearly repeat an earlier one: about 3 KB and half a millisecond a row.

    Attributes:
      count: How many rows nearly repeat an earlier one.
      first: The first of them, each with the earliest row that it nearly repeats.
    """

    def __init__(self) -> None:
        """Needs the library.

        Raises:
          ConfigError: it is not installed.
        """
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise ConfigError("near repeats need datasketch; pip install 'preftree[near]'") from error
        self.count = 0
        self.first: list[tuple[Provenance, Provenance]] = []
        self._empty = MinHash(_PERMUTATIONS, hashfunc=int)
        self._index = MinHashLSH(SIMILARITY, _PERMUTATIONS, hashfunc=_short)
        self._rows: list[tuple[Provenance, np.ndarray, np.ndarray]] = []

    def add(self, where: Provenance, record: Record) -> None:
        """Take a row."""
        (_, prompt), *responses = named_texts(record)
        parts = _shingles([prompt]), _shingles(text for _, text in responses)
        sketch = self._empty.copy()
        sketch.update_batch([*parts[0].tolist(), *(parts[1] ^ 1).tolist()])
        alike = cast("list[int]", self._index.query(sketch))  # the numbers of rows that were inserted
        earlier = next((row for row in sorted(alike) if self._is_near(row, parts)), None)
        if earlier is not None:
            self.count += 1
            if len(self.first) < SHOWN:
                self.first.append((where, self._rows[earlier][0]))
        self._index.insert(len(self._rows), sketch, check_duplication=False)
        self._rows.append((where, *parts))

    def _is_near(self, row: int, parts: tuple[np.ndarray, np.ndarray]) -> bool:
        _, *others = self._rows[row]
        return all(_similarity(part, other) >= SIMILARITY for part, other in zip(parts, others, strict=True))

    def as_json(self) -> dict[str, Any]:
        """The number of rows, and the first of them."""
        return {"rows": self.count, "first": [[str(where), str(earlier)] for where, earlier in self.first]}


def _shingles(texts: Iterable[Text]) -> np.ndarray:
    """Hashes of each five words in a row, without case and punctuation; shorter texts are one."""
    hashes: set[int] = set()
    for text in texts:
        whole = text if isinstance(text, str) else "\n".join(turn.content for turn in text)
        words = _WORD.findall(whole.lower())
        places = range(max(1, len(words) - _WORDS + 1))
        hashes |= {crc32(" ".join(words[place : place + _WORDS]).encode()) for place in places}
    return np.array(sorted(hashes), np.uint32)


def _similarity(one: np.ndarray, other: np.ndarray) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _short(band: bytes) -> bytes:
    """Hash of a band of the index, which would hold all of it otherwise."""
    return hash(band).to_bytes(8, "big", signed=True)
