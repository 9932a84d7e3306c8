"""Token sequences on disk: memory-mapped Arrow IPC, written in bounded memory, checked as it is read.

A store is a folder: `examples.arrow` holds record batches of some hundred examples, `meta.json` what is known about
them. Each batch has two CRC-32 sums in `meta.json`: one over the small columns (weights, counts, places), which are
read when the store is opened, and one over the tokens, which is checked when a batch is first touched.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from preftree.errors import CacheError
from preftree.records import Provenance
from preftree.tree.layout import TokenSequence, grow_tree

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("prompt", _IDS),
        ("responses", pa.list_(_IDS)),
        ("scored", pa.list_(_IDS)),  # of each sequence: where scored runs start and stop, in turn
        ("prompt_digest", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_scored", pa.int64()),
        ("weight", pa.float64()),
        ("margin", pa.float64()),  # NaN where there is none
        ("tie", pa.bool_()),
        ("win_prob", pa.float64()),  # NaN where there is none, as in the other margin and the two costs
        ("other_margin", pa.float64()),
        ("cost_chosen", pa.float64()),
        ("cost_rejected", pa.float64()),
        ("desirable", pa.int8()),  # -1 where nothing is said
        ("num_scores", pa.int32()),
        ("scores", pa.list_(pa.float64())),
        ("file", pa.int32()),
        ("line", pa.int64()),
    ]
)
Figure: TypeAlias = Literal["margin", "win_prob", "other_margin", "costs", "scores"]
"""What a row may say of its responses beside which is better."""

NO_PROMPT = 0
"""Stands in the place of a prompt's digest where there is none, as in plain text."""

HEAVY = ("prompt", "responses", "scored", "scores")
LIGHT = tuple(name for name in SCHEMA.names if name not in HEAVY)


@dataclass(frozen=True, slots=True)
class Says:
    """What the data says of an example, beside its texts; None where it says nothing.

    Attributes:
      weight: Its weight in every mean.
      margin: By how much the chosen response is better.
      tie: Neither response is preferred.
      win_prob: Probability that the chosen response is preferred, by some judge.
      costs: A second score of the chosen and of the rejected response, to be kept low.
      scores: Of each response.
      desirable: Whether the one response was liked.
      other_margin: By how much the chosen response is better under another objective, of either sign.
    """

    weight: float = 1.0
    margin: float | None = None
    tie: bool = False
    win_prob: float | None = None
    costs: tuple[float, float] | None = None
    scores: tuple[float, ...] | None = None
    desirable: bool | None = None
    other_margin: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class TokenExample:
    """One example as token ids.

    Attributes:
      sequences: Chosen and rejected of a preference, the responses of a ranking, best first; else the one there is.
      weight: Its weight in every mean.
      margin: As in Says; so are tie, win_prob, costs, scores, desirable and other_margin.
      provenance: The row it came from.
      num_prompt: Tokens of the prompt, which all its sequences begin with.
      borrowed: Other responses under its prompt that its loss looks at, and that are no examples themselves.
    """

    sequences: tuple[TokenSequence, ...]
    weight: float
    margin: float | None
    tie: bool
    provenance: Provenance
    num_prompt: int = 0
    borrowed: tuple[TokenSequence, ...] = ()
    win_prob: float | None = None
    costs: tuple[float, float] | None = None
    scores: tuple[float, ...] | None = None
    desirable: bool | None = None
    other_margin: float | None = None


