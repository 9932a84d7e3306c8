"""Header of a GGUF file: what it says, and where its tensors lie, compared with the file's size.

Layout (ggml's docs/gguf.md): magic, version, two counts, key-value pairs, a table of tensors, padding, data. Every
count is compared with the bytes that are left before anything is read by it, so a damaged file ends in one sentence at
once.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from preftree.errors import ModelError
from preftree.models.check_folder import StoredTensor

SUFFIX = ".gguf"
MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of the types of values, by their number in the file."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
_ORDINARY = ("config.json", "adapter_config.json", "model")
"""Entries of a folder that holds a model in another form."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file holds.

    Attributes:
      path: The file.
      metadata: Its key-value pairs.
      tensors: Its tensors by name; the dtype is ggml's name of the type, such as F16 or Q4_1.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """Name of the architecture, which begins the keys of the model's sizes."""
        return str(self.metadata["general.architecture"])

    @property
    def num_weights(self) -> int:
        """Number of values in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def shares(self) -> dict[str, float]:
        """Share of the weights that each type stores, the largest first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += math.prod(tensor.shape)
        return {name: count / self.num_weights for name, count in counts.most_common()}


def find_gguf(name: str | Path) -> Path | None:
    """The GGUF file that the name of a model refers to: a file, or the only one in a folder without other models.

    None for any other name, also for one that does not exist.

    Raises:
      ModelError: the folder holds several.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    if not path.is_dir() or any((path / entry).exists() for entry in _ORDINARY):
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX and file.is_file())
    if len(files) > 1:
        raise ModelError(
            f"folder '{name}' holds {len(files)} GGUF files, {', '.join(file.name for file in files[:4])}"
            f"{' ...' if len(files) > 4 else ''}; give one of them by its path"
        )
    return files[0] if files else None


def gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; read once for each state of the file.

    Raises:
      ModelError: the library `gguf` is not installed, or the file cannot be read, is cut, or holds no whole model.
    """
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})") from error


@lru_cache(maxsize=4)
def _read(path: Path, size: int, _time: int) -> GgufHeader:
    sizes = _block_sizes()
    if size < 24:
        raise ModelError(f"{path} is not a GGUF file: it has {size} bytes; download it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != MAGIC:
            raise ModelError(f"{path} is not a GGUF file: it begins with {content[:4]!r}, wanted {MAGIC!r}")
        (version,) = struct.unpack_from("<I", content, 4)
        if version not in _VERSIONS:
            order = " in another byte order" if version > 0xFFFF else ""
            raise ModelError(f"{path} has version {version}{order} of the GGUF format, wanted 2 or 3; convert it again")
        try:
            metadata, tensors = _parse(path, content, sizes)
        except struct.error as error:
            raise ModelError(
                f"{path} is cut or damaged: its header ends after {size} bytes; download it again"
            ) from error
        except (ValueError, KeyError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(f"{path} is damaged: {' '.join(str(error).split())}; download it again") from error
    end = max((tensor.stop for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(f"{path} is cut: it has {size} bytes, and its header describes {end}; download it again")
    _require_whole(path, metadata, tensors)
    return GgufHeader(path, metadata, tensors)


def _parse(
    path: Path, content: mmap.mmap, sizes: Mapping[int, tuple[str, int, int]]
) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    num_tensors, num_pairs = struct.unpack_from("<QQ", content, 8)
    at, metadata = 24, {}
    for _ in range(_count(content, at, num_pairs, 13)):
        key, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        metadata[key], at = _value(content, at + 4, kind)
    table: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(_count(content, at, num_tensors, 24)):
        name, at = _string(content, at)
        (rank,) = struct.unpack_from("<I", content, at)
        shape = struct.unpack_from(f"<{_count(content, at + 4, rank, 8)}Q", content, at + 4)
        kind, offset = struct.unpack_from("<IQ", content, at + 4 + 8 * rank)
        at += 16 + 8 * rank
        table.append((name, shape[::-1], kind, offset))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"its alignment is {alignment!r}")
    base = -(-at // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in table:
        if kind not in sizes:
            raise ValueError(f"tensor '{name}' is of type {kind}, which the installed `gguf` does not know")
        type_name, block, stored = sizes[kind]
        num_bytes = math.prod(shape) // block * stored
        tensors[name] = StoredTensor(path, type_name, shape, base + offset, base + offset + num_bytes)
    return metadata, tensors


def _value(content: mmap.mmap, at: int, kind: int, depth: int = 0) -> tuple[Any, int]:
    if kind in _SCALARS:
        form = "<" + _SCALARS[kind]
        return struct.unpack_from(form, content, at)[0], at + struct.calcsize(form)
    if kind == _STRING:
        return _string(content, at)
    if kind != _ARRAY or depth > _DEEPEST:
        raise ValueError(f"its header holds a value of type {kind}")
    kind, number = struct.unpack_from("<IQ", content, at)
    at += 12
    if kind in _SCALARS:
        width = struct.calcsize("<" + _SCALARS[kind])
        form = f"<{_count(content, at, number, width)}{_SCALARS[kind]}"
        return list(struct.unpack_from(form, content, at)), at + number * width
    values = []
    for _ in range(_count(content, at, number, 8)):
        value, at = _value(content, at, kind, depth + 1)
        values.append(value)
    return values, at


def _string(content: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", content, at)
    end = at + 8 + _count(content, at + 8, length, 1)
    return content[at + 8 : end].decode("utf-8"), end


def _count(content: mmap.mmap, at: int, number: int, width: int) -> int:
    """A number of items of at least `width` bytes each, where that many can follow."""
    if number * width > len(content) - at:
        raise struct.error
    return number


def _block_sizes() -> dict[int, tuple[str, int, int]]:
    """Name, values and bytes of a block, by the number of a type."""
    gguf = require_library()
    return {int(kind): (kind.name, block, stored) for kind, (block, stored) in gguf.GGML_QUANT_SIZES.items()}


def require_library() -> Any:
    """The library `gguf`.

    Raises:
      ModelError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ModelError(
            f"GGUF files need the library gguf, which cannot be imported ({error}); install it with "
            "pip install 'preftree[gguf]'"
        ) from error
    return gguf


def _require_whole(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    if not isinstance(metadata.get("general.architecture"), str):
        raise ModelError(f"{path} does not name its architecture (general.architecture), so it holds no model")
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{path} is one of {parts} parts of a model; join them with `llama-gguf-split --merge FIRST_PART OUT`"
        )
    if metadata.get("general.type", "model") != "model":
        raise ModelError(f"{path} is of type {metadata['general.type']!r}, wanted a whole model")
    if not tensors:
        raise ModelError(f"{path} holds no weights; give the file of a whole model")
