"""Store of token sequences on disk: memory-mapped Arrow IPC, written in bounded memory, checked when it is opened.

A store is a folder: `examples.arrow` holds record batches of some hundred examples, `meta.json` their description, and
`MANIFEST.json` the SHA-256 of both. Both name the key of the store, which is the folder's name (`store/key.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError

from preftree.data.store.example import TokenExample, join
from preftree.errors import CacheError, CheckpointError
from preftree.records import FIGURES, Provenance
from preftree.storage.json_file import first_fault
from preftree.storage.manifest import verify_manifest

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
KEY = b"key"  # entry of the schema's metadata


class _Meta(BaseModel):
    """Schema of meta.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str
    examples: int
    digest: str
    files: list[str]
    report: dict[str, Any]


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
          CacheError: a file is missing or damaged, or is of another store than the folder's name says.
        """
        self.folder = folder
        try:
            listed = verify_manifest(folder)
            if set(listed) != {"examples.arrow", "meta.json"}:
                raise CacheError(f"{folder} is damaged: its MANIFEST.json does not list what a store holds")
            meta = _Meta.model_validate_json((folder / "meta.json").read_bytes())
            self._reader = pa.ipc.open_file(pa.memory_map(str(folder / "examples.arrow")))
            if not self._reader.schema.equals(SCHEMA):
                raise CacheError(f"{folder} is damaged: examples.arrow has other columns than a store")
            for name, key in (("meta.json", meta.key), ("examples.arrow", self._key_in_examples())):
                if key != folder.name:
                    raise CacheError(f"{folder / name} is of store {key!r}, of other data or another tokenizer")
            batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
            for batch in batches:
                batch.validate()
            if sum(batch.num_rows for batch in batches) != meta.examples:
                raise CacheError(f"{folder} is damaged: it does not hold the examples that meta.json counts")
        except ValidationError as error:
            raise CacheError(f"{folder / 'meta.json'} cannot be read: {first_fault(error)}") from error
        except (OSError, ValueError, CheckpointError, pa.ArrowException) as error:
            raise CacheError(f"{folder} cannot be read: {error}") from error
        self.digest: str = meta.digest
        self.report: dict[str, Any] = meta.report
        self._files = meta.files
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._views: list[dict[str, np.ndarray] | None] = [None] * len(batches)

        table = pa.Table.from_batches(batches, SCHEMA)

        def column(name: str, dtype: type) -> np.ndarray:
            return table.column(name).to_numpy().astype(dtype)

        self.num_tokens: Int[np.ndarray, " N"] = column("num_tokens", np.int64)
        self.num_scored: Int[np.ndarray, " N"] = column("num_scored", np.int64)
        self.weights: Float[np.ndarray, " N"] = column("weight", np.float64)
        self.prompts: Int[np.ndarray, " N"] = column("prompt_digest", np.int64)
        self.ties: Bool[np.ndarray, " N"] = column("tie", np.bool_)
        self._desirable: Int[np.ndarray, " N"] = column("desirable", np.int8)
        self._figures = {name: _Values(table.column(name)) for name in FIGURES}
        self._file: Int[np.ndarray, " N"] = column("file", np.int32)
        self._line: Int[np.ndarray, " N"] = column("line", np.int64)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, index: int) -> TokenExample:
        """One example; its arrays are copies.

        Raises:
          IndexError: no such example.
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
            prompt, responses, scored = (batch.column(name) for name in ("prompt", "responses", "scored"))
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

    def _key_in_examples(self) -> str:
        return ((self._reader.schema.metadata or {}).get(KEY) or b"").decode(errors="replace")


class _Values:
    """Column of a figure: the values of each example."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        lists = lists if isinstance(lists, pa.ListArray) else pa.concat_arrays(lists.chunks)
        self._values = _numpy(lists.values)
        self.starts = _numpy(lists.offsets)

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return tuple(self._values[self.starts[index] : self.starts[index + 1]].tolist())


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=True)
