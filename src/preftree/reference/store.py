"""Reference log-probs on disk: per token, by content, memory-mapped.

    ROOT/tables/<digest of the table's key>/
        key.json                        the key, for people
        part-<digest of its entries>/   never changed once it is there
            digests.npy                 sorted sequence digests, 16 bytes each, [N]
            offsets.npy                 where each sequence's values begin, int64, [N + 1]
            values.npy                  log-probs of scored tokens in nats, fp32 or float64, [I]
            layouts.npy                 how each sequence was cut into branches (key.layout_digests), uint64, [N]
            MANIFEST.json               sizes and SHA-256 of the four

Parts appear whole by a rename, so readers need no lock and several processes may write. A part whose checksum is wrong
is set aside and its entries count as missing.
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
from jaxtyping import Bool, Float, Int, UInt64

from preftree.errors import CacheError, CheckpointError
from preftree.reference.key import DIGEST_BYTES, TableKey, sequence_digest
from preftree.storage.atomic import clear_leftovers, make_folder, staged_dir, write_atomic
from preftree.storage.manifest import verify_manifest, write_manifest
from preftree.tree.layout import TokenSequence

_FILES = ("digests.npy", "offsets.npy", "values.npy", "layouts.npy")


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    name: str
    digests: np.ndarray  # S16, sorted; numpy compares fixed-width bytes as the disk has them
    offsets: np.ndarray
    values: np.ndarray
    layouts: np.ndarray


class ReferenceTable:
    """The cached log-probs of one reference model in one way of computing.

    Attributes:
      key: What the entries were computed with.
      folder: Where they are.
      set_aside: A sentence for each damaged part that was found, to be shown to the user.
    """

    def __init__(self, folder: Path, key: TableKey) -> None:
        """Use `open`."""
        self.key = key
        self.folder = folder
        self.set_aside: list[str] = []
        self._parts: list[_Part] = []

    @classmethod
    def open(cls, root: Path, key: TableKey) -> ReferenceTable:
        """The table of `key` below `root`, made if it is not there; every part is checked against its checksums.

        Raises:
          CacheError: the folder cannot be made or read.
        """
        table = cls(root / "tables" / key.digest, key)
        try:
            make_folder(table.folder)
            clear_leftovers(table.folder)
            if not (table.folder / "key.json").exists():
                write_atomic(table.folder / "key.json", json.dumps(asdict(key), indent=1, sort_keys=True) + "\n")
            table.refresh()
        except OSError as error:
            raise CacheError(
                f"reference cache {table.folder} cannot be used ({error}); mend that, or set PREFTREE_CACHE to another "
                "folder"
            ) from error
        return table

    def __len__(self) -> int:
        """Number of sequences."""
        return sum(len(part.digests) for part in self._parts)

    def refresh(self) -> None:
        """Take in the parts that other processes have written since."""
        known = {part.name for part in self._parts}
        for path in sorted(self.folder.glob("part-*")):
            if path.name in known:
                continue
            try:
                self._parts.append(_open_part(path))
            except (CheckpointError, ValueError, OSError) as error:
                aside = path.with_name(f"damaged-{path.name}-{secrets.token_hex(4)}")
                try:
                    os.rename(path, aside)
                except FileNotFoundError:  # another process has set it aside already
                    continue
                self.set_aside.append(f"reference cache: {error}; set aside as {aside}, its entries are computed again")

    def missing(self, sequences: Sequence[TokenSequence]) -> Bool[np.ndarray, " R"]:
        """Which sequences the table does not hold."""
        return self.missing_digests([sequence_digest(sequence) for sequence in sequences])

    def missing_digests(self, digests: Sequence[bytes]) -> Bool[np.ndarray, " R"]:
        """As `missing`, for sequences whose digests are known."""
        return self._locate(digests)[0] < 0

    def gather(self, sequences: Sequence[TokenSequence]) -> Float[np.ndarray, " I"]:
        """Log-probs of the scored tokens in nats, sequence after sequence and in token order.

        Returns:
          fp32, or float64 where a float64 model computed them, [I]: a copy, in the order of `TreeBatch.prediction_I`.

        Raises:
          CacheError: a sequence is not in the table.
        """
        parts, rows = self._find(sequences)
        values = []
        for part, row in zip(parts.tolist(), rows.tolist(), strict=True):
            start, stop = self._parts[part].offsets[row : row + 2].tolist()
            values.append(self._parts[part].values[start:stop])
        return np.concatenate(values) if values else np.empty(0, np.float32)

    def layouts(self, sequences: Sequence[TokenSequence]) -> UInt64[np.ndarray, " R"]:
        """How each sequence was cut into branches when it was scored: `key.layout_digests`.

        Raises:
          CacheError: a sequence is not in the table.
        """
        parts, rows = self._find(sequences)
        cuts = [self._parts[part].layouts[row] for part, row in zip(parts.tolist(), rows.tolist(), strict=True)]
        return np.array(cuts, np.uint64)

    def add(
        self,
        digests: Sequence[bytes],
        values: Sequence[Float[np.ndarray, " _"]],
        layouts: UInt64[np.ndarray, " R"],
    ) -> None:
        """Write a part: the log-probs of the scored tokens of each sequence, and how it was cut into branches.

        Raises:
          CacheError: it could not be written.
        """
        keys = np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")
        order = np.argsort(keys)
        counts = np.array([len(values[index]) for index in order], np.int64)
        arrays = {
            "digests.npy": keys[order],
            "offsets.npy": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "values.npy": np.concatenate([values[index] for index in order]),
            "layouts.npy": layouts[order],
        }
        # The name is the content's, so that two processes that write the same entries write one part.
        path = self.folder / f"part-{hashlib.sha256(arrays['digests.npy'].tobytes()).hexdigest()[:16]}"
        try:
            with staged_dir(path) as folder:
                for name, array in arrays.items():
                    np.save(folder / name, array, allow_pickle=False)
                write_manifest(folder)
        except OSError as error:
            raise CacheError(
                f"reference cache {path} cannot be written ({error}), earlier entries are kept; make room, or set "
                "PREFTREE_CACHE to another folder"
            ) from error
        self.refresh()

    def _find(self, sequences: Sequence[TokenSequence]) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        parts, rows = self._locate([sequence_digest(sequence) for sequence in sequences])
        if (absent := np.flatnonzero(parts < 0)).size:
            raise CacheError(
                f"reference cache {self.folder} lacks {len(absent)} of {len(sequences)} responses "
                f"under weights {self.key.weights[:8]}.. ({self.key.numeric_mode}); run 'preftree ref build'"
            )
        return parts, rows

    def _locate(self, digests: Sequence[bytes]) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " R"]]:
        """For each digest the number of its part and its row there; -1 where it is in none."""
        wanted = np.frombuffer(b"".join(digests), f"S{DIGEST_BYTES}")
        parts = np.full(len(wanted), -1)
        rows = np.full(len(wanted), -1)
        for number, part in enumerate(self._parts):
            place = np.searchsorted(part.digests, wanted)
            here = (parts < 0) & (part.digests[np.minimum(place, len(part.digests) - 1)] == wanted)
            parts[here], rows[here] = number, place[here]
        return parts, rows


def _open_part(path: Path) -> _Part:
    if set(verify_manifest(path)) != set(_FILES):
        raise CheckpointError(f"{path} is damaged: its MANIFEST.json does not list what a part holds")
    # Never object arrays: those would be pickles.
    return _Part(path.name, *(np.load(path / name, mmap_mode="r", allow_pickle=False) for name in _FILES))
