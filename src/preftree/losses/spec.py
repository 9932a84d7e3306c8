"""What the table says of a loss, and what is read from its signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from preftree.losses.options import Option, options_in


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A row of the table.

    Attributes:
      function: Inputs before the `*`, options after it; returns one value per example, [P].
      scope: `example` where a value depends on its own example alone; `step` where it needs the whole optimiser step.
      value_at_reference: The loss where policy == reference, called with the loss's options; None, or returning None:
        no fixed value.
      implicit_reward: Detached rewards of the responses, called with the loss's inputs and options by name: PairValues
        of pairs, [N] of single responses, [R] of lists; None: the loss implies none.
      trl: What TRL calls it.
      initial_state: Running state before the first step, by name.
      advance: The state after a step, from the step's inputs (the state among them) and options, by name; pure and
        detached. The function itself is always given the state as it was before the step.
    """

    function: Callable[..., Tensor]
    scope: Literal["example", "step"]
    value_at_reference: Callable[..., float | None] | None
    implicit_reward: Callable[..., Any] | None
    trl: tuple[str, ...] = ()
    initial_state: Mapping[str, float] = field(default_factory=dict)
    advance: Callable[..., dict[str, float]] | None = None

    @property
    def summary(self) -> str:
        """What it is, in one line: the first of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def source(self) -> str:
        """Where the formula stands: the end of its docstring."""
        found = re.search(r"^Source: (.*)\Z", inspect.getdoc(self.function) or "", re.DOTALL | re.MULTILINE)
        return " ".join(found[1].split()) if found else ""


@dataclass(frozen=True, slots=True)
class BoundLoss:
    """A loss with its options set; call it with the inputs it names."""

    name: str
    spec: LossSpec
    options: Mapping[str, float | str]

    def __call__(self, *inputs: Any, **named: Any) -> Float[Tensor, " P"]:
        """One value per example, [P], from the inputs in `inputs_of(spec)`, by place or by name."""
        return self.spec.function(*inputs, **named, **self.options)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs it needs, in order."""
        return inputs_of(self.spec)

    @property
    def value_at_reference(self) -> float | None:
        """The loss of an example on which policy and reference agree; None: no fixed value."""
        return None if self.spec.value_at_reference is None else self.spec.value_at_reference(**self.options)

    def advance(self, **named: Any) -> dict[str, float]:
        """The running state after a step; the loss's own inputs by name, `state` as it was before the step.

        Raises:
          ValueError: the loss keeps no state.
        """
        if self.spec.advance is None:
            raise ValueError(f"loss {self.name!r} keeps no running state")
        return self.spec.advance(**named, **self.options)


def inputs_of(spec: LossSpec) -> tuple[str, ...]:
    """Names of the inputs a loss needs: the parameters before the `*`."""
    parameters = inspect.signature(spec.function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def options_of(spec: LossSpec) -> dict[str, Option]:
    """The options a loss takes, with what they may be and their defaults: the parameters after the `*`."""
    return options_in(spec.function)


def unit_of(spec: LossSpec) -> Literal["pair", "response", "list", "demonstration"]:
    """What the loss gives one value for; its inputs tell."""
    inputs = inputs_of(spec)
    if "responses" in inputs:
        return "response"
    if "policy_lists" in inputs:
        return "list"
    return "demonstration" if "logps" in inputs else "pair"


def needs_reference(spec: LossSpec) -> bool:
    """Whether a reference has to be there: for its log-probs, or for the KL divergence from it."""
    return any(name == "kl" or name.startswith("ref") for name in inputs_of(spec))
