"""Task of preferences: examples under an objective, with a reference."""

from __future__ import annotations

import math
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
from preftree.stats.intervals import wilson
from preftree.train.objective import Objective
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
        """Weighted means; held out, the accuracy of pairs and lists comes with a 95 % Wilson interval."""
        weights = examples.weights[rows]
        means = weighted_means(columns, torch.from_numpy(weights), self.divisor(examples, rows))
        if self.objective.kind == "response":
            parts = {name: mean for name, mean in means.items() if name.startswith("loss/")}
            return by_label(means) | parts
        if held_out:
            # Unequal weights carry less information than equal ones: Kish's effective number of examples.
            trials = max(1, math.floor(weights.sum() ** 2 / (weights**2).sum() + 1e-9))
            _, means["accuracy_low"], means["accuracy_high"] = wilson(means["accuracy"] * trials, trials)
        return means

    def _inputs(self, scores: Scores, examples: Sequence[TokenExample]) -> dict[str, Any]:
        return make_inputs(self.objective.kind, self.objective.inputs, scores, examples)
