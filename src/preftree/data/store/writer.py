"""Writing a token store: in bounded memory, batch after batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from preftree.data.store.store import HEAVY, LIGHT, SCHEMA, Says, checksum, count_tokens, join, meta_sum
from preftree.records import Provenance

_BATCH_EXAMPLES = 512
_BATCH_TOKENS = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class NewExample:
    """An example as it is written: a prompt and what follows it, by token ids.

    Attributes:
      prompt: Ids of the prompt, int32, [P].
      responses: Ids of each response, int32.
      scored: Of each sequence, the places [start, stop) of scored tokens, counted from the prompt's first.
      prompt_digest: Equal for equal prompts before any trimming.
      says: What the data says of it.
      provenance: The row it came from.
    """

    prompt: Int[np.ndarray, " P"]
    responses: tuple[np.ndarray, ...]
    scored: tuple[tuple[tuple[int, int], ...], ...]
    prompt_digest: int
    says: Says
    provenance: Provenance


class StoreWriter:
    """Writes examples into a new folder; only one batch of them is held in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sink = pa.OSFile(str(folder / "examples.arrow"), "wb")
        self._arrow = pa.ipc.new_file(self._sink, SCHEMA)
        self._pending: list[tuple[NewExample, tuple[int, int]]] = []
        self._pending_tokens = 0
        self._files: dict[str, int] = {}
        self._hash = hashlib.sha256()
        self._sums: list[tuple[int, int]] = []
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
        """Write what is left, and the meta file."""
        self._flush()
        self.close()
        meta = {
            "examples": self._count,
            "bytes": (self._folder / "examples.arrow").stat().st_size,
            "digest": self._hash.hexdigest(),
            "files": list(self._files),
            "sums": self._sums,
            "report": report,
        }
        meta["sum"] = meta_sum(meta)
        (self._folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def close(self) -> None:
        """Let go of the file, finished or not."""
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
            pa.array([example.says.weight for example in examples], pa.float64()),
            _figures([example.says.margin for example in examples]),
            pa.array([example.says.tie for example in examples], pa.bool_()),
            _figures([example.says.win_prob for example in examples]),
            _figures([example.says.other_margin for example in examples]),
            *(_figures([e.says.costs and e.says.costs[side] for e in examples]) for side in (0, 1)),
            pa.array([-1 if e.says.desirable is None else int(e.says.desirable) for e in examples], pa.int8()),
            pa.array([len(example.says.scores or ()) for example in examples], pa.int32()),
            pa.array([list(example.says.scores or ()) for example in examples], pa.list_(pa.float64())),
            pa.array([self._files.setdefault(e.provenance.file, len(self._files)) for e in examples], pa.int32()),
            pa.array([example.provenance.line for example in examples], pa.int64()),
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        self._sums.append((checksum(batch, LIGHT), checksum(batch, HEAVY)))
        self._arrow.write_batch(batch)


def _content(example: NewExample) -> bytes:
    """The content of an example as bytes; unequal examples never give equal ones, since every length stands before."""
    arrays = [example.prompt, *example.responses, *(np.array(spans, np.int32).reshape(-1) for spans in example.scored)]
    says = example.says
    margin = np.nan if says.margin is None else says.margin
    head = np.array([len(arrays), *map(len, arrays), says.tie], np.int64)
    content = head.tobytes() + np.array([says.weight, margin]).tobytes() + b"".join(array.tobytes() for array in arrays)
    more = [says.win_prob, says.costs, says.scores, says.desirable, says.other_margin]
    return content if more == [None] * len(more) else content + json.dumps(more).encode()


def _figures(values: Sequence[float | None]) -> pa.Array:
    return pa.array([np.nan if value is None else value for value in values], pa.float64())


def _lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    values = np.concatenate(arrays).astype(np.int32, copy=False) if len(arrays) else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _nested(groups: Sequence[Sequence[np.ndarray]]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, groups)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _lists([array for group in groups for array in group]))
