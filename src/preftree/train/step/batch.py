"""Batch of one optimiser step, or of one block of an evaluation: laid out in micro-batches, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.example import Examples, TokenExample
from preftree.errors import ConfigError
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import token_figures
from preftree.train.step.scores import Gathered, Moment, Scores, sequences_of
from preftree.train.step.task import Task
from preftree.tree.pack import MicroBatch, plan_step
from preftree.tree.to_device import send


class Batch:
    """Rows of a store under a task.

    Attributes:
      task: The loss and its metrics.
      store: The tokenised examples.
      rows: Indices of the batch's examples in the store, [B].
      moment: Seed, step number and running state.
      examples: The examples, read from the store once.
    """

    def __init__(self, task: Task, store: Examples, rows: Int[np.ndarray, " B"], moment: Moment | None = None) -> None:
        """Read the examples; the default moment is the first step of seed 0."""
        self.task, self.store, self.rows = task, store, rows
        self.moment = moment or Moment(state=task.state)
        self.examples: list[TokenExample] = [store[int(row)] for row in rows]

    @property
    def divisor(self) -> float:
        """Divisor of the sum of weighted losses."""
        return self.task.divisor(self.store, self.rows)

    @property
    def num_tokens_alone(self) -> int:
        """Tokens of the responses with the prompt repeated in each."""
        return sum(len(sequence.trimmed().ids) - 1 for example in self.examples for sequence in example.sequences)

    def plan(self, scorer: Scorer, budget: int, ranks: Ranks, *, borrowed: bool = True) -> list[list[MicroBatch]]:
        """Micro-batches for every rank; a pure function of the examples.

        Raises:
          ConfigError: an example alone is larger than the budget.
        """
        sequences = [sequences_of(example, borrowed) for example in self.examples]
        prompts = self.store.prompts[self.rows].tolist()
        try:
            return plan_step(sequences, prompts, budget=budget, num_ranks=ranks.size, sharing=scorer.sharing)
        except ValueError as error:
            raise ConfigError(f"micro_batch_tokens is too small ({error}); raise it, or lower max_length") from error

    def score(self, scorer: Scorer, micro: MicroBatch) -> Scores:
        """Scores of a micro-batch under the policy and its reference."""
        trees = micro.batch.to(scorer.device)
        sequences = [sequence for index in micro.examples for sequence in sequences_of(self.examples[index])]
        figures = self.task.reference.score(scorer, trees, sequences, **self.task.extras)
        return Scores(*figures, trees.count_R, self.rows[list(micro.examples)], self.moment)

    def score_again(self, scorer: Scorer, micro: MicroBatch) -> Scores:
        """The scores that carry a gradient, of a micro-batch without borrowed responses."""
        trees = micro.batch.to(scorer.device)
        if self.task.extras.get("kl"):
            sequences = [sequence for index in micro.examples for sequence in self.examples[index].sequences]
            figures = self.task.reference.score(scorer, trees, sequences, kl=True)
        else:
            figures = token_figures(scorer, trees)
        return Scores(*figures, trees.count_R, self.rows[list(micro.examples)], self.moment)

    def gathered(self, device: torch.device) -> Gathered:
        """Empty storage for the scores of all examples."""
        return Gathered(self.examples, self.rows, self.moment, device)

    def weights(self, device: torch.device) -> Float[Tensor, " B"]:
        """Weight of each example in the data."""
        return send(self.store.weights[self.rows], device)

    def table(self, columns: Mapping[str, Tensor]) -> Float[Tensor, "M B"]:
        """The metrics as a table, in the order of the task's names."""
        return torch.stack([columns[name].detach().double() for name in self.task.columns])


def num_tokens(plans: Sequence[Sequence[MicroBatch]]) -> int:
    """Tokens that the micro-batches of all ranks compute."""
    return sum(len(micro.batch.input_T) for plan in plans for micro in plan)
