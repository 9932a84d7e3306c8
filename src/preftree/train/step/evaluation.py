"""One pass of evaluation over examples, which every supervised recipe shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from preftree.data.store.example import Examples, TokenExample
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import all_or_none
from preftree.scoring.scorer import Scorer
from preftree.train.step.batch import Batch
from preftree.train.step.scores import Moment, Scores, join_scores
from preftree.train.step.step_scope import whole_step
from preftree.train.step.task import Task
from preftree.train.step.update import refuse_non_finite


def measure(
    task: Task,
    store: Examples,
    rows: Int[np.ndarray, " N"],
    scorer: Scorer,
    *,
    budget: int,
    ranks: Ranks,
    moment: Moment | None = None,
    held_out: bool = False,
    block: int = 256,
    stop: Callable[[], int] = lambda: 0,
    name: str = "evaluation",
) -> dict[str, float] | None:
    """Figures over `rows` of a store, without gradients; None where `stop` returns a signal's number between blocks.

    A loss that depends on the whole step takes all `rows` as one step.

    Raises:
      TrainingError: a metric is not finite; the rows are named.
      ConfigError: an example alone is larger than the budget.
      UserError: another rank could not compute its part.
    """
    moment = moment or Moment(state=task.state)
    waiting: list[tuple[Batch, Scores]] = []
    tables: list[dict[str, Tensor]] = []

    def evaluate(batch: Batch, examples: Sequence[TokenExample], scores: Scores) -> None:
        with torch.no_grad(), all_or_none(ranks):
            if task.scope == "step":
                values = whole_step(batch, examples, scores)[1]
            else:
                values = task.loss(scores, examples)[1]
            columns = {name: column.double().cpu() for name, column in values.items()}
        refuse_non_finite(name, examples, columns, "look at these rows, or start again with a lower lr")
        tables.append(columns)

    for start in range(0, len(rows), block):
        if stop():
            return None
        batch = Batch(task, store, rows[start : start + block], moment)
        gathered = batch.gathered(scorer.device)
        plans = batch.plan(scorer, budget, ranks)
        with torch.no_grad(), all_or_none(ranks):
            for micro in plans[ranks.rank]:
                gathered.enter(micro.examples, batch.score(scorer, micro))
        scores = gathered.finish(ranks)
        if task.scope == "example":
            evaluate(batch, batch.examples, scores)
        else:
            waiting.append((batch, scores))
    if waiting:
        examples = [example for batch, _ in waiting for example in batch.examples]
        evaluate(waiting[0][0], examples, join_scores([scores for _, scores in waiting]))
    columns = {name: torch.cat([table[name] for table in tables]) for name in task.columns}
    return task.figures(columns, store, rows, held_out=held_out)
