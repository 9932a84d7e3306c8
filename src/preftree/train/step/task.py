"""The task of a run: what a recipe makes of the scores of examples."""

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
    """A loss with its metrics: four methods, and what a step has to know before it calls them."""

    @property
    def unit(self) -> str:
        """What the metrics call examples: `pairs`, for example."""
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
        """What the policy is compared with."""
        ...

    @property
    def extras(self) -> Mapping[str, bool]:
        """Figures beside log-probs that the loss reads, as arguments of `Reference.score`."""
        ...

    def loss(self, scores: Scores, examples: Sequence[TokenExample]) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Loss of each example, which carries the gradient, and its metrics, detached, name -> [P]."""
        ...

    def advance(self, scores: Scores, examples: Sequence[TokenExample]) -> Mapping[str, float]:
        """The running state after a step, from the scores of all its examples."""
        ...

    def divisor(self, examples: Examples, rows: Int[np.ndarray, " B"]) -> float:
        """What the sum of weighted losses over these rows is divided by."""
        ...

    def figures(
        self,
        columns: Mapping[str, Float[Tensor, " B"]],
        examples: Examples,
        rows: Int[np.ndarray, " B"],
        *,
        held_out: bool = False,
    ) -> dict[str, float]:
        """Means over all these rows, from a name -> [B] table of their metrics; with intervals where held out."""
        ...


def places(examples: Iterable[TokenExample], most: int = 8) -> str:
    """Where examples come from, the first few by name."""
    names = [str(example.provenance) for example in examples]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
