"""What the recipes hand to the step: examples, and what is made of the scores of their responses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.store import Examples, TokenExample
from preftree.train.step.scores import Scores, Views


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
      value: Loss and metrics of some examples from the scores of their responses.
      divisor: What the sum of weighted losses over these rows is divided by.
      figures: Means over all these rows, from a name -> [B] table of their metrics.
      scope: `step` where `value` must see all examples of a step at once.
      views: What the loss looks at beside the policy's log-probs.
      state: Running state of the loss before the first step.
      advance: The state after a step, from the scores of all its examples; None where there is none to keep.
    """

    unit: str
    examples: Examples
    columns: tuple[str, ...]
    value: Callable[[Scores, Sequence[TokenExample]], Values]
    divisor: Callable[[Int[np.ndarray, " B"]], float]
    figures: Callable[[Mapping[str, Float[Tensor, " B"]], Int[np.ndarray, " B"]], dict[str, float]]
    scope: Literal["example", "step"] = "example"
    views: Views = field(default_factory=Views)
    state: Mapping[str, float] = field(default_factory=dict)
    advance: Callable[[Scores, Sequence[TokenExample]], Mapping[str, float]] | None = None


def places(examples: Iterable[TokenExample], most: int = 8) -> str:
    """Where examples came from, the first few by name."""
    names = [str(example.provenance) for example in examples]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
