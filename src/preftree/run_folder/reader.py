"""Reader of a run's folder, without its tensors: finished, in progress or broken off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from preftree.config.loss import loss_label
from preftree.config.recipes import RECIPES, Recipe
from preftree.config.yaml import read_yaml_file
from preftree.errors import CheckpointError, DataError
from preftree.run_folder.measured_file import Measured, read_measured
from preftree.run_folder.summary_file import Summary, check_beside, lacks_measured, read_summary
from preftree.storage.checkpoint import list_checkpoints, read_meta, step_of
from preftree.storage.manifest import read_manifest

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SavedStep:
    """A checkpoint, from its small files.

    Attributes:
      step: Step of the run.
      size: Bytes of all its files.
      digest: SHA-256 of its model.safetensors, from the manifest; empty where it cannot be read.
      meta: The run's description in the checkpoint.
      fault: Reason why it cannot be read, or an empty string.
    """

    step: int
    size: int
    digest: str
    meta: Mapping[str, Any]
    fault: str


@dataclass(frozen=True, slots=True)
class Run:
    """Content of a run's folder.

    Attributes:
      path: The folder.
      name: Name to show.
      config: Resolved options, with the recipe's name; empty where config.yaml is missing.
      rows: metrics.jsonl, in order.
      summary: summary.json, written last; empty until the run is finished.
      checkpoints: Oldest first.
      model_files: Name and bytes of each file of RUN/model.
      measured: measured.json.
      notes: Sentences on files that are missing or could not be read.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    rows: tuple[Row, ...]
    summary: Mapping[str, Any]
    checkpoints: tuple[SavedStep, ...]
    model_files: Mapping[str, int]
    measured: Measured
    notes: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """The recipe that it is a run of.

        Raises:
          DataError: it is a recipe that this version does not have.
        """
        name = self.config.get("recipe", self.summary.get("recipe")) or self._guess()
        if name not in RECIPES:
            raise DataError(f"{self.path} is a run of {name!r}; this version has the recipes {', '.join(RECIPES)}")
        return RECIPES[name]

    def _guess(self) -> str:
        """The recipe of a folder that does not name it: an unfinished run of version 0.1 or older."""
        if "reward" in self.config:
            return "ppo" if "lam" in self.config else "rloo"
        return "dpo" if "loss" in self.config or any("margin" in row for row in self.rows) else "sft"

    def require_finished(self) -> None:
        """Refuse a run that has not come to its end.

        Raises:
          DataError: it has no summary.json.
        """
        if not self.summary:
            raise DataError(f"{self.path} holds no finished run: let it come to its end, or give another folder")

    @property
    def loss(self) -> str:
        """Name of the loss, or of a sum with its weights."""
        return loss_label(self.config.get("loss") or self.recipe.name)

    @property
    def steps(self) -> int:
        """Optimiser steps made."""
        return max((int(row["step"]) for row in self.rows), default=0)


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
      DataError: there is no run, a line of its metrics is not a row, or a file differs from what was written.
      ConfigError: config.yaml is no configuration.
    """
    if not (path / "metrics.jsonl").is_file():
        what = "holds no metrics.jsonl" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}; give the folder of a run (its out=)")
    notes: list[str] = []
    rows = _read_metrics(path / "metrics.jsonl", notes)
    config: Mapping[str, Any] = {}
    if (path / "config.yaml").is_file():
        config, _ = read_yaml_file(path / "config.yaml")
    else:
        notes.append("config.yaml is missing: the options of this run are not known.")
    ended = read_summary(path)
    if ended is None:
        notes.append("summary.json is missing: the run is still under way, or was broken off.")
    else:
        check_beside(path, ended)
        if lacks_measured(path, ended):
            notes.append("measured.json is missing: what was measured after training is not known.")
    saved = tuple(_read_checkpoint(folder) for folder in list_checkpoints(path / "checkpoints"))
    notes += [f"Checkpoint {step.step}: {step.fault}." for step in saved if step.fault]
    _check_rows(path / "metrics.jsonl", ended, saved)
    model = path / "model"
    files = (
        {file.name: file.stat().st_size for file in sorted(model.iterdir()) if file.is_file()} if model.is_dir() else {}
    )
    summary = {} if ended is None else ended.model_dump(exclude_unset=True)
    name = path.name or path.resolve().name
    return Run(path, name, config, rows, summary, saved, files, read_measured(path / "measured.json"), tuple(notes))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several runs; folders of one name are shown with as much of their paths as distinguishes them.

    Raises:
      DataError, ConfigError: as `read_run`.
    """
    parts = [path.resolve().parts for path in paths]
    length = 1
    while len({path_parts[-length:] for path_parts in parts}) < len(set(parts)):
        length += 1
    names = ["/".join(path_parts[-length:]) for path_parts in parts]
    return [replace(read_run(path), name=name) for path, name in zip(paths, names, strict=True)]


def split_rows(run: Run) -> tuple[list[Row], list[Row]]:
    """A run's rows of steps, and of evaluations."""
    return [row for row in run.rows if "split" not in row], [row for row in run.rows if row.get("split") == "eval"]


def last_rows(run: Run) -> tuple[Row, Row]:
    """The last row of a step and the last evaluation; empty where there is none."""
    train, held_out = split_rows(run)
    return train[-1] if train else {}, held_out[-1] if held_out else {}


def _read_metrics(path: Path, notes: list[str]) -> tuple[Row, ...]:
    """Rows of a metrics file; an unfinished last line is left out and noted.

    Raises:
      DataError: another line is not a JSON object with a step.
    """
    rows: list[Row] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    *whole, rest = lines
    if rest:
        notes.append("The last line of metrics.jsonl is unfinished and was left out.")
    for number, line in enumerate(whole, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or isinstance(row["step"], bool) or not isinstance(row["step"], int):
                raise ValueError
        except (ValueError, KeyError) as error:
            raise DataError(f'{path}:{number}: must be a JSON object with a "step", got {line[:60]!r}') from error
        rows.append(row)
    return tuple(rows)


def _check_rows(path: Path, ended: Summary | None, saved: Sequence[SavedStep]) -> None:
    """Compare a metrics file with the digest of the finished run, or with that of the newest checkpoint.

    Raises:
      DataError: its rows are others.
    """
    progress = next((step.meta.get("progress", {}) for step in reversed(saved) if not step.fault), {})
    number, sha256 = progress.get("rows"), progress.get("rows_sha256", "")
    if ended is not None:
        number, sha256 = None, ended.metrics_sha256
    if not sha256:  # written by an earlier version
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if hashlib.sha256(b"".join(lines[:number])).hexdigest() != sha256:
        known = "summary.json" if ended is not None else "its newest checkpoint"
        raise DataError(f"{path} does not hold the rows that {known} knows of; put the file back")


def _read_checkpoint(folder: Path) -> SavedStep:
    step, size, digest = step_of(folder), 0, ""
    try:
        files = read_manifest(folder)
        size = sum(record["size"] for record in files.values())
        digest = files["model.safetensors"]["sha256"] if "model.safetensors" in files else ""
        return SavedStep(step, size, digest, read_meta(folder, files), "")
    except CheckpointError as error:
        return SavedStep(step, size, digest, {}, str(error))
