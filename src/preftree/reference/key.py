"""Keys of the reference cache: everything that a reference log-prob depends on, and nothing else.

The key of a table covers weights and computation, the key of an entry covers token ids. Neither covers beta, learning
rate, loss, seed or epochs, so all entries remain valid after a change of those, and none after a change of a weight.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import UInt64
from pydantic import BaseModel, ConfigDict
from torch import nn

from preftree.errors import DataError, ModelError
from preftree.runtime.cpu_rounding import rounding_digest
from preftree.storage.atomic import make_folder
from preftree.storage.code_digest import code_digest
from preftree.storage.json_file import read_json, write_json
from preftree.storage.manifest import hash_file
from preftree.tree.layout import TokenSequence, TreeBatch

DIGEST_BYTES = 16

SCORING_CODE = (
    "preftree.models.adapters",
    "preftree.models.gguf.header",
    "preftree.models.gguf.read",
    "preftree.models.gguf.rope",
    "preftree.scoring.architecture",
    "preftree.scoring.attention.by_branch",
    "preftree.scoring.attention.on_cpu",
    "preftree.scoring.attention.flex",
    "preftree.scoring.attention.dispatch",
    "preftree.scoring.attention.types",
    "preftree.scoring.attention.varlen",
    "preftree.scoring.attention.varlen_check",
    "preftree.scoring.bf16_on_cpu",
    "preftree.scoring.compile",
    "preftree.scoring.head",
    "preftree.scoring.probe",
    "preftree.scoring.scorer",
    "preftree.scoring.split_batch",
    "preftree.tree.layout",
    "preftree.tree.mask",
    "preftree.tree.pack",
    "preftree.tree.to_device",
    "preftree.tree.units",
)
"""Modules that can change a token's log-prob: those of tree/ and scoring/ that the scorer imports, the packing of
trees, adapters, which change the LM head's weight, and the reading of GGUF files, whose digest is that of the file.
Sums are not among them: a table holds log-probs of tokens."""

_FRESH_NS = 2 * 10**9
"""Age of a file from which its digest is cached: two changes within one tick of the clock leave the same time."""


@dataclass(frozen=True, slots=True)
class TableKey:
    """Everything that can change a reference log-prob, except token ids.

    Attributes:
      weights: Digest of the reference model's weights.
      numeric_mode: Device type, dtypes and attention path, from the scorer.
      scorer: Digest of SCORING_CODE, the code of layout and scoring.
      torch, transformers: Versions of the libraries.
      machine: CPU capability, number of threads and a digest of the rounding of products, or the name of the GPU;
        precision of float32 products (TF32).
    """

    weights: str
    numeric_mode: str
    scorer: str
    torch: str
    transformers: str
    machine: str

    @property
    def digest(self) -> str:
        """32 hex digits: the table's name on disk."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def table_key(weights: str, numeric_mode: str) -> TableKey:
    """Key of the table for these weights, computed in this mode, by this version, on this machine.

    Args:
      weights: From `weights_digest` or `weights_digest_of_model`.
      numeric_mode: `Scorer.numeric_mode`; begins with the device type.
    """
    if numeric_mode.startswith("cuda"):
        machine = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        bf16 = "bf16" in numeric_mode and "emulated" not in numeric_mode
        rounding = rounding_digest(threads, bf16=bf16)
        machine = f"{torch.backends.cpu.get_cpu_capability()}, {threads} threads, rounding {rounding}"
    machine += f", float32 products {torch.get_float32_matmul_precision()}"
    return TableKey(
        weights, numeric_mode, code_digest(SCORING_CODE), torch.__version__, transformers.__version__, machine
    )


def sequence_digest(sequence: TokenSequence) -> bytes:
    """Digest, 16 bytes, of the token ids up to the last scored token and of the scored positions."""
    trimmed = sequence.trimmed()
    total = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"preftree-seq-1")
    total.update(len(trimmed.ids).to_bytes(8, "little"))
    total.update(np.ascontiguousarray(trimmed.ids, "<i4").tobytes())
    total.update(np.packbits(trimmed.scored).tobytes())
    return total.digest()


def layout_digests(trees: TreeBatch) -> UInt64[np.ndarray, " R"]:
    """Digest of the positions where the branches of each sequence begin; 0 for an undivided sequence.

    Rounding depends on the branches: the same tokens in other branches can differ in the last bits. Between equal
    digests the only difference is packing.

    Args:
      trees: The trees of the sequences, on the CPU.
    """
    cuts: list[tuple[int, ...]] = []  # first positions of the branches down to each branch, without the root's
    for branch in trees.branches:
        cuts.append((*cuts[branch.parent], branch.depth) if branch.parent >= 0 else ())
    # The last prediction of a sequence comes from its last token, which is in the last of its branches.
    last = trees.source_S[trees.prediction_I[trees.count_R.cumsum(0) - 1]]
    leaf_R = np.searchsorted([branch.start for branch in trees.branches], last.numpy(), side="right") - 1
    digests = [_cuts_digest(cuts[branch]) for branch in leaf_R.tolist()]
    return np.array(digests, np.uint64)


