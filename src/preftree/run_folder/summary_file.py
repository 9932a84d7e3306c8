"""RUN/summary.json: counts, figures and identity of a finished run, and digests of the files beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from preftree.errors import CheckpointError, DataError, ModelError
from preftree.storage.json_file import read_json, write_json
from preftree.storage.manifest import MANIFEST, hash_file, read_manifest, verify_manifest

CARD = "README.md"
"""File of a model folder that its owner may edit."""

MEASURED = "measured.json"

_DIGEST = re.compile(r"\| (\S+) \| ([0-9a-f]{64}) \|")
"""Row of a card with the SHA-256 of a file: `digest_row` writes it."""

_READ = (".safetensors", ".json", ".jinja", ".bin", ".model", ".txt", ".py")
"""Endings of files that transformers and peft may read from a model folder."""


class Summary(BaseModel):
    """Schema of summary.json; it may hold more.

    Attributes:
      steps: Updates of the run.
      ended_early: Whether stop_after ended it before its last step.
      recipe: Name of the recipe.
      config: The options.
      trajectory: Everything that determines the sequence of weights.
      environment: Versions and hardware.
      held_out: Figures of the last evaluation.
      training_seconds: Time spent in training steps.
      files: SHA-256 of config.yaml and measured.json, and of the manifests of `model` and `base`, as far as they are
        there; empty in earlier versions.
      metrics_sha256: SHA-256 of metrics.jsonl; empty in earlier versions.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    steps: int
    ended_early: bool = False
    recipe: str | None = None
    config: dict[str, Any] = {}
    trajectory: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    held_out: dict[str, Any] = {}
    training_seconds: float = 0.0
    files: dict[str, str] = {}
    metrics_sha256: str = ""


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Write OUT/summary.json with the digests of the files that are there.

    Raises:
      OSError: it cannot be written.
    """
    files = {name: out / name for name in ("config.yaml", MEASURED)}
    files |= {name: out / name / MANIFEST for name in ("model", "base")}
    digests = {name: hash_file(path) for name, path in files.items() if path.is_file()}
    write_json(out / "summary.json", {**summary, "files": digests})


def read_summary(out: Path) -> Summary | None:
    """Read OUT/summary.json; None where the run is not finished.

    Raises:
      DataError: it cannot be read, or is not as it was written.
    """
    path = out / "summary.json"
    if not path.exists():
        return None
    return read_json(path, Summary, "delete it, and the command of the run writes it again")


def check_beside(out: Path, summary: Summary) -> None:
    """Compare the options and the manifests of a run's folder with the digests in its summary.

    measured.json is left out: it holds its own digest, and verbs that measure write it anew.

    Raises:
      DataError: one of them is missing, or is of another run.
    """
    for name, digest in summary.files.items():
        if name == MEASURED:
            continue
        path = out / name / MANIFEST if name in ("model", "base") else out / name
        if not path.is_file():
            raise DataError(f"{path} is missing, though {out / 'summary.json'} lists it; put it back")
        if hash_file(path) != digest:
            raise DataError(f"{path} is not the file that the run ended with ({out / 'summary.json'}); put that back")


def lacks_measured(out: Path, summary: Summary) -> bool:
    """Whether measured.json, which the run ended with, is gone."""
    return MEASURED in summary.files and not (out / MEASURED).is_file()


def digest_row(path: Path) -> str:
    """Row of a card's table with the SHA-256 of a file, with which `verify_model` compares the file."""
    return f"| {path.name} | {hash_file(path)} |"


def _digests_in_card(folder: Path) -> dict[str, str]:
    """The SHA-256 by file in a folder's README.md, as far as its owner has left them there."""
    if not (folder / CARD).is_file():
        return {}
    lines = (folder / CARD).read_text(encoding="utf-8", errors="replace").splitlines()
    return {row[1]: row[2] for line in lines if (row := _DIGEST.fullmatch(line.strip()))}


def verify_model(folder: Path, *, weights: bool = True, card: bool = False) -> None:
    """Compare a model folder that Preftree wrote with its manifest, and with the summary of its run; others pass.

    Args:
      folder: A model folder.
      weights: Whether the weights are compared too, or the small files alone.
      card: Whether its README.md must be as it was written, too.
    Raises:
      ModelError: a file is missing, damaged, added, or of another run.
    """
    mend = "put it back; if the change is meant, copy the folder elsewhere without its MANIFEST.json"
    try:
        summary = read_summary(folder.parent) if folder.name in ("model", "base") else None
        listed = summary.files.get(folder.name) if summary else None
        if not (folder / MANIFEST).exists():
            if listed:
                raise ModelError(f"{folder / MANIFEST} is missing, though {folder.parent / 'summary.json'} lists it")
            return
        files = read_manifest(folder)
        skipped = [name for name in files if name.endswith(".safetensors")] if not weights else []
        verify_manifest(folder, but=skipped if card else [*skipped, CARD])
        if listed and hash_file(folder / MANIFEST) != listed:
            raise ModelError(f"{folder} is not the model that its run ended with ({folder.parent / 'summary.json'})")
        for name, digest in _digests_in_card(folder).items():
            if name in files and files[name]["sha256"] != digest:
                raise ModelError(f"{folder / name} is not the file that {folder / CARD} was written with")
    except (CheckpointError, DataError, ModelError) as error:
        raise ModelError(f"{str(error).partition('; ')[0]}; {mend}") from error
    added = [path.name for path in folder.iterdir() if path.suffix in _READ and path.name not in (*files, MANIFEST)]
    if added:
        raise ModelError(f"{folder / added[0]} was not written with the model; move it away")
