"""Task of preferences: examples under an objective, with a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.example import Examples, TokenExample
from preftree.losses.mean import weighted_means
from preftree.losses.metrics import by_label
from preftree.reference.protocol import NoReference, Reference
from preftree.train.objective import Objective
from preftree.train.step.held_out import clusters_of, interval_ends
from preftree.train.step.inputs import make_inputs
from preftree.train.step.scores import Scores


@dataclass(frozen=True, eq=False, slots=True)
class PreferenceTask:
    """Pairs (the chosen response first), single responses, or lists (best first), under an objective.

    Attributes:
      objective: The losses.
      reference: The reference of the policy.
    """

    objective: Objective
    reference: Reference = field(default_factory=NoReference)

    @property
    def unit(self) -> str:
        """Name of an example in the metrics."""
        return f"{self.objective.kind}s"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return self.objective.columns

    @property
    def scope(self) -> Literal["example", "step"]:
        """`step` where a loss sees its whole step."""
        return self.objective.scope

    @property
    def state(self) -> Mapping[str, float]:
        """Running state of the losses before the first step."""
        return self.objective.state

    @property
    def extras(self) -> Mapping[str, bool]:
        """Figures other than log-probs that the losses read."""
        return {name: True for name in ("kl", "confidence") if name in self.objective.inputs}

    def loss(self, scores: Scores, examples: Sequence[TokenExample]) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Weighted sum of the losses of each example, and its metrics."""
        return self.objective.value(self._inputs(scores, examples), scores.moment.state)

    def advance(self, scores: Scores, examples: Sequence[TokenExample]) -> Mapping[str, float]:
        """The running state after a step, from the scores of all its examples."""
        return self.objective.advance(self._inputs(scores, examples), scores.moment.state)

    def divisor(self, examples: Examples, rows: Int[np.ndarray, " B"]) -> float:
        """Sum of the examples' weights."""
        return float(examples.weights[rows].sum())

    def figures(
        self,
        columns: Mapping[str, Float[Tensor, " B"]],
        examples: Examples,
        rows: Int[np.ndarray, " B"],
        *,
        held_out: bool = False,
    ) -> dict[str, float]:
        """Weighted means; held out, with 95 % intervals by prompt of those that `interval_ends` names."""
        weights = examples.weights[rows]
        means = weighted_means(columns, torch.from_numpy(weights), self.divisor(examples, rows))
        if self.objective.kind == "response":
            parts = {name: mean for name, mean in means.items() if name.startswith("loss/")}
            means = by_label(means) | parts
        if held_out:
            # A loss of the whole step has no values of single examples.
            apart = {name: column for name, column in columns.items() if name != "loss" or self.scope == "example"}
            means |= interval_ends(apart, weights, clusters_of(examples, rows))
        return means

    def _inputs(self, scores: Scores, examples: Sequence[TokenExample]) -> dict[str, Any]:
        return make_inputs(self.objective.kind, self.objective.inputs, scores, examples)
