"""The one interface of all trackers, and what each is opened with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as trackers know it.

    Attributes:
      folder: The run's folder.
      config: Its options, by name.
      first_step: Steps that it had made before this sitting.
      known_as: The tracker's own name of the run, from an earlier sitting; empty for a new run.
    """

    folder: Path
    config: Mapping[str, Any]
    first_step: int = 0
    known_as: str = ""

    @property
    def name(self) -> str:
        """Name to show."""
        return self.folder.resolve().name


@dataclass(frozen=True, slots=True)
class TrackedEnd:
    """What a finished run leaves for trackers.

    Attributes:
      report: Its page; None where it could not be written.
      model: The folder of its model.
      samples: Texts, each by the name of its column; all with the same columns.
    """

    report: Path | None
    model: Path
    samples: Sequence[Mapping[str, str]] = ()


@runtime_checkable
class ExperimentTracker(Protocol):
    """A tracker that a run was opened in. Any method may raise anything: `trackers/guarded.py` stands between."""

    @property
    def known_as(self) -> str:
        """The tracker's own name of the run, with which another sitting goes on with it."""
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a step, by names such as `train/loss`."""
        ...

    def end(self, end: TrackedEnd) -> None:
        """Take the report, the samples and the place of the model."""
        ...

    def close(self) -> None:
        """Write what is left, and close the run."""
        ...
