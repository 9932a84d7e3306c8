"""TensorBoard: event files in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from preftree.trackers.protocol import TrackedEnd, TrackedRun


class TensorBoardTracker:
    """Figures as scalars; texts of the end as text, under the last step."""

    known_as = ""

    def __init__(self, run: TrackedRun) -> None:
        first = run.first_step
        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=first + 1 if first else None)
        self._step = first

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add scalars."""
        self._step = step
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def end(self, end: TrackedEnd) -> None:
        """Add the samples and the places of model and report as text."""
        places = f"model: {end.model}" + (f"\n\nreport: {end.report}" if end.report else "")
        self._board.add_text("places", places, self._step)
        for number, sample in enumerate(end.samples, 1):
            text = "\n\n".join(f"{name}:\n\n    " + value.replace("\n", "\n    ") for name, value in sample.items())
            self._board.add_text(f"sample {number}", text, self._step)

    def close(self) -> None:
        """Close the event file."""
        self._board.close()
