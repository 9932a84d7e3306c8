"""Training loop: steps, evaluations and checkpoints in an order that no interruption changes.

A checkpoint is written right after its step, before an evaluation that is due there. A resumed run therefore repeats
the evaluation, and writes the row that an uninterrupted run would have written.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from preftree.errors import HalfwayError, TrainingError, UserError
from preftree.run_folder.metrics_file import Row, Tracker, open_tracker
from preftree.runtime.reduce import lead_first, max_over_ranks
from preftree.runtime.signals import stop_on_signals
from preftree.storage.checkpoint import save_checkpoint
from preftree.trackers.guarded import open_trackers
from preftree.trackers.protocol import TrackedRun
from preftree.train.open_run import OpenRun, finish
from preftree.train.snapshots import BEST_FOLDER, FOLDER, BestSoFar, is_snapshot_step, save_snapshot, snapshot_factor
from preftree.train.state import Companion, Progress, capture, require_finite, restore

log = logging.getLogger("preftree")

EVALUATIONS = 10
"""Evaluations of a run where the options say nothing, beside the one before its first step."""


@runtime_checkable
class Steps(Protocol):
    """The parts of a recipe that its loop calls."""

    @property
    def optimizer(self) -> Optimizer:
        """The policy's optimiser."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """Steps of one pass over the data."""
        ...

    @property
    def state(self) -> Mapping[str, float]:
        """Running state before the first step."""
        ...

    @property
    def companions(self) -> Mapping[str, Companion]:
        """Modules that change beside the policy, by the name of their checkpoint file."""
        ...

    @property
    def has_evaluation(self) -> bool:
        """Whether anything is held out."""
        ...

    def step(self, progress: Progress) -> tuple[Progress, Row]:
        """Take the next step, a pure function of progress and weights; returns the new progress and a row of metrics.

        Raises:
          UserError: nothing was updated: the state is that before the step.
          HalfwayError: the step failed after a first update.
        """
        ...

    def evaluate(self, progress: Progress, stop: Callable[[], int]) -> Mapping[str, float] | None:
        """Held-out figures of the policy; None where `stop` gives a signal's number instead of 0."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """The end of a run.

    Attributes:
      progress: Position at the end.
      figures: Figures of the last evaluation; empty where there was none.
      signum: The signal that stopped it early; 0 where it ran to its end.
    """

    progress: Progress
    figures: Mapping[str, float] = field(default_factory=dict)
    signum: int = 0


@runtime_checkable
class Measure(Protocol):
    """Writes figures that the models in memory give into the run's folder, on the rank that leads."""

    def before(self, steps: Steps) -> None:
        """Look at the models as training finds them; a resumed run has its first weights here, too."""
        ...

    def after(self, steps: Steps) -> None:
        """Write the figures, after training and before the summary marks the run as finished."""
        ...


