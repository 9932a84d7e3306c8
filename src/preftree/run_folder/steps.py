"""The steps of a run whose weights are on disk, and names of one of them: RUN@40, RUN@best.

RUN/checkpoints/step-NNNNNN        the newest few, to resume from
RUN/checkpoints/best/step-NNNNNN   the best so far on held-out data (keep_best)
RUN/snapshots/step-NNNNNN          after steps 1, 2, 4, 8, ... (snapshots)
RUN/model                          the end
RUN/steps/step-NNNNNN              a step as a model folder, once it was asked for
"""

from __future__ import annotations

import re
from pathlib import Path

from preftree.errors import CheckpointError, ConfigError, DataError
from preftree.run_folder.summary_file import Summary, read_summary
from preftree.storage.checkpoint import list_checkpoints, read_meta, step_of
from preftree.storage.manifest import read_manifest

BEST = "best"
"""Name of the best step, and its folder in RUN/checkpoints."""

_NAMED = re.compile(rf"(?P<run>.+)@(?P<step>\d+|{BEST})", re.DOTALL)


def split_step(name: str, step: str | None = None) -> tuple[str, str | None]:
    """A name with the step that it asks for: `RUN@40` or `RUN@best`, or `step` beside a name without one.

    Raises:
      ConfigError: both ask for a step, or the step is neither a number nor `best`.
    """
    if step is not None and not (step == BEST or (step.isascii() and step.isdigit())):
        raise ConfigError(f"--step must be a number of steps or {BEST}, got {step!r}")
    match = None if Path(name).expanduser().exists() else _NAMED.fullmatch(name)
    if match is None:
        return name, step
    if step is not None:
        raise ConfigError(f"{name} names a step and --step {step} another; give one of them")
    return match["run"], match["step"]


def steps_on_disk(run: Path) -> dict[int, Path]:
    """Folders with the weights of a run, by step, in order of steps; the end of a finished run is RUN/model.

    What another run left in the folder is left out.

    Raises:
      DataError: the summary cannot be read.
    """
    summary = read_summary(run)
    saved = list_checkpoints(run / "checkpoints")
    trajectory = _trajectory_of(summary, saved)
    folders: dict[int, Path] = {}
    for path in (*list_checkpoints(run / "snapshots"), *list_checkpoints(run / "checkpoints" / BEST), *saved):
        if trajectory is None or _trajectory_in(path) == trajectory:
            folders[step_of(path)] = path
    if summary is not None and (run / "model").is_dir():
        folders[summary.steps] = run / "model"
    return dict(sorted(folders.items()))


def best_step(run: Path) -> int | None:
    """The step that keep_best holds; None where it holds none."""
    known = steps_on_disk(run)
    steps = [step_of(path) for path in list_checkpoints(run / "checkpoints" / BEST)]
    return max((step for step in steps if step in known), default=None)


def find_step(run: Path, step: str) -> tuple[int, Path]:
    """The number of a step, and the folder with its weights.

    Args:
      run: A run's folder.
      step: A number, or `best`.
    Raises:
      DataError: there is no run, or it has no weights of that step on disk; the sentence lists the steps that it has.
    """
    if not (run / "metrics.jsonl").is_file() and not (run / "checkpoints").is_dir():
        raise DataError(f"{run} is no folder of a run, so it has no step {step}; give the out= of a run")
    folders = steps_on_disk(run)
    shown = ", ".join(map(str, folders)) or "none"
    number = best_step(run) if step == BEST else int(step)
    if number is None:
        raise DataError(f"{run} kept no best step (keep_best=loss does); it has the weights of steps {shown}")
    if number not in folders:
        raise DataError(f"{run} has no weights of step {number} on disk; it has those of steps {shown}")
    return number, folders[number]


def nearest_step(run: Path, step: int) -> int | None:
    """The step on disk that is nearest to a step; None where there is none."""
    try:
        folders = steps_on_disk(run)
    except DataError:
        return None
    return min(folders, key=lambda other: (abs(other - step), other), default=None)


def _trajectory_of(summary: Summary | None, saved: list[Path]) -> object:
    """Everything that determined the weights of a run, as its summary or its newest checkpoint says."""
    if summary is not None:
        return summary.trajectory or None
    return next((trajectory for path in reversed(saved) if (trajectory := _trajectory_in(path))), None)


def _trajectory_in(path: Path) -> object:
    try:
        return read_meta(path, read_manifest(path)).get("trajectory")
    except CheckpointError:
        return None
