"""Losses that depend on the whole step: their value, and the gradient through micro-batches.

A step is split as memory allows. Its loss is divided by a total known before any forward, gradients are summed over
ranks, and each figure is kept per example until all are collected, so no split changes the trajectory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.data.store.example import TokenExample
from preftree.losses.mean import mean_part, repeats
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import all_or_none
from preftree.scoring.scorer import Scorer
from preftree.train.step.batch import Batch, num_tokens
from preftree.train.step.scores import Scores, repeat_scores
from preftree.tree.to_device import send


def step_scope_gradients(
    batch: Batch, scorer: Scorer, budget: int, ranks: Ranks
) -> tuple[Float[Tensor, "M B"], Mapping[str, float], int]:
    """Compute gradients of a loss on the whole step; returns the table of metrics, the next state and tokens computed.

    All micro-batches are scored without a gradient, and the loss is computed on the whole step. Its derivative by each
    token's log-prob then returns through the micro-batches, which are scored again; a rank with only one micro-batch
    keeps its graph instead.
    """
    device = scorer.device
    plans = batch.plan(scorer, budget, ranks)
    once = len(plans[0]) == 1  # the same number on every rank
    gathered = batch.gathered(device)
    kept = []
    with all_or_none(ranks):
        for micro in plans[ranks.rank]:
            with torch.set_grad_enabled(once):
                scores = batch.score(scorer, micro)
            gathered.enter(micro.examples, scores)
            if once:
                kept.append(scores)
    whole = gathered.finish(ranks)
    if not once:
        plans = batch.plan(scorer, budget, ranks, borrowed=False)
    with all_or_none(ranks):
        leaves = [leaf.requires_grad_() for leaf in (whole.policy, whole.kl) if leaf is not None]
        loss, columns, state = whole_step(batch, batch.examples, whole)
        mean = mean_part(loss, batch.weights(device), batch.divisor)
        slopes = torch.autograd.grad(mean, leaves, materialize_grads=True)
        for leaf in leaves:
            leaf.requires_grad_(False)
        for number, micro in enumerate(plans[ranks.rank]):
            scores = kept[number] if once else batch.score_again(scorer, micro)
            positions = gathered.places(micro.examples, borrowed=once)
            graphs = [graph for graph in (scores.policy, scores.kl) if graph is not None]
            pairs = zip(slopes, graphs, strict=True)
            torch.stack([(slope[positions] * graph.double()).sum() for slope, graph in pairs]).sum().backward()
    return batch.table(columns), state, num_tokens(plans)


def whole_step(
    batch: Batch, examples: Sequence[TokenExample], scores: Scores
) -> tuple[Float[Tensor, " B"], Mapping[str, Tensor], Mapping[str, float]]:
    """Loss, metrics and next state of a whole step; an example of weight 2 counts as two examples."""
    task = batch.task
    counts = repeats(batch.store.weights[scores.rows])
    if counts.max(initial=1) > 1:
        scores = repeat_scores(scores, examples, counts)
        examples = [example for example, count in zip(examples, counts.tolist(), strict=True) for _ in range(count)]
    loss, columns = task.loss(scores, examples)
    state = task.advance(scores.detached(), examples) if task.state else {}
    times = send(counts, loss.device)

    def of_each(values: Tensor) -> Tensor:
        return torch.segment_reduce(values.double(), "mean", lengths=times, unsafe=True)

    return of_each(loss), {name: of_each(values) for name, values in columns.items()}, state
