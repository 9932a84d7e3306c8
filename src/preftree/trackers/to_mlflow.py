"""MLflow: a run of the experiment `preftree`, or of $MLFLOW_EXPERIMENT_NAME, where $MLFLOW_TRACKING_URI says.

Without a server, a database keeps it on this disk (sqlite:///mlflow.db) or, with MLFLOW_ALLOW_FILE_STORE=true, a
folder (file:FOLDER). Source of the calls:
https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html (MLflow 3.17).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from preftree.trackers.protocol import TrackedEnd, TrackedRun

EXPERIMENT = "preftree"
_LONGEST = 6000
"""Most characters of an option that MLflow takes."""


class MlflowTracker:
    """A run of MLflow; another sitting goes on with it by its id."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]  # an extra
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._metric, self._client = Metric, MlflowClient()
        if run.known_as:
            self.known_as = run.known_as
            self._client.set_terminated(self.known_as, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        self.known_as = self._client.create_run(number, run_name=run.name).info.run_id
        options = [Param(key, str(value)[:_LONGEST]) for key, value in run.config.items()]
        self._client.log_batch(self.known_as, params=options)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a step's figures."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.known_as, [self._metric(name, value, now, step) for name, value in figures.items()])

    def end(self, end: TrackedEnd) -> None:
        """Log the report and the samples as artefacts, and the place of the model as a tag."""
        self._client.set_tag(self.known_as, "model", str(end.model))
        if end.report is not None:
            self._client.log_artifact(self.known_as, str(end.report))
        if end.samples:
            rows = json.dumps(list(end.samples), indent=1, ensure_ascii=False)
            self._client.log_text(self.known_as, rows, "samples.json")

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self.known_as)
