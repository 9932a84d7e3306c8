"""Reference log-probs on disk: per token, by content, memory-mapped.

    ROOT/tables/<digest of the table's key>/
        key.json                        the key, for people
        model.txt                       the model in words, where a run made the table
        part-<digest of its entries>/   never changed
            part.safetensors            the entries; the header holds the digest of the table's key
            MANIFEST.json               size and SHA-256 of it
        filled-<digest of data>.json    see `filled.py`

Tensors of a part:

    digests     sorted sequence digests, uint8, [N, 16]
    offsets     first index of each sequence's values, int64, [N + 1]
    values      log-probs of scored tokens in nats, fp32 or float64, [I]
    layouts     digest of each sequence's branches (key.layout_digests), uint64, [N]

Values are mapped, all else is held in memory: about 50 bytes a sequence. No part keeps a file open.

Parts appear as a whole by a rename, so readers need no lock and several processes may write. A part that is damaged, or
does not name this table, is renamed and its entries count as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, UInt64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from preftree.errors import CacheError, CheckpointError
from preftree.reference.key import DIGEST_BYTES, TableKey, sequence_digest
from preftree.storage.atomic import clear_leftovers, make_folder, staged_dir, write_atomic
from preftree.storage.manifest import verify_manifest, write_manifest
from preftree.tree.layout import TokenSequence

_FILE = "part.safetensors"
_TABLE = "table"  # header entry: the digest of the table's key


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    name: str
    values: np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class _Index:
    """Index of the values of each sequence over all parts; sorted by digest, each digest once."""

    digests: np.ndarray  # S16; numpy compares fixed-width bytes in the order on disk
    part: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    layout: np.ndarray


class ReferenceTable:
    """The cached log-probs of one reference model in one numeric mode.

    Attributes:
      key: Key of the table.
      folder: Folder of the table.
      set_aside: Messages to the user, one for each damaged part.
    """

    def __init__(self, folder: Path, key: TableKey) -> None:
        """Use `open`."""
        self.key = key
        self.folder = folder
        self.set_aside: list[str] = []
        self._parts: list[_Part] = []
        nothing = np.empty(0, f"S{DIGEST_BYTES}"), np.zeros(1, np.int64), np.empty(0, np.uint64)
        self._index = _index_of(0, *nothing)

    @classmethod
    def open(cls, root: Path, key: TableKey) -> ReferenceTable:
        """The table of `key` below `root`, created if missing; every part is checked against its checksums.

        Raises:
          CacheError: the folder cannot be made or read.
        """
        table = cls(root / "tables" / key.digest, key)
        try:
            make_folder(table.folder)
            clear_leftovers(table.folder)
            text = json.dumps(asdict(key), indent=1, sort_keys=True) + "\n"
            path = table.folder / "key.json"
            if not path.exists() or path.read_bytes() != text.encode():
                write_atomic(path, text)
        except OSError as error:
            raise table._unusable(error) from error
        table.refresh()
        return table

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._index.digests)

    def part_names(self) -> list[str]:
        """Names of the parts that were read; a name is the digest of the sequences in its part."""
        return [part.name for part in self._parts]

    def refresh(self) -> None:
        """Read the parts that other processes have written since.

        Raises:
          CacheError: a part cannot be read for another reason than damage; it is not moved.
        """
        try:
            self._take_in()
        except OSError as error:
            raise self._unusable(error) from error

    def _take_in(self) -> None:
        known = {part.name for part in self._parts}
        parts: list[_Index] = []
        try:
            for path in sorted(self.folder.glob("part-*")):
                if path.name in known:
                    continue
                try:
                    part, index = _open_part(path, len(self._parts), self.key.digest)
                except (CheckpointError, ValueError, SafetensorError, FileNotFoundError) as error:
                    self._set_aside(path, error)
                    continue
                self._parts.append(part)
                parts.append(index)
        finally:  # keep the parts read before one that cannot be read
            if parts:
                self._index = _merge([self._index, *parts])

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}")
        try:
            os.rename(path, aside)
        except FileNotFoundError:  # another process has set it aside already
            return
        self.set_aside.append(f"reference cache: {error}; set aside as {aside}, its entries are computed again")

    def _unusable(self, error: OSError) -> CacheError:
        return CacheError(
            f"reference cache {self.folder} cannot be used ({error}); fix it, or set PREFTREE_CACHE to another folder"
        )

    def missing(self, sequences: Sequence[TokenSequence]) -> Bool[np.ndarray, " R"]:
        """Whether each sequence is missing from the table."""
        return self.missing_digests([sequence_digest(sequence) for sequence in sequences])

    def missing_digests(self, digests: Sequence[bytes]) -> Bool[np.ndarray, " R"]:
        """As `missing`, from digests of sequences."""
        return self._locate(digests) < 0

    def gather(self, sequences: Sequence[TokenSequence]) -> Float[np.ndarray, " I"]:
        """Log-probs of the scored tokens in nats, sequence after sequence and in token order.

        Returns:
          fp32, or float64 where a float64 model computed them, [I]: a copy, in the order of `TreeBatch.prediction_I`.

        Raises:
          CacheError: a sequence is not in the table.
        """
        index, rows = self._index, self._find(sequences)
        places = zip(index.part[rows].tolist(), index.start[rows].tolist(), index.stop[rows].tolist(), strict=True)
        values = [self._parts[part].values[start:stop] for part, start, stop in places]
        return np.concatenate(values) if values else np.empty(0, np.float32)

    def layouts(self, sequences: Sequence[TokenSequence]) -> UInt64[np.ndarray, " R"]:
        """Digest of the branches of each sequence when it was scored: `key.layout_digests`.

        Raises:
          CacheError: a sequence is not in the table.
        """
        return self._index.layout[self._find(sequences)]

    def add(
        self,
        digests: Sequence[bytes],
        values: Sequence[Float[np.ndarray, " _"]],
        layouts: UInt64[np.ndarray, " R"],
    ) -> None:
        """Write a part: the log-probs of the scored tokens of each sequence, and the digest of its branches.

        Raises:
          CacheError: it could not be written.
        """
        keys = np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")
        order = np.argsort(keys)
        counts = np.array([len(values[index]) for index in order], np.int64)
        arrays = {
            "digests": np.frombuffer(keys[order].tobytes(), np.uint8).reshape(-1, DIGEST_BYTES),
            "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "values": np.concatenate([values[index] for index in order]),
            "layouts": layouts[order],
        }
        # Named by content, so that two processes with the same entries write one part.
        path = self.folder / f"part-{hashlib.sha256(arrays['digests'].tobytes()).hexdigest()[:16]}"
        try:
            with staged_dir(path) as folder:
                save_file(arrays, folder / _FILE, metadata={_TABLE: self.key.digest})
                write_manifest(folder)
        except OSError as error:
            raise CacheError(
                f"reference cache {path} cannot be written ({error}), earlier entries are kept; make room, or set "
                "PREFTREE_CACHE to another folder"
            ) from error
        self.refresh()

    def _find(self, sequences: Sequence[TokenSequence]) -> Int[np.ndarray, " R"]:
        rows = self._locate([sequence_digest(sequence) for sequence in sequences])
        if (absent := np.flatnonzero(rows < 0)).size:
            raise CacheError(
                f"reference cache {self.folder} lacks {len(absent)} of {len(sequences)} responses "
                f"under weights {self.key.weights[:8]}.. ({self.key.numeric_mode}); run 'preftree ref build'"
            )
        return rows

    def _locate(self, digests: Sequence[bytes]) -> Int[np.ndarray, " R"]:
        """The row of each digest in the index; -1 where it is missing."""
        wanted = np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")
        held = self._index.digests
        if not len(held):
            return np.full(len(wanted), -1)
        rows = np.searchsorted(held, wanted)
        return np.where(held[np.minimum(rows, len(held) - 1)] == wanted, rows, -1)


def _open_part(path: Path, number: int, table: str) -> tuple[_Part, _Index]:
    """A part and its index.

    Raises:
      CheckpointError: it is damaged, missing, of an earlier version, or of another table than that of the key `table`.
      OSError: it cannot be read for another reason than damage.
    """
    try:
        listed = verify_manifest(path)
    except CheckpointError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from None
        raise
    if "values.npy" in listed:
        raise CheckpointError(f"{path} is of an earlier version, which did not note the model that it is of")
    if set(listed) != {_FILE}:
        raise CheckpointError(f"{path} is damaged: its MANIFEST.json does not list what a part holds")
    with safe_open(path / _FILE, "np") as file:
        owner = (file.metadata() or {}).get(_TABLE)
        if owner != table:
            raise CheckpointError(f"{path} is of table {str(owner)[:8]}.., of another model, and not of this one")
        if set(file.keys()) != {"digests", "offsets", "values", "layouts"}:
            raise CheckpointError(f"{path} is damaged: it lacks a tensor")
        digests, offsets, layouts = (file.get_tensor(name) for name in ("digests", "offsets", "layouts"))
    values = _map_values(path / _FILE)
    _check_arrays(path, digests, offsets, layouts, values)
    keys = np.frombuffer(digests.tobytes(), f"S{DIGEST_BYTES}")
    return _Part(path.name, values), _index_of(number, keys, offsets, layouts)


def _check_arrays(
    path: Path, digests: np.ndarray, offsets: np.ndarray, layouts: np.ndarray, values: np.ndarray
) -> None:
    """Check dtypes, lengths and values of a part.

    Raises:
      CheckpointError: one is not as `add` writes it.
    """
    num = len(offsets) - 1
    sound = (
        (digests.dtype, offsets.dtype, layouts.dtype) == (np.uint8, np.int64, np.uint64)
        and values.dtype in (np.float32, np.float64)
        and digests.shape == (num, DIGEST_BYTES)
        and layouts.shape == (num,)
        and num > 0
        and offsets[0] == 0
        and offsets[-1] == len(values)
        and bool((np.diff(offsets) >= 0).all())
    )
    if not sound:
        raise CheckpointError(f"{path} is damaged: its arrays have dtypes or lengths that no part has")
    if not all(np.isfinite(values[start : start + _BLOCK]).all() for start in range(0, len(values), _BLOCK)):
        raise CheckpointError(f"{path} is damaged: a log-prob in it is not finite")


_BLOCK = 1 << 22
"""Values that are checked at a time, so that a large part takes no memory."""


def _map_values(path: Path) -> np.ndarray:
    """The values of a part, mapped; no file stays open: numpy keeps one per map, and their number is limited."""
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
    size = int.from_bytes(memoryview(content)[:8], "little")
    about = json.loads(bytes(memoryview(content)[8 : 8 + size]))["values"]
    first, last = (8 + size + offset for offset in about["data_offsets"])
    dtype = np.dtype({"F32": np.float32, "F64": np.float64}.get(about["dtype"], np.uint8))
    return np.frombuffer(content, dtype, count=(last - first) // dtype.itemsize, offset=first)


def _index_of(number: int, digests: np.ndarray, offsets: np.ndarray, layouts: np.ndarray) -> _Index:
    return _Index(digests, np.full(len(digests), number, np.int32), offsets[:-1], offsets[1:], layouts)


def _merge(parts: Sequence[_Index]) -> _Index:
    digests = np.concatenate([index.digests for index in parts])
    order = np.argsort(digests, kind="stable")  # the same sequence twice: the first part
    ordered = digests[order]
    order = order[np.append(True, ordered[1:] != ordered[:-1])]  # never called without a part, and no part is empty

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(index, name) for index in parts])[order]

    return _Index(digests[order], column("part"), column("start"), column("stop"), column("layout"))
