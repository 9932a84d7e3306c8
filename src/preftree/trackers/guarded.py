"""The trackers of a run, opened by name; one that fails is named once and left out, and the run goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import RootModel

from preftree.errors import ConfigError, UserError
from preftree.storage.json_file import read_json, write_json
from preftree.trackers.protocol import ExperimentTracker, TrackedEnd, TrackedRun

log = logging.getLogger("preftree")

KNOWN_AS = "trackers.json"
"""File in a run's folder: each tracker's own name of the run."""

_CLASSES = {
    "tensorboard": ("tensorboard", "preftree.trackers.to_tensorboard:TensorBoardTracker"),
    "wandb": ("wandb", "preftree.trackers.to_wandb:WandbTracker"),
    "mlflow": ("mlflow", "preftree.trackers.to_mlflow:MlflowTracker"),
    "trackio": ("trackio", "preftree.trackers.to_trackio:TrackioTracker"),
}
"""By name: the library, and the class."""


class _Names(RootModel[dict[str, str]]):
    """Schema of trackers.json."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose library is not installed.

    Raises:
      ConfigError: one is missing.
    """
    for name in names:
        library, _ = _CLASSES[name]
        if find_spec(library) is None:
            raise ConfigError(f"track={name} needs {library}, which is not installed: pip install 'preftree[track]'")


def open_class(name: str) -> Callable[[TrackedRun], ExperimentTracker]:
    """The class of a tracker, with its library imported."""
    module, _, kind = _CLASSES[name][1].partition(":")
    return getattr(import_module(module), kind)


@dataclass(eq=False)
class Trackers:
    """The trackers of a run that have not failed.

    Attributes:
      open: Each by its name.
    """

    open: dict[str, ExperimentTracker] = field(default_factory=dict)

    def add(self, name: str, run: TrackedRun) -> None:
        """Open a run in another tracker."""
        with self._leaving_out(name):
            self.open[name] = open_class(name)(run)

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row of metrics on: its finite numbers, under `train/` or the name of its split."""
        part = row.get("split", "train")
        figures = {
            f"{part}/{name}": float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name != "step" and math.isfinite(value)
        }
        for name, tracker in list(self.open.items()):
            with self._leaving_out(name):
                tracker.log(int(row["step"]), figures)

    def end(self, end: TrackedEnd) -> None:
        """Pass what the run leaves on."""
        for name, tracker in list(self.open.items()):
            with self._leaving_out(name):
                tracker.end(end)

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self.open.items()):
            with self._leaving_out(name):
                tracker.close()
        self.open.clear()

    @contextmanager
    def _leaving_out(self, name: str) -> Iterator[None]:
        """Leave a tracker out from its first failure on; its library may raise anything, and no run ends by that."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            words = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("tracker %s failed (%s); the run goes on without it", name, words)


def open_trackers(names: Sequence[str], run: TrackedRun) -> Trackers:
    """Open a run in trackers; one that cannot be opened is named, and left out."""
    trackers, before = Trackers(), _read_names(run.folder)
    config = dict(_flat(run.config))
    for name in names:
        trackers.add(name, replace(run, config=config, known_as=before.get(name, "")))
    now = before | {name: tracker.known_as for name, tracker in trackers.open.items() if tracker.known_as}
    if now != before:
        try:
            write_json(run.folder / KNOWN_AS, now)
        except OSError as error:
            log.warning("%s cannot be written (%s); a resumed run is new to its trackers", KNOWN_AS, error.strerror)
    return trackers


def _flat(options: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their dotted names."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _read_names(folder: Path) -> dict[str, str]:
    path = folder / KNOWN_AS
    if not path.exists():
        return {}
    try:
        return read_json(path, _Names, "delete it").root
    except UserError as error:
        log.warning("%s; the run is new to its trackers", error)
        return {}
