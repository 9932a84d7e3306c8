"""What a reference log-prob depends on, and nothing else: the names under which the cache keeps it.

A table belongs to weights and to a way of computing; an entry of it belongs to token ids. Neither knows of beta,
learning rate, loss, seed or epochs, so changing those finds every entry again, and changing one weight finds none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import UInt64
from torch import nn

from preftree.errors import ModelError
from preftree.runtime.cpu_rounding import rounding_digest
from preftree.storage.atomic import make_folder, write_atomic
from preftree.storage.code_digest import code_digest
from preftree.storage.manifest import hash_file
from preftree.tree.layout import TokenSequence, grow_tree

DIGEST_BYTES = 16

SCORING_CODE = (
    "preftree.models.adapters",
    "preftree.scoring.architecture",
    "preftree.scoring.attention.by_branch",
    "preftree.scoring.attention.flex",
    "preftree.scoring.attention.tree_attention",
    "preftree.scoring.attention.types",
    "preftree.scoring.attention.varlen",
    "preftree.scoring.attention.varlen_check",
    "preftree.scoring.bf16_on_cpu",
    "preftree.scoring.compile",
    "preftree.scoring.head",
    "preftree.scoring.scorer",
    "preftree.tree.layout",
    "preftree.tree.mask",
    "preftree.tree.pack",
    "preftree.tree.to_device",
)
"""Modules that can move a token's log-prob: those of tree/ and scoring/ that the scorer imports, the packing of trees,
and adapters, which change the LM head's weight. Sums are not among them: a table holds a log-prob a token."""

_FRESH_NS = 2 * 10**9
"""A file changed again within the clock's tick would keep its time: only files at rest for 2 s are remembered."""


@dataclass(frozen=True, slots=True)
class TableKey:
    """Everything that can move a reference log-prob, token ids aside.

    Attributes:
      weights: Digest of the reference model's weights.
      numeric_mode: Device type, dtypes and attention path, as the scorer states them.
      scorer: Digest of SCORING_CODE, the code that lays out and scores.
      torch, transformers: Versions.
      machine: CPU capability, number of threads and how products round, or the name of the GPU; how exact float32
        products are (TF32).
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
    """The key of the table for these weights, computed in this mode, by this version, on this machine.

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
    """16 bytes that stand for the token ids up to the last scored one, and for which of them are scored."""
    trimmed = sequence.trimmed()
    total = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"preftree-seq-1")
    total.update(len(trimmed.ids).to_bytes(8, "little"))
    total.update(np.ascontiguousarray(trimmed.ids, "<i4").tobytes())
    total.update(np.packbits(trimmed.scored).tobytes())
    return total.digest()


def layout_digests(group: Sequence[TokenSequence], *, share: bool) -> UInt64[np.ndarray, " R"]:
    """For each sequence of a tree, a number that stands for where its branches begin; 0 for an undivided one.

    Rounding follows the branches: the same tokens cut at other places can differ in the last bits. With equal numbers
    any difference that is left is one of packing.

    Args:
      group: The sequences of one tree.
      share: Whether they do share a tree, or are rows of their own.
    """
    if not share:
        return np.zeros(len(group), np.uint64)
    tree = grow_tree(group)
    cuts: list[tuple[int, ...]] = []  # where the branches down to each one begin, the root's beginning left out
    for branch in tree.branches:
        cuts.append((*cuts[branch.parent], branch.depth) if branch.parent >= 0 else ())
    # The last prediction of a sequence comes from its last token, which lies in the last of its branches.
    last = tree.source_S[tree.prediction_I[np.cumsum(tree.count_R) - 1]]
    own = np.searchsorted([branch.start for branch in tree.branches], last, side="right") - 1
    digests = [_cuts_digest(cuts[branch]) for branch in own.tolist()]
    return np.array(digests, np.uint64)


def _cuts_digest(cuts: tuple[int, ...]) -> int:
    content = np.array(cuts, "<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") if cuts else 0


