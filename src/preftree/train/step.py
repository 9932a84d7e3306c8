"""One optimiser step, and one pass of evaluation: what every recipe shares.

A step is cut into micro-batches and dealt to ranks as memory allows. Its loss is divided by a total known before any
forward, gradients are summed over ranks, and each figure is kept per example until all are together, so that no cut
moves the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from preftree.data.store import TokenExample
from preftree.distributed.reduce import max_over_ranks, sum_gradients, sum_over_ranks
from preftree.distributed.world import World
from preftree.errors import ConfigError, TrainingError, UserError
from preftree.losses.inputs import ResponseLogps
from preftree.losses.mean import mean_part
from preftree.scoring.forward import Scorer
from preftree.tree.pack import MicroBatch, plan_step
from preftree.tree.segment import sum_responses


@runtime_checkable
class Examples(Protocol):
    """Tokenised examples, as data/store.py keeps them."""

    num_scored: Int[np.ndarray, " N"]
    weights: Float[np.ndarray, " N"]
    prompts: Int[np.ndarray, " N"]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TokenExample: ...


class Values(NamedTuple):
    """What a loss and its metrics say of P examples.

    Attributes:
      loss: Loss of each example, carries gradient, [P].
      columns: Metrics of each example, detached, name -> [P].
    """

    loss: Float[Tensor, " P"]
    columns: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Examples, and what a recipe makes of them.

    Attributes:
      unit: What an example is called in the metrics: `pairs`, say.
      examples: The tokenised examples.
      columns: Names of the metrics that `value` returns, in the order of a step's table.
      value: Loss and metrics of some examples from the policy's summed log-probs of their responses.
      divisor: What the sum of weighted losses over these rows is divided by.
      figures: Means over all these rows, from a name -> [B] table of their metrics.
    """

    unit: str
    examples: Examples
    columns: tuple[str, ...]
    value: Callable[[ResponseLogps, Sequence[TokenExample]], Values]
    divisor: Callable[[Int[np.ndarray, " B"]], float]
    figures: Callable[[Mapping[str, Float[Tensor, " B"]], Int[np.ndarray, " B"]], dict[str, float]]


class StepResult(NamedTuple):
    """What came of a step.

    Attributes:
      columns: Each metric of each example of the step, float64, on the CPU, name -> [B].
      grad_norm: Global norm of the gradient before clipping.
      num_tokens: Tokens computed, over all ranks.
      num_alone: Tokens of the same responses, each in a row of its own with its prompt.
    """

    columns: dict[str, Float[Tensor, " B"]]
    grad_norm: float
    num_tokens: int
    num_alone: int


