"""A finished run as a caller in Python gets it: figures, paths, and a table for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from preftree.run_folder.reader import read_run


@dataclass(frozen=True, eq=False, slots=True)
class FinishedRun:
    """A run that has come to its end, or was stopped by a signal.

    Attributes:
      path: Folder of the run.
      figures: Figures of the last evaluation, or of the last step where nothing is held out.
      metrics: Every row of metrics.jsonl.
      signum: The signal that stopped it; 0 where it came to its end.
    """

    path: Path
    figures: Mapping[str, float]
    metrics: Sequence[Mapping[str, Any]]
    signum: int = 0

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """The page on the run."""
        return self.path / "report.html"

    def _repr_html_(self) -> str:
        """The figures as a table with a link to the page, for notebooks."""
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in self.figures.items())
        if self.signum:
            return f"<table>{rows}</table><p>stopped by signal {self.signum}; the same call with this out resumes</p>"
        link = f'<a href="{escape(self.report.resolve().as_uri())}">report</a>'
        return f"<table>{rows}</table><p>{link}, model in <code>{escape(str(self.model))}</code></p>"


def read_finished_run(path: Path, signum: int = 0) -> FinishedRun:
    """Read a run's folder back.

    Raises:
      DataError: there is no run in it.
    """
    rows = read_run(path).rows
    last = next((row for row in reversed(rows) if row.get("split") == "eval"), rows[-1] if rows else {})
    figures = {name: float(value) for name, value in last.items() if isinstance(value, int | float)}
    return FinishedRun(path, figures, rows, signum)
