"""Store of token sequences on disk: memory-mapped Arrow IPC, written in bounded memory, checked as it is read.

A store is a folder: `examples.arrow` holds record batches of some hundred examples, `meta.json` their description.
Each batch has two CRC-32 sums in `meta.json`: one over the small columns (weights, counts, figures), which are read
when the store is opened, and one over the tokens, which is checked when a batch is first read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from preftree.data.store.example import TokenExample, join
from preftree.errors import CacheError
from preftree.records import FIGURES, Provenance

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("prompt", _IDS),
        ("responses", pa.list_(_IDS)),
        ("scored", pa.list_(_IDS)),  # of each sequence: start and stop of its scored runs, in turn
        ("prompt_digest", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_scored", pa.int64()),
        ("weight", pa.float64()),
        ("tie", pa.int8()),
        ("desirable", pa.int8()),  # -1 where there is no label
        *((name, pa.list_(pa.float64())) for name in FIGURES),  # empty where the row has none
        ("file", pa.int32()),
        ("line", pa.int64()),
    ]
)
HEAVY = ("prompt", "responses", "scored")
LIGHT = tuple(name for name in SCHEMA.names if name not in HEAVY)


class TokenStore:
    """Examples of a tokenised source, read from a memory-mapped file.

    Attributes:
      folder: Folder of the store.
      num_tokens: Unique input tokens of each example's tree, [N].
      num_scored: Scored tokens over all sequences of each example, [N].
      weights: Weight of each example, [N].
      ties: Whether neither response of an example is preferred, [N].
      prompts: 64-bit digests of the prompts before any trimming, [N]; equal for equal prompts, `NO_PROMPT` where there
        is none.
      digest: Hash of the content of all examples: ids, scored positions, weights, labels and figures.
      report: The report of the tokenisation, as TokenReport writes it.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
          CacheError: a file is missing or damaged.
        """
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if (folder / "examples.arrow").stat().st_size != meta["bytes"]:
                raise CacheError(f"{folder} is damaged: examples.arrow has another size than it was written with")
            self._reader = pa.ipc.open_file(pa.memory_map(str(folder / "examples.arrow")))
            if not self._reader.schema.equals(SCHEMA):
                raise CacheError(f"{folder} is damaged: examples.arrow has other columns than a store")
            batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
            self.digest: str = meta["digest"]
            self.report: dict[str, Any] = meta["report"]
            self._files: list[str] = meta["files"]
            self._sums: list[list[int]] = meta["sums"]
            if meta.pop("sum") != meta_sum(meta):
                raise CacheError(f"{folder} is damaged: meta.json has another checksum")
            if sum(batch.num_rows for batch in batches) != meta["examples"] or len(self._sums) != len(batches):
                raise CacheError(f"{folder} is damaged: it does not hold the examples that meta.json counts")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise CacheError(f"{folder} cannot be read: {error}") from error
        for number, batch in enumerate(batches):
            self._verify(batch, number, LIGHT, 0)
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._views: list[dict[str, np.ndarray] | None] = [None] * len(batches)

        def column(name: str, dtype: type) -> np.ndarray:
            parts = [batch.column(name).to_numpy(zero_copy_only=False) for batch in batches]
            return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)

        self.num_tokens: Int[np.ndarray, " N"] = column("num_tokens", np.int64)
        self.num_scored: Int[np.ndarray, " N"] = column("num_scored", np.int64)
        self.weights: Float[np.ndarray, " N"] = column("weight", np.float64)
        self.prompts: Int[np.ndarray, " N"] = column("prompt_digest", np.int64)
        self.ties: Bool[np.ndarray, " N"] = column("tie", np.bool_)
        self._desirable: Int[np.ndarray, " N"] = column("desirable", np.int8)
        self._figures = {name: _Values([batch.column(name) for batch in batches]) for name in FIGURES}
        self._file: Int[np.ndarray, " N"] = column("file", np.int32)
        self._line: Int[np.ndarray, " N"] = column("line", np.int64)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, index: int) -> TokenExample:
        """One example; its arrays are copies.

        Raises:
          IndexError: no such example.
          CacheError: the tokens on disk differ from those that were written.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        view, row = self._view(number), int(index - self._starts[number])
        first, last = view["groups"][row : row + 2]
        prompt = view["prompt"][slice(*view["prompt_at"][row : row + 2])]
        sequences = []
        for place in range(first, last):
            response = view["responses"][slice(*view["responses_at"][place : place + 2])]
            spans = view["scored"][slice(*view["scored_at"][place : place + 2])]
            sequences.append(join(prompt, response, spans.reshape(-1, 2)))
        figures = {name: values[index] for name, values in self._figures.items()}
        return TokenExample(
            sequences=tuple(sequences),
            weight=float(self.weights[index]),
            provenance=self.provenance(index),
            num_prompt=len(prompt),
            tie=bool(self.ties[index]),
            desirable=None if self._desirable[index] < 0 else bool(self._desirable[index]),
            figures={name: values for name, values in figures.items() if values},
        )

    def has(self, figure: str) -> Bool[np.ndarray, " N"]:
        """Whether each example has a figure; a name of `records.FIGURES`."""
        return np.diff(self._figures[figure].starts) > 0

    def figure(self, figure: str, index: int) -> tuple[float, ...]:
        """The values of a figure for one example; empty where it has none."""
        return self._figures[figure][index]

    def share_weights(self) -> int:
        """Divide each weight by the number of examples of its row; returns the largest number of a row."""
        rows = np.stack([self._file.astype(np.int64), self._line])
        _, index, counts = np.unique(rows, axis=1, return_inverse=True, return_counts=True)
        self.weights = self.weights / counts[index.ravel()]
        return int(counts.max(initial=0))

    def provenance(self, index: int) -> Provenance:
        """Origin of an example's row."""
        return Provenance(self._files[self._file[index]], int(self._line[index]))

    def _view(self, number: int) -> dict[str, np.ndarray]:
        view = self._views[number]
        if view is None:
            batch = self._reader.get_batch(number)
            self._verify(batch, number, HEAVY, 1)
            prompt, responses, scored = (batch.column(name) for name in HEAVY)
            view = self._views[number] = {
                "prompt": _numpy(prompt.values),
                "prompt_at": _numpy(prompt.offsets),
                "groups": _numpy(responses.offsets),
                "responses": _numpy(responses.values.values),
                "responses_at": _numpy(responses.values.offsets),
                "scored": _numpy(scored.values.values),
                "scored_at": _numpy(scored.values.offsets),
            }
        return view

    def _verify(self, batch: pa.RecordBatch, number: int, names: tuple[str, ...], part: int) -> None:
        try:
            batch.validate()
            sound = checksum(batch, names) == self._sums[number][part]
        except (pa.ArrowException, IndexError, TypeError) as error:
            raise CacheError(f"{self.folder} is damaged: batch {number} cannot be read ({error})") from error
        if not sound:
            raise CacheError(f"{self.folder} is damaged: batch {number} has another checksum; delete it and run again")


def meta_sum(meta: dict[str, Any]) -> int:
    """CRC-32 over the content of `meta.json`."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


class _Values:
    """Column of a figure: the values of each example."""

    def __init__(self, columns: Sequence[pa.ListArray]) -> None:
        values = [_numpy(column.values) for column in columns]
        counts = [np.diff(_numpy(column.offsets)) for column in columns]
        self._values = np.concatenate([np.empty(0), *values])
        self.starts = np.cumsum([0, *np.concatenate([np.empty(0, np.int64), *counts])])

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return tuple(self._values[self.starts[index] : self.starts[index + 1]].tolist())


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=True)


def checksum(batch: pa.RecordBatch, names: Sequence[str]) -> int:
    """CRC-32 over the values of some columns; the padding of Arrow's buffers does not count."""
    total = 0
    for name in names:
        column = batch.column(name)
        while isinstance(column, pa.ListArray):
            total = zlib.crc32(_numpy(column.offsets).data, total)
            column = column.values
        total = zlib.crc32(_numpy(column).data, total)
    return total
