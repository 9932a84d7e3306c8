"""Named tensors in a safetensors file, which keeps ties and says in its header what it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_TIES = "ties"  # header entry: JSON object, name -> name of the tensor it is tied to


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
    save_file(stored, path, metadata={**(about or {}), _TIES: json.dumps(ties)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file from `write_tensors`, copied to the CPU's memory, and the words of its header.

    Raises:
      OSError, SafetensorError, ValueError: the file is not one of `write_tensors`.
    """
    with safe_open(path, framework="pt") as file:
        # The library's tensors may be in the mapped file, and reading one would crash if the file were truncated.
        names = file.keys()
        tensors = {name: file.get_tensor(name).clone() for name in names}
        about: dict[str, str] = file.metadata() or {}
    if _TIES not in about:
        raise ValueError("its header does not say which tensors are tied")
    ties: dict[str, str] = json.loads(about.pop(_TIES))
    return tensors | {name: tensors[other] for name, other in ties.items()}, about
