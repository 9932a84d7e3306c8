"""The loop: steps, evaluations and checkpoints in an order that a stop at any moment cannot change.

A checkpoint is written right after its step, before an evaluation that is due there. A resumed run therefore meets the
evaluation again, and writes the row that the straight run would have written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from torch import nn
from torch.optim import Optimizer

from preftree.config.base import RunConfig
from preftree.config.recipes import AnyConfig
from preftree.errors import HalfwayError, TrainingError, UserError
from preftree.reference.moving import Follower
from preftree.run_folder.metrics import Row, open_tracker
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import lead_first, max_over_ranks
from preftree.runtime.signals import stop_on_signals
from preftree.scoring.scorer import Scorer
from preftree.storage.checkpoint import LoadedCheckpoint, save_checkpoint
from preftree.train.snapshots import is_snapshot_step, save_snapshot
from preftree.train.state import Beside, Progress, capture, require_finite, restore
from preftree.train.step.optimizer import learning_rate, set_learning_rate
from preftree.train.step.scores import Moment
from preftree.train.step.step import measure, take_step
from preftree.train.step.task import Task

Advance: TypeAlias = Callable[[Progress], tuple[Progress, Row]]
"""Makes the step after a progress, by it and by the weights alone; where the run is then, and the row to write.

A UserError before anything was updated is as if the step had not begun; one after that is a `HalfwayError`.
"""

Evaluate: TypeAlias = Callable[[Progress, Callable[[], int]], Mapping[str, float] | None]
"""Figures of the policy at a progress; None where the second argument, a signal's number or 0, said to stop."""


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """What to do, how often.

    Attributes:
      advance: Makes a step.
      num_steps: Steps of the whole run.
      steps_per_epoch: Steps of one pass over the data.
      evaluate: Measures the policy on what was held out; None where nothing was.
      about: Plain JSON that each checkpoint carries: what run it is of.
      state: Running state before the first step.
      reference: The reference, if it moves.
      critic: A module that is trained beside the policy, with its optimiser.
    """

    advance: Advance
    num_steps: int
    steps_per_epoch: int | float
    evaluate: Evaluate | None
    about: Mapping[str, object]
    state: Mapping[str, float] = field(default_factory=dict)
    reference: nn.Module | None = None
    critic: tuple[nn.Module, Optimizer] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
      progress: Where it ended.
      figures: Of the last evaluation; empty where there was none.
      signum: The signal that stopped it early; 0 where it ran to its end.
    """

    progress: Progress
    figures: Mapping[str, float]
    signum: int


def train(
    plan: Plan, scorer: Scorer, optimizer: Optimizer, config: AnyConfig, ranks: Ranks, *, start: LoadedCheckpoint | None
) -> Outcome:
    """Run the loop from the start, or from a checkpoint, to its end or a signal; it always leaves a checkpoint.

    Raises:
      TrainingError: a loss, a gradient or a weight is not finite; the last good state is the newest checkpoint.
      CheckpointError: a checkpoint could not be read or written.
      UserError: a step could not be computed; the state before it is saved.
    """
    beside = Beside(plan.reference, plan.critic)
    progress = restore(scorer.model, optimizer, start, beside) if start else Progress(state=plan.state)
    saved, evaluated = progress.step if start else -1, -1
    figures: dict[str, float] = {}
    out = Path(config.out)
    with ExitStack() as stack:
        request = stack.enter_context(stop_on_signals())
        tracker = stack.enter_context(
            open_tracker(
                out,
                leads=ranks.leads,
                num_steps=plan.num_steps,
                first_step=progress.step,
                keep_rows=progress.rows if start else None,
            )
        )

        @contextmanager
        def noting_a_stop() -> Iterator[None]:
            """Leave a last row that says why; no checkpoint counts it, so a resumed run drops it."""
            try:
                yield
            except TrainingError as error:
                tracker.write({"split": "stop", "step": progress.step, "error": str(error)})
                raise

        stack.enter_context(noting_a_stop())

        def asked_to_stop() -> int:
            return max_over_ranks(request.signum, ranks)

        def save() -> None:
            nonlocal progress, saved
            progress = replace(progress, rows=tracker.num_rows)

            def write() -> None:
                if ranks.leads:
                    require_finite(scorer.model, progress.step)
                    if plan.critic is not None:
                        require_finite(plan.critic[0], progress.step)
                    tracker.sync()
                    state = capture(scorer.model, optimizer, progress, plan.about, beside)
                    save_checkpoint(out / "checkpoints", progress.step, state, keep=config.keep_checkpoints)

            lead_first(ranks, write)
            saved = progress.step

        def snapshot() -> None:
            if ranks.leads:
                save_snapshot(out, scorer.model, progress.step, plan.about.get("trajectory"))

        @contextmanager
        def saving_on_failure() -> Iterator[None]:
            try:
                yield
            except HalfwayError:
                raise
            except UserError:  # on every rank, and nothing was updated
                if saved != progress.step:
                    save()
                raise

        while True:
            step = progress.step
            last = step >= plan.num_steps
            stop = asked_to_stop()
            if (last or stop) and saved != step:
                save()
            if stop:
                break
            due = last or (config.eval_every is not None and step > 0 and step % config.eval_every == 0)
            if plan.evaluate and due and evaluated != step:
                with saving_on_failure():
                    found = plan.evaluate(progress, asked_to_stop)
                if found is None:
                    continue
                figures, evaluated = dict(found), step
                tracker.write({"split": "eval", "step": step, "epoch": step / plan.steps_per_epoch, **figures})
            if last:
                break
            with saving_on_failure():
                progress, row = plan.advance(progress)
            tracker.write(row)
            if is_snapshot_step(progress.step, config.snapshots):  # before the checkpoint, which is not gone behind
                lead_first(ranks, snapshot)
            if config.save_every is not None and progress.step % config.save_every == 0:
                save()
    return Outcome(progress, figures, stop)


def supervised(
    task: Task,
    steps: Callable[[int], Iterator[Int[np.ndarray, " B"]]],
    num_steps: int,
    steps_per_epoch: int,
    scorer: Scorer,
    optimizer: Optimizer,
    config: RunConfig,
    ranks: Ranks,
    follower: Follower | None = None,
) -> Advance:
    """Steps on examples that are there beforehand: one update each.

    Args:
      task: The training examples and their loss.
      steps: The rows of each step from a given one on; pure, so a resumed run meets what it would have met.
      num_steps: Steps of the whole run.
      steps_per_epoch: Steps of one pass over the data.
      scorer: The policy.
      optimizer: Its optimiser.
      config: The run's options.
      ranks: The ranks.
      follower: The reference, if it moves.
    """
    coming: Iterator[Int[np.ndarray, " B"]] | None = None

    def advance(progress: Progress) -> tuple[Progress, Row]:
        nonlocal coming
        began = time.perf_counter()
        coming = coming or steps(progress.step)
        rows = next(coming)
        lr = learning_rate(progress.step, config, num_steps)
        set_learning_rate(optimizer, lr)
        result = take_step(
            task,
            rows,
            scorer,
            optimizer,
            budget=config.micro_batch_tokens,
            max_grad_norm=config.max_grad_norm,
            ranks=ranks,
            name=f"step {progress.step + 1}",
            moment=Moment(config.seed, progress.step, progress.state),
        )
        if follower is not None:
            follower.follow(scorer.model, progress.step + 1)
        seconds = time.perf_counter() - began
        progress = replace(
            progress,
            step=progress.step + 1,
            examples=progress.examples + len(rows),
            tokens=progress.tokens + result.num_tokens,
            tokens_alone=progress.tokens_alone + result.num_alone,
            seconds=progress.seconds + seconds,
            state=dict(result.state),
        )
        return progress, {
            "step": progress.step,
            "epoch": progress.step / steps_per_epoch,
            **task.figures(result.columns, rows),
            **progress.state,
            "grad_norm": result.grad_norm,
            "lr": lr,
            task.unit: progress.examples,
            "tokens": progress.tokens,
            f"{task.unit}_per_second": len(rows) / seconds,
            "seconds": progress.seconds,
        }

    return advance


def held_out(task: Task, rows: Int[np.ndarray, " N"], scorer: Scorer, config: RunConfig, ranks: Ranks) -> Evaluate:
    """The figures of a task over rows that are not trained on, and their number."""

    def evaluate(progress: Progress, stop: Callable[[], int]) -> Mapping[str, float] | None:
        found = measure(
            task,
            rows,
            scorer,
            budget=config.micro_batch_tokens,
            ranks=ranks,
            stop=stop,
            name=f"evaluation after step {progress.step}",
            moment=Moment(config.seed, progress.step, progress.state),
        )
        return None if found is None else found | {task.unit: len(rows)}

    return evaluate