def weights_digest(*folders: Path, memo: Path) -> str:
    """Digest of the weights in model folders: the model's own, and then its adapters', where there are any.

    Covers *.safetensors, config.json, adapter_config.json and the code that comes with a model. A file is read once:
    its digest is remembered together with its path, size, times and inode.

    Args:
      folders: Folders as `save_pretrained` writes them.
      memo: Where digests are remembered: the cache's folder.

    Raises:
      ModelError: a folder has no safetensors file.
    """
    total = hashlib.sha256()
    for folder in folders:
        if not any(folder.glob("*.safetensors")):
            raise ModelError(f"{folder} has no weights in safetensors format; save the model with save_pretrained")
        for path in sorted(folder.iterdir()):
            if path.suffix in (".safetensors", ".py") or path.name in ("config.json", "adapter_config.json"):
                total.update(f"{path.name}\0{_remembered_digest(path, memo)}\0".encode())
        total.update(b"folder\0")
    return total.hexdigest()


def adapted_digest(base: str, folder: Path, *, merged: bool, memo: Path) -> str:
    """Digest of a model with an adapter: the same weights beside or merged into it round differently.

    Args:
      base: Digest of the model under the adapter.
      folder: Of the adapter. Where the adapter says that its base is does not count.
      merged: Whether the adapter is added to the weights.
      memo: Where digests of files are remembered.
    """
    config = json.loads((folder / "adapter_config.json").read_bytes())
    total = hashlib.sha256(f"{base}\0{'merged' if merged else 'beside'}\0".encode())
    total.update(_adapter_options(config))
    for path in sorted(folder.glob("*.safetensors")):
        total.update(f"\0{path.name}\0{_remembered_digest(path, memo)}".encode())
    return total.hexdigest()


def weights_digest_of_model(model: nn.Module) -> str:
    """Digest of a model in memory: its class, configuration, parameters and buffers by name, dtype, shape and bytes.

    For a reference that is no plain folder. An adapter in the model counts as switched on.

    Raises:
      ValueError: the model is wrapped by peft, which changes the names of its parameters.
    """
    adapters: Any = getattr(model, "peft_config", {})
    if adapters and not isinstance(model, transformers.PreTrainedModel):
        raise ValueError("a model wrapped by peft has no digest of its own: digest the model in the wrapper")
    total = hashlib.sha256(type(model).__name__.encode())
    for name, options in sorted(adapters.items()):
        total.update(f"\0{name}\0".encode() + _adapter_options(options.to_dict()))
    config = getattr(model, "config", None)
    if isinstance(config, transformers.PretrainedConfig):
        # Where it was loaded from and by whom does not matter; the dtype is the tensors' own.
        options = {
            k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "dtype")
        }
        total.update(json.dumps(options, sort_keys=True, default=str).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _adapter_options(config: Mapping[str, Any]) -> bytes:
    """What of an adapter's configuration says what it computes; where its base is does not count."""
    apart = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
    plain = {
        name: sorted(value) if isinstance(value, list | set) else value
        for name, value in config.items()
        if name not in apart
    }
    return json.dumps(plain, sort_keys=True, default=str).encode()


def _remembered_digest(path: Path, memo: Path) -> str:
    path = path.resolve()
    note = memo / "weights" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    state = _file_state(path)
    if (remembered := _read_note(note, path, state)) is not None:
        return remembered
    digest = hash_file(path)
    at_rest = time.time_ns() - max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) > _FRESH_NS
    if at_rest and _file_state(path) == state:
        make_folder(note.parent)
        write_atomic(note, json.dumps({"path": str(path), "state": state, "sha256": digest}))
    return digest


def _file_state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_note(note: Path, path: Path, state: list[int]) -> str | None:
    """The digest in a note, if it is about this very state of the file; a note that cannot be read is none."""
    try:
        content = json.loads(note.read_bytes())
        return content["sha256"] if [content["path"], content["state"]] == [str(path), state] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
