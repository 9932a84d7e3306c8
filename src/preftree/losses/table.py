"""Every loss by name, and how a name with raw options becomes a function of its inputs.

A loss is a plain function: inputs before the `*`, options after it. What it needs, what may be set and where it comes
from is read from its signature and its docstring; a row adds what neither can say.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from preftree.losses.likelihood import sft
from preftree.losses.logistic import cdpo, dpo
from preftree.losses.options import check_options
from preftree.losses.rewards import scaled_logratios
from preftree.losses.spec import BoundLoss, LossSpec, inputs_of, needs_reference, options_of, unit_of
from preftree.losses.squared import ipo, ipo_sum

__all__ = [
    "ELSEWHERE",
    "LOSSES",
    "BoundLoss",
    "LossSpec",
    "bind",
    "find",
    "inputs_of",
    "name_of",
    "needs_reference",
    "options_of",
    "unit_of",
]


def _ln_2(**_: object) -> float:
    return math.log(2)


def _ipo_at_reference(*, beta: float) -> float:
    target = 1 / (2 * beta)
    return target * target


LOSSES: dict[str, LossSpec] = {
    "dpo": LossSpec(dpo, "example", _ln_2, scaled_logratios, trl=("sigmoid",)),
    "cdpo": LossSpec(cdpo, "example", _ln_2, scaled_logratios),
    "ipo": LossSpec(ipo, "example", _ipo_at_reference, scaled_logratios, trl=("ipo",)),
    "ipo_sum": LossSpec(ipo_sum, "example", _ipo_at_reference, scaled_logratios),
    "sft": LossSpec(sft, "example", None, None, trl=("sft",)),
}

ELSEWHERE = {
    "tr_dpo": "'tr_dpo' is dpo with a reference that follows the policy: set loss=dpo and reference.sync_every",
    "step_dpo": "'step_dpo' is dpo on single steps of a solution: set loss=dpo and give pairs whose prompt holds the "
    "right steps so far, and whose responses are the next step, right and wrong",
}
"""Methods that are not losses, and where they are."""


def name_of(name: str) -> str:
    """The name of a loss in the table, from it or from what TRL calls the loss.

    Raises:
      ValueError: no loss has this name; the message names the nearest, or says where the method is.
    """
    if name in LOSSES:
        return name
    if name in ELSEWHERE:
        raise ValueError(ELSEWHERE[name])
    aliases = {alias: row for row, spec in LOSSES.items() for alias in spec.trl}
    if name not in aliases:
        close = difflib.get_close_matches(name, [*LOSSES, *aliases], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}{hint}")
    return aliases[name]


def find(name: str) -> LossSpec:
    """The row of a loss, by its name or by TRL's.

    Raises:
      ValueError: as `name_of`.
    """
    return LOSSES[name_of(name)]


def bind(name: str, options: Mapping[str, object]) -> BoundLoss:
    """A loss by name, with its options checked against its signature.

    Args:
      name: A key of LOSSES, or TRL's name for one.
      options: Raw option values, as a configuration holds them; what is missing takes the default of the signature.
    Raises:
      ValueError: unknown loss; an option that the loss does not take, or that is not allowed.
    """
    name = name_of(name)
    known = options_of(LOSSES[name])
    for option in options:
        if option not in known:
            own = ", ".join(f"{key} ({value.allowed})" for key, value in known.items()) or "none"
            close = difflib.get_close_matches(option, known, 1)
            others = [other for other, row in LOSSES.items() if option in options_of(row)]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            hint += f"; losses that take it: {', '.join(others)}" if others else ""
            raise ValueError(f"loss {name!r} does not take {option!r}, its options are: {own}{hint}")
    return BoundLoss(name, LOSSES[name], check_options(known, options))
