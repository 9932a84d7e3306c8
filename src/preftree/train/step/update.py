"""One optimiser update on examples, which every supervised recipe shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from preftree.data.store.example import TokenExample
from preftree.errors import HalfwayError, TrainingError, out_of_memory
from preftree.losses.mean import mean_part
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import all_or_none, sum_gradients, sum_over_ranks
from preftree.scoring.scorer import Scorer
from preftree.train.step.batch import Batch, num_tokens
from preftree.train.step.step_scope import step_scope_gradients, whole_step
from preftree.train.step.task import places
from preftree.tree.to_device import send


class StepResult(NamedTuple):
    """Figures of a step.

    Attributes:
      columns: Each metric of each example of the step, float64, on the CPU, name -> [B].
      grad_norm: Global norm of the gradient before clipping.
      num_tokens: Tokens computed, over all ranks; where a step is scored twice, those of the pass with a gradient.
      num_alone: Tokens of the same responses with the prompt repeated in each.
      state: The loss's running state after the step.
    """

    columns: dict[str, Float[Tensor, " B"]]
    grad_norm: float
    num_tokens: int
    num_alone: int
    state: Mapping[str, float]


def take_step(
    batch: Batch,
    scorer: Scorer,
    optimizer: Optimizer,
    *,
    budget: int,
    max_grad_norm: float | None,
    ranks: Ranks,
    name: str = "step",
) -> StepResult:
    """Update the policy once.

    Args:
      batch: The step's examples, and their task.
      scorer: The policy.
      optimizer: Its optimiser, with the step's learning rate set.
      budget: Most tokens of a micro-batch.
      max_grad_norm: Global norm to clip to; None never clips.
      ranks: The ranks that share the step.
      name: Name of the step in errors.
    Raises:
      TrainingError: a metric or the gradient is not finite; raised before the update, and names the rows.
      HalfwayError: the device has no memory left for the update.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    task, device = batch.task, scorer.device
    state: Mapping[str, float] = {}
    if task.scope == "step":
        table, state, computed = step_scope_gradients(batch, scorer, budget, ranks)
    else:
        plans = batch.plan(scorer, budget, ranks)
        weights, divisor = batch.weights(device), batch.divisor
        table = torch.zeros(len(task.columns), len(batch.rows), dtype=torch.float64, device=device)
        gathered = batch.gathered(device) if task.state else None
        with all_or_none(ranks):
            for micro in plans[ranks.rank]:
                scores = batch.score(scorer, micro)
                loss, columns = task.loss(scores, [batch.examples[index] for index in micro.examples])
                index = send(np.array(micro.examples, np.int64), device)
                table.index_copy_(1, index, batch.table(columns))
                mean_part(loss, weights.index_select(0, index), divisor).backward()
                if gathered is not None:
                    gathered.enter(micro.examples, scores)
        if gathered is not None:
            with torch.no_grad(), all_or_none(ranks):
                state = whole_step(batch, batch.examples, gathered.finish(ranks))[2]
        table, computed = sum_over_ranks(table, ranks), num_tokens(plans)
    return _update(
        batch, table, state, computed, scorer, optimizer, max_grad_norm=max_grad_norm, ranks=ranks, name=name
    )


def _update(
    batch: Batch,
    table: Float[Tensor, "M B"],
    state: Mapping[str, float],
    computed: int,
    scorer: Scorer,
    optimizer: Optimizer,
    *,
    max_grad_norm: float | None,
    ranks: Ranks,
    name: str,
) -> StepResult:
    """Sum the gradients over ranks, check all figures, and update."""
    parameters = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    sum_gradients(parameters, ranks)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    on_host = torch.cat([table.flatten(), norm.double()[None]]).cpu()  # the step's one copy to the host
    columns = dict(zip(batch.task.columns, on_host[:-1].view_as(table), strict=True))
    result = StepResult(columns, float(on_host[-1]), computed, batch.num_tokens_alone, state)
    refuse_non_finite(
        name,
        batch.examples,
        columns,
        "nothing was updated: look at these rows, or start again in another out= with a lower lr",
    )
    if not np.isfinite([result.grad_norm, *state.values()]).all():
        subject = "the gradient's norm" if not np.isfinite(result.grad_norm) else "the loss's running state"
        shown = result.grad_norm if not np.isfinite(result.grad_norm) else dict(state)
        raise TrainingError(
            f"{name}: {subject} is {shown} though every loss is finite, over {places(batch.examples)}; "
            "nothing was updated: start again in another out= with a lower lr, or use precision=fp32"
        )
    if max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    try:
        optimizer.step()
    except torch.OutOfMemoryError as error:  # at the first step, which allocates the moments
        raise HalfwayError(
            f"{out_of_memory(error)} while the weights were updated; use optimizer=rmsprop or adamw_8bit, or lora"
        ) from error
    optimizer.zero_grad(set_to_none=True)
    return result


def refuse_non_finite(
    step: str, examples: Sequence[TokenExample], columns: Mapping[str, Float[Tensor, " B"]], advice: str
) -> None:
    """Stop at a metric that is not finite.

    Raises:
      TrainingError: one is not; its rows are named.
    """
    for name, values in columns.items():
        bad = (~values.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise TrainingError(
                f"{step}: {name} is {values[bad[0]].item()} for {places(examples[index] for index in bad)}; {advice}"
            )