def _cuts_digest(cuts: tuple[int, ...]) -> int:
    content = np.array(cuts, "<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") if cuts else 0


def weights_digest(*folders: Path, memo: Path) -> str:
    """Digest of the weights in model folders: those of the model, then those of its adapters, if any.

    Covers *.safetensors, config.json, adapter_config.json and code of the model, or the one GGUF file. A file is read
    once: its digest is cached with its path, size, times and inode.

    Args:
      folders: Folders as `save_pretrained` writes them, or GGUF files.
      memo: Folder of cached digests: that of the cache.

    Raises:
      ModelError: a folder has no safetensors file.
    """
    total = hashlib.sha256()
    for folder in folders:
        if folder.is_file():
            total.update(f"gguf\0{_remembered_digest(folder, memo)}\0".encode())
            continue
        if not any(folder.glob("*.safetensors")):
            raise ModelError(f"{folder} has no weights in safetensors format; save the model with save_pretrained")
        for path in sorted(folder.iterdir()):
            if path.suffix in (".safetensors", ".py") or path.name in ("config.json", "adapter_config.json"):
                total.update(f"{path.name}\0{_remembered_digest(path, memo)}\0".encode())
        total.update(b"folder\0")
    return total.hexdigest()


def adapted_digest(base: str, folder: Path, *, merged: bool, memo: Path) -> str:
    """Digest of a model with an adapter; an adapter beside the weights and one merged into them round differently.

    Args:
      base: Digest of the model under the adapter.
      folder: The adapter's folder; the path of the base in its configuration is ignored.
      merged: Whether the adapter is added to the weights.
      memo: Folder of cached digests.
    """
    config = json.loads((folder / "adapter_config.json").read_bytes())
    total = hashlib.sha256(f"{base}\0{'merged' if merged else 'beside'}\0".encode())
    total.update(_adapter_options(config))
    for path in sorted(folder.glob("*.safetensors")):
        total.update(f"\0{path.name}\0{_remembered_digest(path, memo)}".encode())
    return total.hexdigest()


def weights_digest_of_model(model: nn.Module) -> str:
    """Digest of a model in memory: its class, configuration, parameters and buffers by name, dtype, shape and bytes.

    Used for a reference that is not a plain folder. An adapter in the model counts as active.

    Raises:
      ValueError: the model is wrapped by peft, which changes the names of its parameters.
    """
    adapters: Any = getattr(model, "peft_config", {})
    if adapters and not isinstance(model, transformers.PreTrainedModel):
        raise ValueError("a model wrapped by peft has no digest; pass the model in the wrapper")
    total = hashlib.sha256(type(model).__name__.encode())
    for name, options in sorted(adapters.items()):
        total.update(f"\0{name}\0".encode() + _adapter_options(options.to_dict()))
    config = getattr(model, "config", None)
    if isinstance(config, transformers.PretrainedConfig):
        # The origin and the version that saved it have no effect; each tensor has its dtype below.
        options = {
            k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "dtype")
        }
        total.update(json.dumps(options, sort_keys=True, default=str).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _adapter_options(config: Mapping[str, Any]) -> bytes:
    """The options of an adapter that affect its output; the path of its base is not among them."""
    ignored = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
    plain = {
        name: sorted(value) if isinstance(value, list | set) else value
        for name, value in config.items()
        if name not in ignored
    }
    return json.dumps(plain, sort_keys=True, default=str).encode()


def _remembered_digest(path: Path, memo: Path) -> str:
    path = path.resolve()
    entry = memo / "weights" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    state = _file_state(path)
    if (remembered := _read_entry(entry, path, state)) is not None:
        return remembered
    digest = hash_file(path)
    at_rest = time.time_ns() - max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) > _FRESH_NS
    if at_rest and _file_state(path) == state:
        make_folder(entry.parent)
        write_json(entry, {"path": str(path), "state": state, "digest": digest})
    return digest


def _file_state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_entry(entry: Path, path: Path, state: list[int]) -> str | None:
    """The cached digest for this state of the file; None without one, or where the entry is damaged."""
    try:
        known = read_json(entry, _Remembered, "delete it")
    except DataError:
        return None
    return known.digest if (known.path, known.state) == (str(path), state) else None


class _Remembered(BaseModel):
    """Schema of a cached digest: path, size, times and inode of a file, and its SHA-256."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    state: list[int]
    digest: str
