"""The task of a preference run: examples under an objective, and the figures that are made of their metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.store import Examples, TokenExample
from preftree.losses.mean import weigh
from preftree.losses.metrics import by_label
from preftree.reference.store import ReferenceTable
from preftree.scoring.vocabulary import LiveReference
from preftree.stats.intervals import wilson
from preftree.train.objective import Objective
from preftree.train.step.inputs import make_inputs
from preftree.train.step.scores import Lookup, Scores, Views
from preftree.train.step.task import Task, Values
from preftree.tree.layout import TokenSequence, TreeBatch
from preftree.tree.to_device import send


def table_reference(table: ReferenceTable) -> Lookup:
    """Log-probs that a table holds; nothing here can compute one."""

    def look_up(batch: TreeBatch, sequences: Sequence[TokenSequence]) -> Float[Tensor, " I"]:
        return send(table.gather(sequences), batch.input_T.device)

    return look_up


def preference_task(
    examples: Examples,
    objective: Objective,
    reference: Lookup | None,
    *,
    live: LiveReference | None = None,
    held_out: bool = False,
) -> Task:
    """Examples under an objective.

    Args:
      examples: Pairs, the chosen response first; single responses; or lists, the best response first.
      objective: The losses.
      reference: Where the reference's stored log-probs come from; None for an objective that needs none.
      live: The reference itself, where the table cannot serve: for a KL over the vocabulary, or one that moves.
      held_out: Whether the figures of pairs come with a 95 % Wilson interval of the accuracy.
    """

    def value(scores: Scores, some: Sequence[TokenExample]) -> Values:
        given = make_inputs(objective.unit, objective.inputs, scores, some)
        return Values(*objective.value(given, scores.moment.state))

    def advance(scores: Scores, some: Sequence[TokenExample]) -> Mapping[str, float]:
        given = make_inputs(objective.unit, objective.inputs, scores, some)
        return objective.advance(given, scores.moment.state)

    def divisor(rows: Int[np.ndarray, " B"]) -> float:
        return float(examples.weights[rows].sum())

    def figures(columns: Mapping[str, Float[Tensor, " B"]], rows: Int[np.ndarray, " B"]) -> dict[str, float]:
        weights = examples.weights[rows]
        means = weigh(columns, torch.from_numpy(weights)).mean(divisor(rows))
        if objective.unit == "response":
            parts = {name: mean for name, mean in means.items() if name.startswith("loss/")}
            return by_label(means) | parts
        if held_out:
            # Unequal weights tell less than as many equal ones: Kish's effective number of examples.
            trials = max(1, math.floor(weights.sum() ** 2 / (weights**2).sum() + 1e-9))
            _, means["accuracy_low"], means["accuracy_high"] = wilson(means["accuracy"] * trials, trials)
        return means

    return Task(
        f"{objective.unit}s",
        examples,
        objective.columns,
        value,
        divisor,
        figures,
        scope=objective.scope,
        views=Views(reference, live, "kl" in objective.inputs, "confidence" in objective.inputs),
        state=objective.state,
        advance=advance if objective.state else None,
    )
