"""Task of a run: the loss, the metrics and the figures of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.example import Examples, TokenExample
from preftree.reference.protocol import Reference
from preftree.train.step.scores import Scores


@runtime_checkable
class Task(Protocol):
    """A loss with its metrics: four methods, and properties that a step reads before it calls them."""

    @property
    def unit(self) -> str:
        """Name of examples in the metrics, such as `pairs`."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the metrics that `loss` returns, in the order of a step's table."""
        ...

    @property
    def scope(self) -> Literal["example", "step"]:
        """`step` where `loss` must see all examples of a step at once."""
        ...

    @property
    def state(self) -> Mapping[str, float]:
        """The loss's running state before the first step; empty where it has none."""
        ...

    @property
    def reference(self) -> Reference:
        """The reference of the policy."""
        ...

    @property
    def extras(self) -> Mapping[str, bool]:
        """Figures other than log-probs that the loss reads, as arguments of `Reference.score`."""
        ...

    def loss(self, scores: Scores, examples: Sequence[TokenExample]) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Loss of each example, which carries the gradient, and its metrics, detached, name -> [P]."""
        ...

    def advance(self, scores: Scores, examples: Sequence[TokenExample]) -> Mapping[str, float]:
        """The running state after a step, from the scores of all its examples."""
        ...

    def divisor(self, examples: Examples, rows: Int[np.ndarray, " B"]) -> float:
        """Divisor of the sum of weighted losses over these rows."""
        ...

    def figures(
        self,
        columns: Mapping[str, Float[Tensor, " B"]],
        examples: Examples,
        rows: Int[np.ndarray, " B"],
        *,
        held_out: bool = False,
    ) -> dict[str, float]:
        """Means over all rows, from a name -> [B] table of their metrics; with intervals where held out."""
        ...


def places(examples: Iterable[TokenExample], most: int = 8) -> str:
    """Provenance of examples, the first few by name."""
    names = [str(example.provenance) for example in examples]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
