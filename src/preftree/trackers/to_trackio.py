"""Trackio: a run of the project `preftree`, or of $TRACKIO_PROJECT, in a database on this disk ($TRACKIO_DIR).

$TRACKIO_SPACE_ID sends it to a Space of the Hugging Face hub. Source of the calls: https://huggingface.co/docs/trackio
(trackio 0.43).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

from preftree.trackers.protocol import TrackedEnd, TrackedRun

PROJECT = "preftree"


class TrackioTracker:
    """A run of Trackio; another sitting goes on with it by its name, which is that of the folder and a few digits."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio  # pyright: ignore[reportMissingImports]  # an extra

        self._project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with redirect_stdout(sys.stderr):  # what it prints is no result of the command
            self._run = trackio.init(
                project=self._project,
                name=run.known_as or f"{run.name}-{os.urandom(3).hex()}",
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    @property
    def known_as(self) -> str:
        """The run's name."""
        return str(self._run.name)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a step's figures."""
        self._run.log(dict(figures), step=step)

    def end(self, end: TrackedEnd) -> None:
        """Log the samples and the place of the model as text, and copy the report to the project's files."""
        import trackio  # pyright: ignore[reportMissingImports]  # an extra

        self._run.log({"model": str(end.model)})
        if end.samples:
            parts = ["\n\n".join(f"**{name}**\n\n{value}" for name, value in sample.items()) for sample in end.samples]
            self._run.log({"samples": trackio.Markdown("\n\n---\n\n".join(parts))})
        if end.report is not None:
            with redirect_stdout(sys.stderr):
                trackio.save(end.report, self._project)

    def close(self) -> None:
        """Write what is left."""
        import trackio  # pyright: ignore[reportMissingImports]  # an extra

        with redirect_stdout(sys.stderr):
            trackio.finish()  # so that the library does not finish it again as the process ends
