"""Steps on tokenised examples: one update each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from torch.optim import Optimizer

from preftree.config.base import RunConfig
from preftree.data.order import steps_per_epoch
from preftree.reference.moving import MovingReference
from preftree.run_folder.metrics_file import Row
from preftree.train.dataset import steps_from
from preftree.train.open_run import OpenRun
from preftree.train.run_examples import RunExamples
from preftree.train.state import Companion, Progress
from preftree.train.step.batch import Batch
from preftree.train.step.evaluation import measure
from preftree.train.step.optimizer import build_optimizer, learning_rate, set_learning_rate
from preftree.train.step.scores import Moment
from preftree.train.step.task import Task
from preftree.train.step.update import take_step


class SupervisedSteps:
    """Steps of a run on examples.

    Attributes:
      run: The open run.
      data: Its examples.
      task: Their loss and metrics.
      optimizer: The policy's optimiser.
      num_steps: Steps of the whole run.
      steps_per_epoch: Steps of one pass over the data.
    """

    def __init__(self, run: OpenRun[RunConfig], data: RunExamples, task: Task) -> None:
        """Build the optimiser."""
        self.run, self.data, self.task = run, data, task
        self._scorer = run.scorer
        self.optimizer: Optimizer = build_optimizer(run.scorer, run.config)
        self.num_steps = data.num_steps
        self.steps_per_epoch: float = steps_per_epoch(len(data.train.rows), run.config.batch_size)
        # A share is resolved once: of a longer run it would be another number of steps.
        self._optimisation = run.config.model_copy(update={"warmup_steps": data.warmup})
        self._coming: Iterator[Int[np.ndarray, " B"]] | None = None

    @property
    def state(self) -> Mapping[str, float]:
        """Running state of the loss before the first step."""
        return self.task.state

    @property
    def companions(self) -> Mapping[str, Companion]:
        """The reference, where it moves with the policy."""
        reference = self.task.reference
        return {"reference": Companion(reference.model)} if isinstance(reference, MovingReference) else {}

    @property
    def has_evaluation(self) -> bool:
        """Whether rows are held out."""
        return self.data.held_out is not None

    def step(self, progress: Progress) -> tuple[Progress, Row]:
        """Take the next step; returns the new progress and a row of metrics.

        Raises:
          UserError: nothing was updated.
          HalfwayError: the update failed.
        """
        config, task = self.run.config, self.task
        began = time.perf_counter()
        # A pure function of the step, so that a resumed run reads the same rows.
        self._coming = self._coming or steps_from(self.data.train, config, progress.step, self.num_steps)
        rows = next(self._coming)
        lr = learning_rate(progress.step, self._optimisation, self.num_steps)
        set_learning_rate(self.optimizer, lr)
        batch = Batch(task, self.data.train.store, rows, Moment(config.seed, progress.step, progress.state))
        result = take_step(
            batch,
            self._scorer,
            self.optimizer,
            budget=config.micro_batch_tokens,
            max_grad_norm=config.max_grad_norm,
            ranks=self.run.ranks,
            name=f"step {progress.step + 1}",
        )
        if isinstance(task.reference, MovingReference):
            task.reference.follow(self._scorer.model, progress.step + 1)
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
            "epoch": progress.step / self.steps_per_epoch,
            **task.figures(result.columns, self.data.train.store, rows),
            **progress.state,
            "grad_norm": result.grad_norm,
            "lr": lr,
            task.unit: progress.examples,
            "tokens": progress.tokens,
            f"{task.unit}_per_second": len(rows) / seconds,
            "seconds": progress.seconds,
        }

    def evaluate(self, progress: Progress, stop: Callable[[], int]) -> Mapping[str, float] | None:
        """Figures of the task over the held-out rows, and their number; None where `stop` returns a signal's number."""
        config, split = self.run.config, self.data.held_out
        assert split is not None
        figures = measure(
            self.task,
            split.store,
            split.rows,
            self._scorer,
            budget=config.micro_batch_tokens,
            ranks=self.run.ranks,
            moment=Moment(config.seed, progress.step, progress.state),
            held_out=True,
            stop=stop,
            name=f"evaluation after step {progress.step}",
        )
        return None if figures is None else figures | {self.task.unit: len(split.rows)}
