"""Writer of token stores, batch by batch in bounded memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from preftree.data.store.example import count_tokens, join
from preftree.data.store.token_store import KEY, SCHEMA
from preftree.records import FIGURES, Figures, Provenance
from preftree.storage.manifest import write_manifest

_BATCH_EXAMPLES = 512
_BATCH_TOKENS = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class NewExample:
    """An example to write: a prompt and its responses as token ids.

    Attributes:
      prompt: Ids of the prompt, int32, [P].
      responses: Ids of each response, int32.
      scored: Ranges [start, stop) of scored tokens of each sequence, counted from the prompt's first token.
      prompt_digest: Digest of the prompt before any trimming.
      provenance: Origin of its row.
      weight: Weight in every mean.
      tie: Whether neither response is preferred.
      desirable: Whether its single response is desirable; None without a label.
      figures: Figures of the row for its kind.
    """

    prompt: Int[np.ndarray, " P"]
    responses: tuple[np.ndarray, ...]
    scored: tuple[tuple[tuple[int, int], ...], ...]
    prompt_digest: int
    provenance: Provenance
    weight: float = 1.0
    tie: bool = False
    desirable: bool | None = None
    figures: Figures = field(default_factory=dict)


class StoreWriter:
    """Writer of examples into a new folder; only one batch is held in memory."""

    def __init__(self, folder: Path, key: str) -> None:
        """Begin a store; `key` is the name that its folder will have."""
        self._folder = folder
        self._key = key
        self._sink = pa.OSFile(str(folder / "examples.arrow"), "wb")
        self._arrow = pa.ipc.new_file(self._sink, SCHEMA.with_metadata({KEY: key.encode()}))
        self._pending: list[tuple[NewExample, tuple[int, int]]] = []
        self._pending_tokens = 0
        self._files: dict[str, int] = {}
        self._hash = hashlib.sha256()
        self._count = 0

    def append(self, example: NewExample) -> tuple[int, int]:
        """Add one example.

        Returns:
          Unique input tokens of its tree, and scored tokens over its sequences.
        """
        pairs = zip(example.responses, example.scored, strict=True)
        counts = count_tokens([join(example.prompt, response, spans) for response, spans in pairs])
        self._pending.append((example, counts))
        self._pending_tokens += len(example.prompt) + sum(map(len, example.responses))
        if len(self._pending) >= _BATCH_EXAMPLES or self._pending_tokens >= _BATCH_TOKENS:
            self._flush()
        self._count += 1
        return counts

    def finish(self, report: dict[str, Any]) -> None:
        """Write the last batch, the meta file and the manifest."""
        self._flush()
        self.close()
        meta = {
            "key": self._key,
            "examples": self._count,
            "digest": self._hash.hexdigest(),
            "files": list(self._files),
            "report": report,
        }
        (self._folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        write_manifest(self._folder)

    def close(self) -> None:
        """Close the file, finished or not."""
        if not self._sink.closed:
            self._arrow.close()
            self._sink.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        examples = [example for example, _ in self._pending]
        counts = [count for _, count in self._pending]
        self._pending, self._pending_tokens = [], 0
        for example in examples:
            self._hash.update(_content(example))
        scored = [[np.array(spans, np.int32).reshape(-1) for spans in example.scored] for example in examples]
        columns = [
            _lists([example.prompt for example in examples]),
            _nested([example.responses for example in examples]),
            _nested(scored),
            pa.array([example.prompt_digest for example in examples], pa.int64()),
            pa.array([tokens for tokens, _ in counts], pa.int64()),
            pa.array([count for _, count in counts], pa.int64()),
            pa.array([example.weight for example in examples], pa.float64()),
            pa.array([int(example.tie) for example in examples], pa.int8()),
            pa.array([-1 if e.desirable is None else int(e.desirable) for e in examples], pa.int8()),
            *(pa.array([list(e.figures.get(n, ())) for e in examples], pa.list_(pa.float64())) for n in FIGURES),
            pa.array([self._files.setdefault(e.provenance.file, len(self._files)) for e in examples], pa.int32()),
            pa.array([example.provenance.line for example in examples], pa.int64()),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        self._arrow.write_batch(batch)


_FIRST_FIGURES = ("margin", "win_prob", "costs", "scores", "other_margin")


def _content(example: NewExample) -> bytes:
    """The content of an example as bytes; different examples give different bytes, since lengths come first.

    The first figures have fixed positions, and further ones follow by name, so that a new figure in the table does not
    change the digests of data without it.
    """
    arrays = [example.prompt, *example.responses, *(np.array(spans, np.int32).reshape(-1) for spans in example.scored)]
    head = np.array([len(arrays), *map(len, arrays), example.tie], np.int64)
    figures = dict(example.figures)
    margin, win_prob, costs, scores, other_margin = (figures.pop(name, None) for name in _FIRST_FIGURES)
    weight = np.array([example.weight, margin[0] if margin else np.nan])
    content = head.tobytes() + weight.tobytes() + b"".join(array.tobytes() for array in arrays)
    more = [win_prob and win_prob[0], costs, scores, example.desirable, other_margin and other_margin[0]]
    more += [[name, *values] for name, values in sorted(figures.items())]
    return content if more == [None] * len(more) else content + json.dumps(more).encode()


def _lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    values = np.concatenate(arrays).astype(np.int32, copy=False) if len(arrays) else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _nested(groups: Sequence[Sequence[np.ndarray]]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, groups)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _lists([array for group in groups for array in group]))
