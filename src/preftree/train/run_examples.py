"""Examples of a supervised run: training and held-out rows, the number of steps, and the trajectory's entries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from preftree.config.base import RunConfig
from preftree.scoring.scorer import Scorer
from preftree.train.dataset import DataSplit, Subset, check_budget, num_steps, open_data, probe_rows
from preftree.train.objective import Objective
from preftree.train.open_run import OpenRun, adaptation, warmup_of
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")


@dataclass(frozen=True, eq=False, slots=True)
class RunExamples:
    """Examples of a run, and its number of steps.

    Attributes:
      train: The training rows.
      held_out: The held-out rows; None where there are none.
      config: The run's options.
      num_steps: Steps of the whole run.
      warmup: Steps of warm-up.
    """

    train: Subset
    held_out: Subset | None
    config: RunConfig
    num_steps: int
    warmup: int

    def probes(self) -> Sequence[Sequence[TokenSequence]]:
        """The responses of a few training rows, for the gates at the start."""
        return [self.train.store[row].sequences for row in probe_rows(self.train)]

    def held_out_probes(self) -> Sequence[Sequence[TokenSequence]]:
        """The responses of a few held-out rows; none where nothing is held out."""
        part = self.held_out
        return [] if part is None else [part.store[row].sequences for row in probe_rows(part, most=2)]

    def check_budget(self, scorer: Scorer) -> None:
        """Refuse an example that alone is larger than the micro-batch budget.

        Raises:
          ConfigError: an example is larger; it is named with its size.
        """
        for part in (self.train, self.held_out):
            if part is not None:
                check_budget(part, scorer.shares_prefixes, self.config.micro_batch_tokens)

    def describe(self) -> None:
        """Log numbers of examples and steps."""
        log.info(
            "%d examples (%d held out), %d steps of %d, %d of warm-up",
            len(self.train.rows),
            0 if self.held_out is None else len(self.held_out.rows),
            self.num_steps,
            min(self.config.batch_size, len(self.train.rows)),
            self.warmup,
        )
        if self.warmup >= self.num_steps:
            text = "the warm-up of %d steps is longer than the run: lr=%g is never reached"
            log.warning(text, self.warmup, self.config.lr)


def open_examples(run: OpenRun[RunConfig], objective: Objective | None = None) -> RunExamples:
    """Tokenise the files of a run, or open the stores of an earlier run; `objective` as in `open_data`.

    Raises:
      DataError: a file cannot be read, is of another kind, holds too many faults, or nothing that can be trained on.
    """
    data: DataSplit = open_data(run.config, run.tokenizer, run.ranks, objective)
    steps = num_steps(run.config, len(data.train.rows))
    return RunExamples(data.train, data.held_out, run.config, steps, warmup_of(run, steps))


def trajectory_of(run: OpenRun[RunConfig], data: RunExamples, **recipe: object) -> dict[str, object]:
    """Everything that determines the sequence of weights; paths, budgets and saving intervals do not.

    Args:
      run: The open run.
      data: Its examples.
      recipe: Further entries of the recipe, such as its loss and its reference.
    """
    config = run.config
    return {
        "recipe": config.recipe,
        **recipe,
        "weights of the model": run.policy.weights,
        **adaptation(run),
        "training data": data.train.store.digest,
        "held-out share": config.eval_data if isinstance(config.eval_data, float) else None,
        "data.order": config.data.order,
        **({"data.ranking_weight": "row"} if config.data.ranking_weight == "row" else {}),
        "seed": config.seed,
        "batch_size": config.batch_size,
        "precision": config.precision,
        **({"compile": True} if config.compile else {}),
        "optimizer": config.optimizer,
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "schedule": config.schedule,
        "steps of warm-up": data.warmup,
        **({"warmup_from_zero": True} if config.warmup_from_zero else {}),
        # Under a constant rate a longer run only adds steps; under a falling rate every step would differ.
        "steps of the schedule": None if config.schedule == "constant" else data.num_steps,
    }