def train(
    run: OpenRun[Any],
    steps: Steps,
    trajectory: Mapping[str, object],
    measure: Measure | None = None,
    **about: object,
) -> Outcome:
    """Run the loop from the start, or from a checkpoint, to its end or a signal; it always writes a checkpoint.

    A run that reaches its end also writes its model and its summary.

    Args:
      run: The open run.
      steps: Its steps and evaluations.
      trajectory: Everything that determines the sequence of weights; stored with each checkpoint.
      measure: Called before and after training on the rank that leads.
      about: Further plain JSON for checkpoints and summary, such as the name of the reference.
    Raises:
      TrainingError: a loss, a gradient or a weight is not finite; the last good state is the newest checkpoint.
      CheckpointError: a checkpoint could not be read or written.
      UserError: a step could not be computed; the state before it is saved.
    """
    config, ranks = run.config, run.ranks
    about = run.about(trajectory, **about)
    figures: dict[str, float] = {}
    evaluated = -1
    if measure and ranks.leads:
        measure.before(steps)
    words = "the step under way ends, its state is saved, and the run stops" if ranks.leads else ""
    with stop_on_signals(words) as request, _open_keeper(run, steps, about) as keeper:

        def stop() -> int:
            return max_over_ranks(request.signum, ranks)

        every = config.eval_every or max(1, steps.num_steps // EVALUATIONS)
        while True:
            step = keeper.progress.step
            last = step >= steps.num_steps
            signum = stop()
            if last or signum:
                keeper.save()
            if signum:
                if ranks.leads:
                    _say_what_is_saved(config.out, step, steps.num_steps)
                break
            due = last or step % every == 0
            if steps.has_evaluation and due and evaluated != step:
                with keeper.saving_on_failure():
                    measured = steps.evaluate(keeper.progress, stop)
                if measured is None:
                    continue
                figures, evaluated = dict(measured), step
                with keeper.saving_on_failure():
                    is_over = keeper.weigh(figures)
                row = {"split": "eval", "step": step, "epoch": step / steps.steps_per_epoch, **figures}
                if is_over and not last:
                    keeper.save()  # before the row, so that a resumed run writes it again
                    about["ended_early"] = True
                keeper.tracker.write(row)
                last = last or is_over
            if last:
                break
            with keeper.saving_on_failure():
                keeper.progress, row = steps.step(keeper.progress)
            keeper.tracker.write(row)
            keeper.snapshot()  # before the checkpoint: a resumed run repeats nothing before it
            if config.save_every is not None and keeper.progress.step % config.save_every == 0:
                keeper.save()
    if not signum:
        rows_sha256 = keeper.tracker.hashed.hexdigest()
        finish(run, keeper.progress, figures, about, rows_sha256, lambda: measure and measure.after(steps))
    return Outcome(keeper.progress, figures, signum)


def _say_what_is_saved(out: str, step: int, num_steps: int) -> None:
    place = Path(out) / "checkpoints" / f"step-{step:06d}"
    log.info("stopped at step %d of %d; saved in %s: the same command goes on from there", step, num_steps, place)


@dataclass(eq=False)
class _Keeper:
    """State of a loop, and the writer of its checkpoints, snapshots and metrics.

    Attributes:
      run: The open run.
      steps: Its steps.
      about: Plain JSON for checkpoints.
      tracker: Writes the rows of metrics.
      progress: Position of the loop.
      saved: Step of the newest checkpoint; -1 before the first.
      best: The best evaluation.
      factor: Factor between the steps of snapshots; None where none are kept.
    """

    run: OpenRun[Any]
    steps: Steps
    about: Mapping[str, object]
    tracker: Tracker
    progress: Progress
    saved: int
    best: BestSoFar
    factor: float | None

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self.saved == self.progress.step:
            return
        rows, sha256 = self.tracker.num_rows, self.tracker.hashed.hexdigest()
        self.progress = replace(self.progress, rows=rows, rows_sha256=sha256)
        lead_first(self.run.ranks, self._write)
        self.saved = self.progress.step

    def snapshot(self) -> None:
        """Write the weights alone, if a snapshot is due at this step."""
        if self.factor is not None and is_snapshot_step(self.progress.step, self.factor):
            lead_first(self.run.ranks, lambda: self._write_weights(FOLDER, keep=None))

    def weigh(self, figures: Mapping[str, float]) -> bool:
        """Keep the weights if this evaluation is the best so far; returns whether too many brought no gain.

        Raises:
          ConfigError: `keep_best` names a figure that evaluations do not have.
        """
        config, step = self.run.config, self.progress.step
        if self.best.add(step, figures) and config.keep_best is not None:
            lead_first(self.run.ranks, lambda: self._write_weights(BEST_FOLDER, keep=1))
        if config.stop_after is None or self.best.without_gain < config.stop_after:
            return False
        log.info("stop_after=%d: no evaluation has been better than that of step %d", config.stop_after, self.best.step)
        return True

    @contextmanager
    def saving_on_failure(self) -> Iterator[None]:
        """Save the state before a step that could not be computed."""
        try:
            yield
        except HalfwayError:
            raise
        except UserError:  # on every rank, and nothing was updated
            self.save()
            raise

    def _write(self) -> None:
        if not self.run.ranks.leads:
            return
        model, companions = self.run.scorer.model, self.steps.companions
        for module in (model, *(companion.module for companion in companions.values() if companion.optimizer)):
            require_finite(module, self.progress.step)
        self.tracker.sync()
        state = capture(model, self.steps.optimizer, self.progress, self.about, companions)
        folder, keep = Path(self.run.config.out) / "checkpoints", self.run.config.keep_checkpoints
        save_checkpoint(folder, self.progress.step, state, keep=keep)

    def _write_weights(self, folder: str, *, keep: int | None) -> None:
        if self.run.ranks.leads:
            place, trajectory = Path(self.run.config.out) / folder, self.about["trajectory"]
            save_snapshot(place, self.run.scorer.model, self.progress.step, trajectory, keep=keep)


@contextmanager
def _open_keeper(run: OpenRun[Any], steps: Steps, about: Mapping[str, object]) -> Iterator[_Keeper]:
    """Restore the checkpoint that the run starts from, if any, and open its metrics.

    A TrainingError adds a last row with the reason; no checkpoint counts it, so a resumed run drops it.
    """
    progress = Progress(state=steps.state)
    if run.start:
        progress = restore(run.scorer.model, steps.optimizer, run.start, steps.companions)
    tracking = open_tracker(
        Path(run.config.out),
        leads=run.ranks.leads,
        num_steps=steps.num_steps,
        first_step=progress.step,
        keep_rows=progress.rows if run.start else None,
        sha256=progress.rows_sha256,
        trackers=lambda: open_trackers(
            run.config.track, TrackedRun(Path(run.config.out), run.config.model_dump(), progress.step)
        ),
    )
    with tracking as tracker:
        best = _best_before(run, progress.rows if run.start else 0)
        factor = snapshot_factor(run.config.snapshots, run.scorer.model, steps.num_steps)
        keeper = _Keeper(run, steps, about, tracker, progress, progress.step if run.start else -1, best, factor)
        try:
            yield keeper
        except TrainingError as error:
            tracker.write({"split": "stop", "step": keeper.progress.step, "error": str(error)})
            raise


def _best_before(run: OpenRun[Any], num_rows: int) -> BestSoFar:
    """The best evaluation among the rows that a checkpoint knows of; its figures decide as those of the run did.

    Where keep_best was another figure before, no evaluation counts: the weights of the best by this one are not kept.
    """
    best = BestSoFar(run.config.keep_best)
    path = Path(run.config.out) / "metrics.jsonl"
    if num_rows == 0 or not path.is_file():
        return best
    if run.start and run.config.keep_best != run.start.state.meta["config"].get("keep_best"):
        return best
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, itertools.islice(file, num_rows)):
            if row.get("split") == "eval":
                best.add(row["step"], row)
    return best