class TokenStore:
    """Examples of a tokenised source, read from a memory-mapped file.

    Attributes:
      folder: Where it lies.
      num_tokens: Unique input tokens of each example's own tree, [N].
      num_scored: Scored tokens over all sequences of each example, [N].
      weights: [N].
      margins: NaN where there is none, [N].
      ties: Whether neither response of an example is preferred, [N].
      prompts: 64-bit digests of the prompts as they were before any trimming, [N]; equal where the prompts are,
        `NO_PROMPT` where there is none.
      digest: Hash of the content of all examples: ids, scored places, and what the data says of them.
      report: What the writer said about the source.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
          CacheError: something is missing or damaged.
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
        self.margins: Float[np.ndarray, " N"] = column("margin", np.float64)
        self.ties: Bool[np.ndarray, " N"] = column("tie", np.bool_)
        self._win_probs: Float[np.ndarray, " N"] = column("win_prob", np.float64)
        self._other_margins: Float[np.ndarray, " N"] = column("other_margin", np.float64)
        self._costs = np.stack([column("cost_chosen", np.float64), column("cost_rejected", np.float64)], axis=1)
        self._desirable: Int[np.ndarray, " N"] = column("desirable", np.int8)
        self._num_scores: Int[np.ndarray, " N"] = column("num_scores", np.int32)
        self._file: Int[np.ndarray, " N"] = column("file", np.int32)
        self._line: Int[np.ndarray, " N"] = column("line", np.int64)

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, index: int) -> TokenExample:
        """One example; its arrays are copies.

        Raises:
          IndexError: no such example.
          CacheError: the tokens on disk are not those that were written.
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
        scores = view["scores"][slice(*view["scores_at"][row : row + 2])].tolist()
        costs = self._costs[index].tolist()
        return TokenExample(
            sequences=tuple(sequences),
            weight=float(self.weights[index]),
            margin=_or_none(self.margins[index]),
            tie=bool(self.ties[index]),
            provenance=self.provenance(index),
            num_prompt=len(prompt),
            win_prob=_or_none(self._win_probs[index]),
            costs=None if np.isnan(costs).any() else (costs[0], costs[1]),
            scores=tuple(scores) or None,
            desirable=None if self._desirable[index] < 0 else bool(self._desirable[index]),
            other_margin=_or_none(self._other_margins[index]),
        )

    def has(self, figure: Figure) -> Bool[np.ndarray, " N"]:
        """Of which examples the data says this."""
        found = {
            "margin": ~np.isnan(self.margins),
            "win_prob": ~np.isnan(self._win_probs),
            "other_margin": ~np.isnan(self._other_margins),
            "costs": ~np.isnan(self._costs).any(axis=1),
            "scores": self._num_scores > 0,
        }
        return found[figure]

    def provenance(self, index: int) -> Provenance:
        """The row that an example came from."""
        return Provenance(self._files[self._file[index]], int(self._line[index]))

    def _view(self, number: int) -> dict[str, np.ndarray]:
        view = self._views[number]
        if view is None:
            batch = self._reader.get_batch(number)
            self._verify(batch, number, HEAVY, 1)
            prompt, responses, scored, scores = (batch.column(name) for name in HEAVY)
            view = self._views[number] = {
                "prompt": _numpy(prompt.values),
                "prompt_at": _numpy(prompt.offsets),
                "groups": _numpy(responses.offsets),
                "responses": _numpy(responses.values.values),
                "responses_at": _numpy(responses.values.offsets),
                "scored": _numpy(scored.values.values),
                "scored_at": _numpy(scored.values.offsets),
                "scores": _numpy(scores.values),
                "scores_at": _numpy(scores.offsets),
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


def count_tokens(sequences: Sequence[TokenSequence]) -> tuple[int, int]:
    """Unique input tokens of the tree of some sequences (as `len(grow_tree(...))`), and their scored tokens."""
    inputs = [sequence.trimmed().ids[:-1] for sequence in sequences]
    tokens = sum(map(len, inputs)) if len(inputs) < 3 else len(grow_tree(sequences))
    if len(inputs) == 2:
        size = min(map(len, inputs))
        differs = np.flatnonzero(inputs[0][:size] != inputs[1][:size])
        tokens -= int(differs[0]) if len(differs) else size
    return tokens, sum(int(np.count_nonzero(sequence.scored)) for sequence in sequences)


def join(prompt: np.ndarray, response: np.ndarray, spans: Sequence[Sequence[int]] | np.ndarray) -> TokenSequence:
    """A prompt and a response as one sequence; `spans` are the places [start, stop) that are scored."""
    ids = np.concatenate([prompt, response])
    scored = np.zeros(len(ids), np.bool_)
    for start, stop in spans:
        scored[start:stop] = True
    return TokenSequence(ids, scored)


def meta_sum(meta: dict[str, Any]) -> int:
    """CRC-32 over what `meta.json` says."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=True)


def checksum(batch: pa.RecordBatch, names: Sequence[str]) -> int:
    """CRC-32 over the values of some columns; the padding of Arrow's buffers does not count."""
    total = 0
    for name in names:
        column = batch.column(name)
        if name == "tie":
            column = column.cast(pa.int8())
        while isinstance(column, pa.ListArray):
            total = zlib.crc32(_numpy(column.offsets).data, total)
            column = column.values
        total = zlib.crc32(_numpy(column).data, total)
    return total


@runtime_checkable
class Examples(Protocol):
    """Tokenised examples, as data/store/store.py keeps them."""

    num_scored: Int[np.ndarray, " N"]
    weights: Float[np.ndarray, " N"]
    prompts: Int[np.ndarray, " N"]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenExample: ...
