"""The gradient of one optimiser step, whatever micro-batches and ranks it is computed in.

A step is cut as memory allows. Its loss is divided by a total known before any forward, gradients are summed over
ranks, and each figure is kept per example until all are together, so that no cut moves the trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.store import TokenExample
from preftree.errors import ConfigError, TrainingError, UserError, out_of_memory
from preftree.losses.mean import mean_part, repeats
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import max_over_ranks, sum_over_ranks
from preftree.scoring.scorer import Scorer
from preftree.train.step.scores import Gathered, Moment, Scores, Views, repeat_scores, score, sequences_of
from preftree.train.step.task import Task
from preftree.tree.pack import MicroBatch, plan_step
from preftree.tree.to_device import send


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """The examples of a step, or some to evaluate."""

    task: Task
    rows: Int[np.ndarray, " B"]
    examples: Sequence[TokenExample]
    moment: Moment

    def plan(self, scorer: Scorer, budget: int, ranks: Ranks, *, borrowed: bool = True) -> list[list[MicroBatch]]:
        """Micro-batches for every rank; a pure function of the lengths.

        Raises:
          ConfigError: an example alone is larger than the budget.
        """
        sequences = [sequences_of(example, borrowed) for example in self.examples]
        prompts = self.task.examples.prompts[self.rows].tolist()
        try:
            return plan_step(sequences, prompts, budget=budget, num_ranks=ranks.size, share=scorer.shares_prefixes)
        except ValueError as error:
            raise ConfigError(f"micro_batch_tokens is too small ({error}); raise it, or lower max_length") from error

    def score(self, scorer: Scorer, micro: MicroBatch) -> Scores:
        """What the models say of a micro-batch."""
        return score(scorer, self.task.views, self.examples, micro, self.rows, self.moment)

    def score_again(self, scorer: Scorer, micro: MicroBatch) -> Scores:
        """Only what carries a gradient, of a micro-batch without what its examples borrow."""
        views = self.task.views
        only = Views(live=views.live, kl=True) if views.kl else Views()
        return score(scorer, only, self.examples, micro, self.rows, self.moment, borrowed=False)

    def gathered(self, device: torch.device) -> Gathered:
        """Room for the scores of all examples."""
        return Gathered(self.examples, self.rows, self.moment, device)

    def weights(self, device: torch.device) -> Float[Tensor, " B"]:
        """Weight of each example in the data."""
        return send(self.task.examples.weights[self.rows], device)

    def stacked(self, columns: Mapping[str, Tensor]) -> Float[Tensor, "M B"]:
        """The metrics as a table, in the order of the task's names."""
        return torch.stack([columns[name].detach().double() for name in self.task.columns])


def by_example(
    part: Selection, scorer: Scorer, budget: int, ranks: Ranks
) -> tuple[Float[Tensor, "M B"], Mapping[str, float], int]:
    """Gradients where each value is its example's own; the table of metrics, the next state, and tokens computed."""
    task, device = part.task, scorer.device
    plans = part.plan(scorer, budget, ranks)
    weights, total = part.weights(device), task.divisor(part.rows)
    table = torch.zeros(len(task.columns), len(part.rows), dtype=torch.float64, device=device)
    gathered = part.gathered(device)
    with all_or_none(ranks):
        for micro in plans[ranks.rank]:
            scores = part.score(scorer, micro)
            loss, columns = task.value(scores, [part.examples[index] for index in micro.examples])
            index = send(np.array(micro.examples, np.int64), device)
            table.index_copy_(1, index, part.stacked(columns))
            mean_part(loss, weights.index_select(0, index), total).backward()
            if task.advance is not None:
                gathered.enter(micro.examples, scores)
    state: Mapping[str, float] = {}
    if task.advance is not None:
        with torch.no_grad(), all_or_none(ranks):
            state = at_once(task, part.examples, gathered.finish(ranks), part.rows)[2]
    return sum_over_ranks(table, ranks), state, _num_tokens(plans)


def through_the_step(
    part: Selection, scorer: Scorer, budget: int, ranks: Ranks
) -> tuple[Float[Tensor, "M B"], Mapping[str, float], int]:
    """As `by_example` where a value depends on the whole step.

    All is scored without a gradient, the loss is taken on the whole, and what it says of each token's log-prob goes
    back through the micro-batches, which are scored again for it; a rank that has only one keeps its graph instead.
    """
    task, device = part.task, scorer.device
    plans = part.plan(scorer, budget, ranks)
    once = len(plans[0]) == 1  # the same number on every rank
    gathered = part.gathered(device)
    kept = []
    with all_or_none(ranks):
        for micro in plans[ranks.rank]:
            with torch.set_grad_enabled(once):
                scores = part.score(scorer, micro)
            gathered.enter(micro.examples, scores)
            if once:
                kept.append(scores)
    whole = gathered.finish(ranks)
    if not once:
        plans = part.plan(scorer, budget, ranks, borrowed=False)
    with all_or_none(ranks):
        leaves = [leaf.requires_grad_() for leaf in (whole.policy, whole.kl) if leaf is not None]
        loss, columns, state = at_once(task, part.examples, whole, part.rows)
        mean = mean_part(loss, part.weights(device), task.divisor(part.rows))
        slopes = torch.autograd.grad(mean, leaves, materialize_grads=True)
        for leaf in leaves:
            leaf.requires_grad_(False)
        for number, micro in enumerate(plans[ranks.rank]):
            scores = kept[number] if once else part.score_again(scorer, micro)
            places = gathered.places(micro.examples, borrowed=once)
            graphs = [graph for graph in (scores.policy, scores.kl) if graph is not None]
            pairs = zip(slopes, graphs, strict=True)
            torch.stack([(slope[places] * graph.double()).sum() for slope, graph in pairs]).sum().backward()
    return part.stacked(columns), state, _num_tokens(plans)


def at_once(
    task: Task, examples: Sequence[TokenExample], scores: Scores, rows: Int[np.ndarray, " B"]
) -> tuple[Float[Tensor, " B"], Mapping[str, Tensor], Mapping[str, float]]:
    """Loss, metrics and next state of examples that are seen together; a weight of 2 is the example twice."""
    counts = repeats(task.examples.weights[rows])
    if counts.max(initial=1) > 1:
        scores = repeat_scores(scores, examples, counts)
        examples = [example for example, count in zip(examples, counts.tolist(), strict=True) for _ in range(count)]
    loss, columns = task.value(scores, examples)
    state = {} if task.advance is None else task.advance(scores.detached(), examples)
    times = send(counts, loss.device)

    def of_each(values: Tensor) -> Tensor:
        return torch.segment_reduce(values.double(), "mean", lengths=times, unsafe=True)

    return of_each(loss), {name: of_each(values) for name, values in columns.items()}, state


def _num_tokens(plans: Sequence[Sequence[MicroBatch]]) -> int:
    return sum(len(micro.batch.input_T) for own in plans for micro in own)


@contextmanager
def all_or_none(ranks: Ranks) -> Iterator[None]:
    """What one rank alone meets stops all of them; else the others would wait for its sums.

    Raises:
      TrainingError: the device has no memory left.
    """
    try:
        yield
    except UserError:
        max_over_ranks(1, ranks)
        raise
    except torch.OutOfMemoryError as error:
        max_over_ranks(1, ranks)
        raise TrainingError(
            f"{out_of_memory(error)}; lower micro_batch_tokens, or raise gradient_checkpointing: "
            "neither changes what is learned"
        ) from error
    if max_over_ranks(0, ranks):
        raise UserError("another process has stopped the run; its own message says why")
