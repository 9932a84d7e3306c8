"""Checkpoints: folders `checkpoints/step-NNNNNN/` with safetensors and JSON, complete or absent.

step-000010/model.safetensors       one file for each name in CheckpointState.tensors
step-000010/optimizer.safetensors
step-000010/meta.json               the step and CheckpointState.meta
step-000010/MANIFEST.json           size and SHA-256 of the others

The header of each file of tensors holds its name, the step, and the digest of the run's trajectory: a file of another
step or run is found though the manifest lists it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from preftree.errors import CheckpointError
from preftree.storage.atomic import clear_leftovers, make_folder, remove_dir, staged_dir
from preftree.storage.json_file import first_fault
from preftree.storage.manifest import FileRecord, verify_manifest, write_manifest
from preftree.storage.tensors import read_tensors, write_tensors

_STEP = re.compile(r"step-(\d{6,})")
_FORMAT = 2
_UNNAMED = 1
"""Format of versions whose files of tensors do not say what they are of."""


class _Meta(BaseModel):
    """Schema of meta.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    step: int
    meta: dict[str, Any]


@dataclass(frozen=True, eq=False)
class CheckpointState:
    """Everything that a run needs to resume as if it had never stopped.

    Attributes:
      tensors: Named tensors by file name without ending: {"model": {...}, "optimizer": {...}, "rng": {...}}.
      meta: Plain JSON: schedule, data position, counters; its entry `trajectory` tells the run from others.
    """

    tensors: dict[str, Mapping[str, Tensor]]
    meta: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint that was read.

    Attributes:
      path: Folder of the checkpoint.
      step: Number of updates of the run.
      state: Everything that the run needs to resume.
      skipped: A sentence for each newer checkpoint that is damaged.
      named: Whether each file of tensors says what it is of; those of earlier versions do not.
    """

    path: Path
    step: int
    state: CheckpointState
    skipped: tuple[str, ...]
    named: bool = True


def save_checkpoint(root: Path, step: int, state: CheckpointState, *, keep: int | None) -> Path:
    """Write `root/step-NNNNNN`, then delete all but the newest `keep` checkpoints up to this step; None deletes none.

    Later steps, left by a run that went further, stay until this run reaches them.

    Returns:
      The checkpoint's folder.

    Raises:
      ValueError: keep < 1, a name that is not a file name, or meta that JSON does not reproduce.
      CheckpointError: it could not be written (the disk is full, say); earlier checkpoints are unchanged.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be >= 1, got {keep}")
    meta = json.dumps({"format": _FORMAT, "step": step, "meta": state.meta}, indent=1, allow_nan=False) + "\n"
    if json.loads(meta)["meta"] != state.meta:
        raise ValueError("meta must be plain JSON: string keys, lists for tuples")
    for name in state.tensors:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"'{name}' is not a name for a file of tensors")
    path = root / f"step-{step:06d}"
    try:
        make_folder(root)
        clear_leftovers(root)
        with staged_dir(path) as folder:
            for name, tensors in state.tensors.items():
                write_tensors(folder / f"{name}.safetensors", tensors, _about(name, step, state.meta))
            (folder / "meta.json").write_text(meta)
            write_manifest(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); earlier checkpoints are untouched: "
            "fix that and repeat the command with resume=auto"
        ) from error
    older = [other for other in list_checkpoints(root) if keep is not None and step_of(other) < step]
    for other in older[: max(0, len(older) - ((keep or 1) - 1))]:
        try:
            remove_dir(other)
        except OSError as error:
            raise CheckpointError(f"{path} is saved, but old {other} cannot be deleted ({error}); fix that") from error
    return path


def load_checkpoint(root: Path, which: Path | Literal["latest"] = "latest") -> LoadedCheckpoint | None:
    """Read the newest intact checkpoint of `root`, or the folder that `which` names.

    Returns:
      The checkpoint; None where `root` has none at all.

    Raises:
      CheckpointError: the named checkpoint is missing or damaged, or all of them are damaged.
    """
    if which != "latest":
        return _load(which, ())
    if root.is_dir():
        clear_leftovers(root)
    skipped: list[str] = []
    for path in reversed(list_checkpoints(root)):
        try:
            return _load(path, tuple(skipped))
        except CheckpointError as error:
            skipped.append(str(error))
    if skipped:
        raise CheckpointError(
            f"no checkpoint in {root} can be used ({'; '.join(skipped)}); to start over, pass resume=never"
        )
    return None


def list_checkpoints(root: Path) -> list[Path]:
    """Folders of checkpoints, oldest step first; they may be damaged, which `load_checkpoint` checks."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    match = _STEP.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"a checkpoint's folder is named step-NNNNNN, got {path}")
    return int(match[1])


def _load(path: Path, skipped: tuple[str, ...]) -> LoadedCheckpoint:
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist")
    step = step_of(path)
    files = verify_manifest(path)
    content = _parse_meta(path, files)
    if content.format not in (_UNNAMED, _FORMAT):
        raise CheckpointError(f"{path} has format {content.format}, this version reads formats up to {_FORMAT}")
    if content.step != step:
        raise CheckpointError(f"{path} holds step {content.step}: the folder was renamed; restore its name")
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for file in files:
        if file == "meta.json":
            continue
        name = file.removesuffix(".safetensors")
        try:
            tensors[name], about = read_tensors(path / file)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path / file} cannot be read ({error})") from error
        if content.format == _FORMAT and about != _about(name, step, content.meta):
            raise CheckpointError(f"{path / file} is not of this checkpoint: {_difference(about, name, step)}")
    state = CheckpointState(tensors, content.meta)
    return LoadedCheckpoint(path, step, state, skipped, content.format == _FORMAT)


def read_meta(path: Path, files: Mapping[str, FileRecord]) -> Mapping[str, Any]:
    """The description in a checkpoint, without its tensors.

    Args:
      path: Folder of the checkpoint.
      files: Its manifest.
    Raises:
      CheckpointError: meta.json is missing or damaged.
    """
    return _parse_meta(path, files).meta


def _parse_meta(path: Path, files: Mapping[str, FileRecord]) -> _Meta:
    if "meta.json" not in files:
        raise CheckpointError(f"{path} is not a checkpoint: its MANIFEST.json lists no meta.json")
    try:
        text = (path / "meta.json").read_bytes()
        if hashlib.sha256(text).hexdigest() != files["meta.json"]["sha256"]:
            raise ValueError("it has another sha256 than MANIFEST.json lists")
        return _Meta.model_validate(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path / 'meta.json'} cannot be read ({fault})") from error


def _about(name: str, step: int, meta: Mapping[str, Any]) -> dict[str, str]:
    """Words of the header of a file of tensors."""
    trajectory = json.dumps(meta.get("trajectory"), sort_keys=True).encode()
    return {"of": name, "step": str(step), "trajectory": hashlib.sha256(trajectory).hexdigest()}


def _difference(about: Mapping[str, str], name: str, step: int) -> str:
    if about.get("of") != name:
        return f"it holds {about.get('of', 'no name')!r}"
    if about.get("step") != str(step):
        return f"it is of step {about.get('step')}"
    return "it is of another run"
