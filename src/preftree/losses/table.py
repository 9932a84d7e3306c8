"""Every loss by name, and how a name with raw options becomes a function of its inputs.

A loss is a plain function: inputs before the `*`, options after it. Nothing else describes it: what it needs and what
may be set is read from its signature.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from jaxtyping import Float
from torch import Tensor

from preftree.losses.likelihood import sft
from preftree.losses.logistic import cdpo, dpo
from preftree.losses.options import Range
from preftree.losses.pairs import implicit_reward
from preftree.losses.squared import ipo, ipo_sum


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A row of the table.

    Attributes:
      function: Inputs before the `*`, options after it; returns one value per example, [P].
      scope: `example` where a value depends on its own example alone; `step` where it needs the whole optimiser step.
      value_at_reference: The loss where policy == reference, called with the loss's options; None: no fixed value.
      implicit_reward: Detached reward of one response from (logps, ref_logps, *, beta); None: the loss implies none.
      source: Where the formula stands.
    """

    function: Callable[..., Tensor]
    scope: Literal["example", "step"]
    value_at_reference: Callable[..., float] | None
    implicit_reward: Callable[..., Tensor] | None
    source: str


def _ln_2(**_: float) -> float:
    return math.log(2)


def _ipo_at_reference(*, beta: float) -> float:
    target = 1 / (2 * beta)
    return target * target


LOSSES: dict[str, LossSpec] = {
    "dpo": LossSpec(dpo, "example", _ln_2, implicit_reward, "Rafailov et al. 2023, arXiv:2305.18290, Eq. 7"),
    "cdpo": LossSpec(cdpo, "example", _ln_2, implicit_reward, "Mitchell 2023, Eq. 3, ericmitchell.ai/cdpo.pdf"),
    "ipo": LossSpec(
        ipo, "example", _ipo_at_reference, implicit_reward, "Azar et al. 2023, arXiv:2310.12036, Eq. 17, per token"
    ),
    "ipo_sum": LossSpec(
        ipo_sum, "example", _ipo_at_reference, implicit_reward, "Azar et al. 2023, arXiv:2310.12036, Eq. 17"
    ),
    "sft": LossSpec(sft, "example", None, None, "maximum likelihood; arXiv:2305.18290, Section 3"),
}

_NAMES_ELSEWHERE = {"sigmoid": "dpo"}
"""What other trainers call a loss of ours, where spelling alone would not lead there."""


@dataclass(frozen=True, slots=True)
class BoundLoss:
    """A loss with its options set; call it with the inputs it names."""

    name: str
    spec: LossSpec
    options: Mapping[str, float]

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


def find(name: str) -> LossSpec:
    """The row of a loss.

    Raises:
      ValueError: no loss has this name; the message names the nearest.
    """
    if name not in LOSSES:
        close = [_NAMES_ELSEWHERE[name]] if name in _NAMES_ELSEWHERE else difflib.get_close_matches(name, LOSSES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}{hint}")
    return LOSSES[name]


def inputs_of(spec: LossSpec) -> tuple[str, ...]:
    """Names of the inputs a loss needs: the parameters before the `*`."""
    parameters = inspect.signature(spec.function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def options_of(spec: LossSpec) -> dict[str, Range]:
    """The options a loss takes, all of them required, with their ranges: the parameters after the `*`."""
    hints = get_type_hints(spec.function, include_extras=True)
    parameters = inspect.signature(spec.function).parameters.values()
    return {p.name: hints[p.name].__metadata__[0] for p in parameters if p.kind is p.KEYWORD_ONLY}


def bind(name: str, options: Mapping[str, object]) -> BoundLoss:
    """A loss by name, with its options checked against its signature.

    Args:
      name: A key of LOSSES.
      options: Raw option values, as a configuration holds them.
    Raises:
      ValueError: unknown loss; an option that the loss does not take, lacks, or that is out of its range.
    """
    spec = find(name)
    ranges = options_of(spec)
    for option in options:
        if option not in ranges:
            own = ", ".join(f"{key} ({value})" for key, value in ranges.items()) or "none"
            others = [other for other, row in LOSSES.items() if option in options_of(row)]
            hint = f"; losses that take it: {', '.join(others)}" if others else ""
            raise ValueError(f"loss {name!r} does not take {option!r}, its options are: {own}{hint}")
    for option, allowed in ranges.items():
        if option not in options:
            raise ValueError(f"loss {name!r} needs {option} ({allowed}), got none")
    return BoundLoss(name, spec, {option: allowed.check(option, options[option]) for option, allowed in ranges.items()})
