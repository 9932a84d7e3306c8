"""Checks of a model folder before anything is built from it: regular files, whole weights, sizes that fit them.

A configuration decides how much is built: 1e9 layers would never end. The headers of the weights say what is there, and
are read in milliseconds.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftree.errors import ModelError

_READ = re.compile(r".*\.(json|jinja|model|txt|safetensors|bin)")
_LARGEST_JSON = 1 << 29
_LARGEST_HEADER = 100_000_000
_LAYERS = re.compile(r"num_(hidden_)?layers|n_layers?|num_blocks|(en|de)coder_layers")
_WIDTHS = re.compile(
    r"(hidden|intermediate|vocab|embedding|word_embed_proj|moe_intermediate|ffn|ffn_hidden)_(size|dim)"
    r"|n_embd|n_inner|d_model|d_ff|n_heads?|num_(attention|key_value)_heads|head_dim|n_vocab"
    r"|num_(local_)?experts|n_routed_experts"
)
_MOST_POSITIONS = 10**9
_POSITIONS = re.compile(r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, by its header.

    Attributes:
      path: The file.
      dtype: Dtype in the words of safetensors.
      shape: Its shape.
      start, stop: Where its bytes lie in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def check_folder(folder: Path) -> None:
    """Refuse a folder with files that cannot be read to an end, cut weights, or a configuration that does not fit them.

    Raises:
      ModelError: the message names the file.
    """
    for path in sorted(folder.iterdir()):
        if _READ.fullmatch(path.name):
            _require_regular(path)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    tensors = stored_tensors(folder)
    if config is not None and (tensors or any(folder.glob("*.bin"))):
        if tensors:
            compare_sizes(folder / "config.json", config, tensors)
        else:
            size = sum(path.stat().st_size for path in folder.glob("*.bin"))
            _compare(folder / "config.json", config, size, size)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Raises:
      ModelError: it cannot be read, is not JSON, or holds something else.
    """
    _require_regular(path)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path} has {path.stat().st_size} bytes, which no such file has; download it again")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        words = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise ModelError(f"{path} is not JSON ({words}); download it again, or save the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(content).__name__}; download it again")
    return content


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors in a folder's safetensors files, by name.

    Raises:
      ModelError: a file is cut or has no header.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_header(path)
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors in a safetensors file, by name.

    Raises:
      ModelError: it is cut, or its header is not one.
    """
    _require_regular(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise ModelError(f"{path} is cut or damaged: it has {size} bytes, fewer than its header says")
            header: dict[str, Any] = json.loads(file.read(length))
        base, tensors = 8 + length, {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = map(int, entry["data_offsets"])
            shape = tuple(int(count) for count in entry["shape"])
            if not 0 <= first <= last or any(count < 0 for count in shape):
                raise ValueError(f"'{name}' lies nowhere")
            tensors[name] = StoredTensor(path, str(entry["dtype"]), shape, base + first, base + last)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: its header cannot be read ({error}); download it again") from error
    end = max((tensor.stop for tensor in tensors.values()), default=base)
    if end != size:
        raise ModelError(f"{path} is cut or damaged: it has {size} bytes, and its header describes {end}")
    return tensors


def _require_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ModelError(f"{path} is {kind}, wanted a file")


def compare_sizes(place: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse a configuration with numbers of layers, widths or positions that the weights beside it cannot have.

    Args:
      place: The file that the configuration is in, for the message.
      config: The configuration.
      tensors: The tensors of the weights.
    Raises:
      ModelError: the name and the value are in the message.
    """
    widest = max((count for tensor in tensors.values() for count in tensor.shape), default=0)
    packed = max((math.prod(tensor.shape) for tensor in tensors.values()), default=0)
    # Quantised weights may be stored flat.
    _compare(place, config, len(tensors), packed if config.get("quantization_config") else widest)


def _compare(place: Path, config: Mapping[str, Any], number: int, widest: int) -> None:
    for name, value in _numbers(config):
        field = name.rpartition(".")[2]
        most = number if _LAYERS.fullmatch(field) else widest if _WIDTHS.fullmatch(field) else None
        most = _MOST_POSITIONS if _POSITIONS.fullmatch(field) else most
        if most is not None and not value <= most:
            what = f"the weights beside it are {number} tensors of widths up to {widest}"
            if most == _MOST_POSITIONS:
                what = f"no model has more than {most} positions"
            raise ModelError(f"{place} says {name}={value:g}, and {what}; download both again")


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value
