"""Named tensors in a safetensors file, which keeps ties and says in its header what it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_HEADER = "preftree"
"""The only entry of the header's metadata: the library writes several in an order that changes from file to file."""

_TIES = "ties"
"""The entry of earlier versions."""


class _Header(BaseModel):
    """Schema of the header's entry: name -> name of the tensor it is tied to, and what the file is of."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ties: dict[str, str]
    about: dict[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors of any dtype, shape and device, and words on them for the header.

    Names of one and the same tensor are stored once and are one tensor again when read. Tensors that merely overlap in
    memory are stored separately.

    Raises:
      OSError: the file could not be written.
    """
    stored: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if tensor.numel():
            identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            if identity in first:
                ties[name] = first[identity]
                continue
            first[identity] = name
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        # The format has neither strides nor shared memory.
        stored[name] = (
            tensor.clone(memory_format=torch.contiguous_format) if memory in storages else tensor.contiguous()
        )
        storages.add(memory)
    header = {"ties": ties, "about": dict(about or {})}
    save_file(stored, path, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file from `write_tensors`, copied to the CPU's memory, and the words of its header.

    Raises:
      OSError, SafetensorError, ValueError: the file is not one of `write_tensors`.
    """
    with safe_open(path, framework="pt") as file:
        # The library's tensors may be in the mapped file, and reading one would crash if the file were truncated.
        names = file.keys()
        tensors = {name: file.get_tensor(name).clone() for name in names}
        words: dict[str, str] = file.metadata() or {}
    if _HEADER in words:
        header = _Header.model_validate_json(words[_HEADER])
    elif _TIES in words:  # of an earlier version
        header = _Header(ties=json.loads(words[_TIES]), about={})
    else:
        raise ValueError("its header does not say which tensors are tied")
    if lost := [name for name, other in header.ties.items() if other not in tensors]:
        raise ValueError(f"its tensor {lost[0]!r} is tied to one that it does not hold")
    return tensors | {name: tensors[other] for name, other in header.ties.items()}, header.about
