"""Figures of a run while it trains: metrics.jsonl (the source of truth), TensorBoard, and a bar or a line at times."""

from __future__ import annotations

import errno
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
from typing import TYPE_CHECKING, TypeAlias

from preftree.errors import CheckpointError, TrainingError
from preftree.storage.atomic import fsync_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("preftree")

Row: TypeAlias = Mapping[str, float | int | str]
Display: TypeAlias = Callable[[Row, str], None]

# Fields that measure the clock; two equal runs may differ in these alone.
SPEEDS = frozenset(f"{unit}_per_second" for unit in ("pairs", "examples", "responses", "lists"))
TIME_FIELDS = SPEEDS | {"seconds", "seconds_generating", "seconds_scoring", "seconds_updating"}

SECONDS_BETWEEN_LINES = 20.0


@dataclass(eq=False)
class Tracker:
    """Writes rows. `num_rows` counts those in metrics.jsonl, those of earlier sittings included."""

    file: FileIO | None = None
    board: SummaryWriter | None = None
    display: Display | None = None
    num_rows: int = 0

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
        self._show_on_board(row)
        if row.get("split") == "eval":
            log.info("step %d, held out: %s", row["step"], row_in_words(row))
        elif "split" in row:
            return  # training stopped, and its error is shown
        elif self.display is not None:
            self.display(row, row_in_words(row))

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

    def _show_on_board(self, row: Row) -> None:
        """TensorBoard is a view of the rows: a run continues without it."""
        if self.board is None:
            return
        part = row.get("split", "train")
        try:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self.board.add_scalar(f"{part}/{name}", value, int(row["step"]))
        except OSError as error:
            self.board = None
            log.warning("TensorBoard's file cannot be written (%s); continuing without it", error.strerror)


@contextmanager
def open_tracker(
    folder: Path, *, leads: bool, num_steps: int, first_step: int, keep_rows: int | None
) -> Iterator[Tracker]:
    """Open the run's records; rows past the first `keep_rows` of an earlier sitting are cut off.

    Args:
      folder: The run's folder.
      leads: Whether this process writes; others get a tracker that only counts.
      num_steps: Steps of the whole run.
      first_step: Steps done before.
      keep_rows: Rows that the checkpoint knows of; None starts a new file.
    """
    with ExitStack() as stack:
        if not leads:
            yield Tracker(num_rows=keep_rows or 0)
            return
        from torch.utils.tensorboard import SummaryWriter

        kept = cut_rows(folder / "metrics.jsonl", keep_rows or 0)
        # Without a buffer: a row is the system's as soon as it is written, and nothing is left to fail at the close.
        file = stack.enter_context(FileIO(folder / "metrics.jsonl", "a"))
        board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)
        stack.callback(lambda: os.fsync(file.fileno()))
        terminal = sys.stderr.isatty()
        display = stack.enter_context(_open_bar(num_steps, first_step)) if terminal else _Lines(num_steps).show
        tracker = Tracker(file, board, display, kept)
        stack.callback(lambda: tracker.board and tracker.board.close())
        yield tracker


def cut_rows(path: Path, keep: int) -> int:
    """Shorten a metrics file to its first `keep` rows; a missing file counts as empty.

    Returns:
      The rows that are left.
    Raises:
      CheckpointError: the file has fewer whole rows than that.
    """
    if not path.exists():
        return 0
    rows = size = 0
    with path.open("rb") as file:
        for line in file:
            if rows == keep or not line.endswith(b"\n"):
                break
            rows += 1
            size += len(line)
    if rows < keep:
        raise CheckpointError(
            f"{path} has {rows} rows where the checkpoint counted {keep}; put the file back, "
            "or move it away to go on without it"
        )
    os.truncate(path, size)
    return rows


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
