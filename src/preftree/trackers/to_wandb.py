"""Weights & Biases: a run of the project `preftree`, or of $WANDB_PROJECT; WANDB_MODE=offline keeps it on this disk.

Source of the calls: https://docs.wandb.ai/ref/python/ (wandb 0.31).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from preftree.trackers.protocol import TrackedEnd, TrackedRun

PROJECT = "preftree"


class WandbTracker:
    """A run of Weights & Biases; another sitting goes on with it by its id."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  # an extra

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            config=dict(run.config),
            id=run.known_as or None,
            resume="allow",
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @property
    def known_as(self) -> str:
        """The run's id."""
        return str(self._run.id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a step's figures; the step is a figure too, since a resumed run writes some steps again."""
        self._run.log({**figures, "step": step})

    def end(self, end: TrackedEnd) -> None:
        """Log the report as a page, the samples as a table, and the place of the model in the summary."""
        import wandb  # pyright: ignore[reportMissingImports]  # an extra

        self._run.summary["model"] = str(end.model)
        if end.report is not None:
            self._run.log({"report": wandb.Html(str(end.report))})
        if end.samples:
            columns = list(end.samples[0])
            rows = [[sample[name] for name in columns] for sample in end.samples]
            self._run.log({"samples": wandb.Table(columns=columns, data=rows)})

    def close(self) -> None:
        """End the run; what is left is sent, or lies in the folder of offline runs."""
        self._run.finish()
