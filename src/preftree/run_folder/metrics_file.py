"""Figures of a run while it trains: metrics.jsonl (the source of truth), trackers, and a bar or a line at times."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TypeAlias

from preftree.errors import CheckpointError, TrainingError
from preftree.storage.atomic import disk_faults, fsync_folder
from preftree.trackers.guarded import Trackers

log = logging.getLogger("preftree")

Row: TypeAlias = Mapping[str, float | int | str]
Display: TypeAlias = Callable[[Row, str], None]
Listener: TypeAlias = Callable[[Row], None]
"""Function of a caller in Python, called with each row once it is written."""

# Fields that measure the clock; two equal runs may differ in these alone.
SPEEDS = frozenset(f"{unit}_per_second" for unit in ("pairs", "examples", "responses", "lists"))
TIME_FIELDS = SPEEDS | {"seconds", "seconds_generating", "seconds_scoring", "seconds_updating"}

SECONDS_BETWEEN_LINES = 20.0


_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call a function with each row that this process writes, while the context lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@dataclass(eq=False)
class Tracker:
    """Writes rows.

    Attributes:
      file: metrics.jsonl; None on a rank that does not lead, and once it cannot be written.
      trackers: Trackers of experiments, which are views of the rows.
      display: Shows a row on the terminal.
      num_rows: Rows in metrics.jsonl, those of earlier sittings included.
      hashed: SHA-256 of those rows so far.
    """

    file: FileIO | None = None
    trackers: Trackers = field(default_factory=Trackers)
    display: Display | None = None
    num_rows: int = 0
    hashed: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, row: Row) -> None:
        """Append a row: one JSON object and one line, on its way to the disk when this returns."""
        self.num_rows += 1
        if self.file is not None:
            line = (json.dumps(row, allow_nan=False) + "\n").encode()
            try:
                if self.file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise self._unwritable(error) from error
            self.hashed.update(line)
        self.trackers.log(row)
        if row.get("split") == "eval":
            log.info("step %d, held out: %s", row["step"], row_in_words(row))
        elif "split" in row:
            return  # training stopped, and its error is shown
        elif self.display is not None:
            self.display(row, row_in_words(row))
        for listener in _listeners if self.file is not None else ():
            listener(row)

    def sync(self) -> None:
        """Wait until the rows have reached the disk, so that a checkpoint may count them.

        Raises:
          TrainingError: the disk cannot take them.
        """
        if self.file is None:
            return
        try:
            os.fsync(self.file.fileno())
            fsync_folder(Path(str(self.file.name)).parent)  # the file may be new
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> TrainingError:
        """The error to raise; nothing more is written, not even that the run has stopped."""
        assert self.file is not None
        name, self.file = self.file.name, None
        return TrainingError(f"{name} cannot be written ({error.strerror}); fix that and start again with resume=auto")


@contextmanager
def open_tracker(
    folder: Path,
    *,
    leads: bool,
    num_steps: int,
    first_step: int,
    keep_rows: int | None,
    sha256: str = "",
    trackers: Callable[[], Trackers] = Trackers,
) -> Iterator[Tracker]:
    """Open the run's records; rows past the first `keep_rows` of an earlier sitting are cut off.

    Args:
      folder: The run's folder.
      leads: Whether this process writes; others get a tracker that only counts.
      num_steps: Steps of the whole run.
      first_step: Steps done before.
      keep_rows: Rows that the checkpoint knows of; None starts a new file.
      sha256: Their digest; empty where the checkpoint does not hold it.
      trackers: Opens the trackers, once the records are open.
    Raises:
      CheckpointError: the rows are not those that the checkpoint knows of.
      WriteError: the records cannot be written.
    """
    with ExitStack() as stack:
        if not leads:
            yield Tracker(num_rows=keep_rows or 0)
            return
        with disk_faults("make room, and repeat the command with resume=auto"):
            kept, hashed = cut_rows(folder / "metrics.jsonl", keep_rows or 0, sha256)
            # Without a buffer: a row is the system's once it is written, and nothing is left to fail at the close.
            file = stack.enter_context(FileIO(folder / "metrics.jsonl", "a"))
        terminal = sys.stderr.isatty() and log.level <= logging.INFO  # with -q there is no bar
        display = stack.enter_context(_open_bar(num_steps, first_step)) if terminal else _Lines(num_steps).show
        tracker = Tracker(file, trackers(), display, kept, hashed)
        stack.callback(tracker.sync)
        stack.callback(tracker.trackers.close)
        yield tracker


def cut_rows(path: Path, keep: int, sha256: str = "") -> tuple[int, hashlib._Hash]:
    """Shorten a metrics file to its first `keep` rows; a missing file counts as empty. What goes is said in the log.

    Args:
      path: The file.
      keep: Rows to keep.
      sha256: Their digest in hex; empty where it is not known.
    Returns:
      The rows that are left, and their running digest.
    Raises:
      CheckpointError: the file has fewer whole rows than that, or others.
    """
    hashed = hashlib.sha256()
    if not path.exists():
        if keep:
            log.warning("%s is missing, with its %d rows; the run goes on without them", path, keep)
        return 0, hashed
    rows = size = beyond = 0
    with path.open("rb") as file:
        for line in file:
            if rows == keep or not line.endswith(b"\n"):
                beyond += 1
                continue
            rows += 1
            size += len(line)
            hashed.update(line)
    if rows < keep or (sha256 and hashed.hexdigest() != sha256):
        found = f"has {rows} rows" if rows < keep else "holds other rows"
        raise CheckpointError(
            f"{path} {found} where the checkpoint counted {keep}; put the file back, "
            "or move it away to go on without it"
        )
    if beyond:
        level = logging.INFO if keep else logging.WARNING
        log.log(level, "%s: dropping %d rows after %s", path, beyond, "the checkpoint" if keep else "no checkpoint")
    os.truncate(path, size)
    return rows, hashed


def row_in_words(row: Row) -> str:
    """The main figures of a row on one line."""
    words = []
    for name, form in (("loss", ".4f"), ("accuracy", ".3f"), ("margin", "+.3f"), ("reward", ".4g"), ("kl", ".3g")):
        if name in row:
            words.append(f"{name} {row[name]:{form}}")
            if name == "accuracy" and "accuracy_low" in row:
                words[-1] += f" [{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]"
    for name in sorted(SPEEDS):
        if name in row:
            words.append(f"{row[name]:.1f} {name.removesuffix('_per_second')}/s")
    return "  ".join(words)


@dataclass(eq=False)
class _Lines:
    """A line at the first and the last step, and some between: for logs."""

    num_steps: int
    _began: float = field(default_factory=time.monotonic)
    _shown: float = -1e9
    _first: int | None = None

    def show(self, row: Row, text: str) -> None:
        step, now = int(row["step"]), time.monotonic()
        self._first = step if self._first is None else self._first
        if now - self._shown < SECONDS_BETWEEN_LINES and step != self.num_steps:
            return
        self._shown = now
        done = step - self._first
        left = f"  {_clock((now - self._began) / done * (self.num_steps - step))} left" if done else ""
        log.info("step %d/%d  %s%s", step, self.num_steps, text, left)


@contextmanager
def _open_bar(num_steps: int, first_step: int) -> Iterator[Display]:
    """A progress bar on the terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.fields[text]}")
    columns = (BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=num_steps, completed=first_step, text="")
        yield lambda row, text: bar.update(task, completed=int(row["step"]), text=text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