def take_step(
    task: Task,
    rows: Int[np.ndarray, " B"],
    scorer: Scorer,
    optimizer: Optimizer,
    *,
    budget: int,
    max_grad_norm: float | None,
    world: World,
    name: str = "step",
) -> StepResult:
    """Move the policy by one update.

    Args:
      task: The examples and their loss.
      rows: Which of the examples make this step, [B].
      scorer: The policy.
      optimizer: Its optimiser, with the step's learning rate set.
      budget: Most tokens of a micro-batch.
      max_grad_norm: Global norm to clip to; None never clips.
      world: The ranks that share the step.
      name: What an error calls this step.
    Raises:
      TrainingError: a metric or the gradient is not finite; raised before the update, with the rows' places.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    examples = [task.examples[int(row)] for row in rows]
    plans = plan(task, rows, examples, scorer, budget, world)
    weights = torch.from_numpy(task.examples.weights[rows]).to(scorer.device)
    total = task.divisor(rows)
    table = torch.zeros(len(task.columns), len(rows), dtype=torch.float64, device=scorer.device)
    with _all_or_none(world):
        for micro in plans[world.rank]:
            loss, index = _value(task, scorer, examples, micro, table)
            mean_part(loss, weights.index_select(0, index), total).backward()
    parameters = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    sum_gradients(parameters, world)
    sum_over_ranks(table, world)

    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    on_host = torch.cat([table.flatten(), norm.double()[None]]).cpu()  # the step's one copy to the host
    columns = dict(zip(task.columns, on_host[:-1].view_as(table), strict=True))
    num_tokens = sum(len(micro.batch.input_T) for own in plans for micro in own)
    num_alone = sum(len(sequence.trimmed().ids) - 1 for example in examples for sequence in example.sequences)
    result = StepResult(columns, float(on_host[-1]), num_tokens, num_alone)
    _refuse_non_finite(name, examples, columns, "nothing was updated: look at these rows, or lower lr")
    if not np.isfinite(result.grad_norm):
        raise TrainingError(
            f"{name}: the gradient's norm is {result.grad_norm} though every loss is finite, over {places(examples)}; "
            "nothing was updated: lower lr, or use precision=fp32"
        )

    if max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return result


def measure(
    task: Task,
    rows: Int[np.ndarray, " N"],
    scorer: Scorer,
    *,
    budget: int,
    world: World,
    block: int = 256,
    stop: Callable[[], int] = lambda: 0,
    name: str = "evaluation",
) -> dict[str, float] | None:
    """Figures over `rows`, example by example, without gradients; None where `stop` said so between two blocks.

    Raises:
      TrainingError: a metric is not finite; the rows' places are named.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    parts = []
    for start in range(0, len(rows), block):
        if stop():
            return None
        some = rows[start : start + block]
        examples = [task.examples[int(row)] for row in some]
        table = torch.zeros(len(task.columns), len(some), dtype=torch.float64, device=scorer.device)
        plans = plan(task, some, examples, scorer, budget, world)
        with torch.no_grad(), _all_or_none(world):
            for micro in plans[world.rank]:
                _value(task, scorer, examples, micro, table)
        parts.append(sum_over_ranks(table, world).cpu())
        columns = dict(zip(task.columns, parts[-1], strict=True))
        _refuse_non_finite(name, examples, columns, "look at these rows, or start again with a lower lr")
    return task.figures(dict(zip(task.columns, torch.cat(parts, dim=1), strict=True)), rows)


def plan(
    task: Task,
    rows: Int[np.ndarray, " B"],
    examples: Sequence[TokenExample],
    scorer: Scorer,
    budget: int,
    world: World,
) -> list[list[MicroBatch]]:
    """Micro-batches of a step for every rank; a pure function of its arguments.

    Raises:
      ConfigError: an example alone is larger than the budget.
    """
    sequences = [example.sequences for example in examples]
    prompts = task.examples.prompts[rows].tolist()
    try:
        return plan_step(sequences, prompts, budget=budget, world=world.size, share=scorer.shares_prefixes)
    except ValueError as error:
        raise ConfigError(f"micro_batch_tokens is too small ({error}); raise it, or lower max_length") from error


def _value(
    task: Task, scorer: Scorer, examples: Sequence[TokenExample], micro: MicroBatch, table: Tensor
) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Score a micro-batch, enter its metrics into the step's table, and return its losses and their places there."""
    trees = micro.batch.to(scorer.device)
    policy = sum_responses(scorer(trees), trees.count_R)
    loss, columns = task.value(policy, [examples[index] for index in micro.examples])
    index = torch.tensor(micro.examples, dtype=torch.int64, device=scorer.device)
    table.index_copy_(1, index, torch.stack([columns[name].detach().double() for name in task.columns]))
    return loss, index


@contextmanager
def _all_or_none(world: World) -> Iterator[None]:
    """What one rank alone meets stops all of them; else the others would wait for its sums."""
    try:
        yield
    except UserError:
        max_over_ranks(1, world)
        raise
    if max_over_ranks(0, world):
        raise UserError("another process has stopped the run; its own message says why")


def _refuse_non_finite(
    step: str, examples: Sequence[TokenExample], columns: Mapping[str, Float[Tensor, " B"]], advice: str
) -> None:
    for name, values in columns.items():
        bad = (~values.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise TrainingError(
                f"{step}: {name} is {values[bad[0]].item()} for {places(examples[index] for index in bad)}; {advice}"
            )


def places(examples: Iterable[TokenExample], most: int = 8) -> str:
    """Where examples came from, the first few by name."""
    names = [str(example.provenance) for example in examples]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
