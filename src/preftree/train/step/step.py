"""One optimiser step, and one pass of evaluation: what every recipe shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from preftree.data.store.store import TokenExample
from preftree.errors import HalfwayError, TrainingError, out_of_memory
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import sum_gradients
from preftree.scoring.scorer import Scorer
from preftree.train.step.gradients import Selection, all_or_none, at_once, by_example, through_the_step
from preftree.train.step.scores import Moment, Scores, join_scores
from preftree.train.step.task import Task, places


class StepResult(NamedTuple):
    """What came of a step.

    Attributes:
      columns: Each metric of each example of the step, float64, on the CPU, name -> [B].
      grad_norm: Global norm of the gradient before clipping.
      num_tokens: Tokens computed, over all ranks; where a step is scored twice, those of the pass with a gradient.
      num_alone: Tokens of the same responses, each in a row of its own with its prompt.
      state: The loss's running state after it.
    """

    columns: dict[str, Float[Tensor, " B"]]
    grad_norm: float
    num_tokens: int
    num_alone: int
    state: Mapping[str, float]


def take_step(
    task: Task,
    rows: Int[np.ndarray, " B"],
    scorer: Scorer,
    optimizer: Optimizer,
    *,
    budget: int,
    max_grad_norm: float | None,
    ranks: Ranks,
    name: str = "step",
    moment: Moment | None = None,
) -> StepResult:
    """Move the policy by one update.

    Args:
      task: The examples and their loss.
      rows: Which of the examples make this step, [B].
      scorer: The policy.
      optimizer: Its optimiser, with the step's learning rate set.
      budget: Most tokens of a micro-batch.
      max_grad_norm: Global norm to clip to; None never clips.
      ranks: The ranks that share the step.
      name: What an error calls this step.
      moment: When this is; by default the first step of seed 0.
    Raises:
      TrainingError: a metric or the gradient is not finite; raised before the update, with the rows' places.
      HalfwayError: the device has no memory left for the update.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    moment = moment or Moment(state=task.state)
    part = Selection(task, rows, [task.examples[int(row)] for row in rows], moment)
    backward = through_the_step if task.scope == "step" else by_example
    table, state, num_tokens = backward(part, scorer, budget, ranks)
    parameters = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    sum_gradients(parameters, ranks)

    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    on_host = torch.cat([table.flatten(), norm.double()[None]]).cpu()  # the step's one copy to the host
    columns = dict(zip(task.columns, on_host[:-1].view_as(table), strict=True))
    num_alone = sum(len(s.trimmed().ids) - 1 for example in part.examples for s in example.sequences)
    result = StepResult(columns, float(on_host[-1]), num_tokens, num_alone, state)
    _refuse_non_finite(name, part.examples, columns, "nothing was updated: look at these rows, or lower lr")
    if not np.isfinite([result.grad_norm, *state.values()]).all():
        what = "the gradient's norm" if not np.isfinite(result.grad_norm) else "the loss's running state"
        shown = result.grad_norm if not np.isfinite(result.grad_norm) else dict(state)
        raise TrainingError(
            f"{name}: {what} is {shown} though every loss is finite, over {places(part.examples)}; "
            "nothing was updated: lower lr, or use precision=fp32"
        )

    if max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    try:
        optimizer.step()
    except torch.OutOfMemoryError as error:  # at the first step, when it makes its moments
        raise HalfwayError(
            f"{out_of_memory(error)} while the weights were updated; use optimizer=rmsprop or adamw_8bit, or lora"
        ) from error
    optimizer.zero_grad(set_to_none=True)
    return result


def measure(
    task: Task,
    rows: Int[np.ndarray, " N"],
    scorer: Scorer,
    *,
    budget: int,
    ranks: Ranks,
    block: int = 256,
    stop: Callable[[], int] = lambda: 0,
    name: str = "evaluation",
    moment: Moment | None = None,
) -> dict[str, float] | None:
    """Figures over `rows`, without gradients; None where `stop` said so between two blocks.

    A loss whose value depends on its step takes all `rows` as one step.

    Raises:
      TrainingError: a metric is not finite; the rows' places are named.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    moment = moment or Moment(state=task.state)
    found: list[tuple[list[TokenExample], Scores]] = []
    tables = []

    def evaluate(examples: Sequence[TokenExample], scores: Scores) -> None:
        with torch.no_grad(), all_or_none(ranks):
            if task.scope == "step":
                values = at_once(task, examples, scores, scores.rows)[1]
            else:
                values = task.value(scores, examples).columns
            columns = {name: column.double().cpu() for name, column in values.items()}
        _refuse_non_finite(name, examples, columns, "look at these rows, or start again with a lower lr")
        tables.append(columns)

    for start in range(0, len(rows), block):
        if stop():
            return None
        some = rows[start : start + block]
        part = Selection(task, some, [task.examples[int(row)] for row in some], moment)
        gathered = part.gathered(scorer.device)
        plans = part.plan(scorer, budget, ranks)
        with torch.no_grad(), all_or_none(ranks):
            for micro in plans[ranks.rank]:
                gathered.enter(micro.examples, part.score(scorer, micro))
        scores = gathered.finish(ranks)
        if task.scope == "example":
            evaluate(part.examples, scores)
        else:
            found.append((list(part.examples), scores))
    if found:
        evaluate([example for examples, _ in found for example in examples], join_scores([s for _, s in found]))
    return task.figures({name: torch.cat([table[name] for table in tables]) for name in task.columns}, rows)


def _refuse_non_finite(
    step: str, examples: Sequence[TokenExample], columns: Mapping[str, Float[Tensor, " B"]], advice: str
) -> None:
    for name, values in columns.items():
        bad = (~values.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise TrainingError(
                f"{step}: {name} is {values[bad[0]].item()} for {places(examples[index] for index in bad)}; {advice}"
            )
