"""Options of a loss, or of a weighted sum: `{dpo: 1.0, sft: 0.2}`, or a list of `{name, weight, ...}`."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from preftree.errors import ConfigError

HIDDEN = "-"
"""Prefix of the tags that pydantic puts among the option names of an error; such a name is not shown."""


def is_mixture(value: object) -> bool:
    """Whether the value of `loss` is a sum: a list, or a mapping from names to weights."""
    return isinstance(value, list) or (isinstance(value, dict) and bool(value) and "name" not in value)


def loss_label(value: object) -> str:
    """The loss, or the sum with its weights, in a few words, from the plain options of a validated `loss`."""
    if isinstance(value, list):
        return " + ".join(f"{part.get('weight', 1):g} {part['name']}" for part in value)
    return str(value["name"] if isinstance(value, dict) else value)


def listed(value: object) -> object:
    """A sum as a list of its parts, each `{name, weight, ...}`.

    Raises:
      ValueError: a part is no mapping, or a name comes twice.
    """
    if isinstance(value, dict):
        return [{"name": name, "weight": weight} for name, weight in value.items()]
    assert isinstance(value, list)
    names = [part.get("name") if isinstance(part, dict) else None for part in value]
    for part, name in zip(value, names, strict=True):
        if not isinstance(part, dict):
            raise ValueError(f"a sum of losses is a list of {{name: ..., weight: ...}}, got the part {part!r}")
        if names.count(name) > 1:
            raise ValueError(f"a sum of losses names each once, got {name!r} twice; add up their weights")
    return value


def set_in_mixture(value: object, inner: list[str], new: object, option: str) -> object:
    """A copy of a sum with one value set: `loss.sft=.2` sets a weight, `loss.dpo.beta=.1` an option of a part.

    Args:
      value: The sum.
      inner: The dotted name without its first word.
      new: The value.
      option: The full dotted name, for errors.
    Raises:
      ConfigError: the sum has no part of that name, or parts have no such inner options.
    """
    try:
        parts: list[dict[str, Any]] = [dict(part) for part in listed(value)]  # pyright: ignore[reportGeneralTypeIssues] - checked by listed
    except ValueError as error:
        raise ConfigError(f"loss: {error}") from error
    name, *rest = inner
    known = {str(part.get("name")): part for part in parts}
    if len(rest) > 1:
        raise ConfigError(f"option {option!r}: {'.'.join(inner[:2])!r} has no inner options")
    if not rest:
        known.setdefault(name, {"name": name})["weight"] = new
        return list(known.values())
    if name not in known:
        raise ConfigError(f"option {option!r}: the sum of losses has no part {name!r}, it has {', '.join(known)}")
    known[name][rest[0]] = new
    return list(known.values())


def _check_option(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"must be a finite number or a word, got {value!r}")


class LossChoice(BaseModel):
    """Name of a loss and its raw options; losses/registry.py binds them to the function's signature.

    Attributes:
      name: Name of the loss, or FILE.py:FUNCTION for a loss of your own.
      OPTION: An option of that loss, such as `loss.label_smoothing=.1`; `preftree losses NAME` explains each.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    # Pydantic's documented way to say what an extra may be.
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_check_option)]] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, float | str]:
        """All options but the name."""
        return dict(self.model_extra or {})


class LossPart(LossChoice):
    """A loss of a weighted sum.

    Attributes:
      weight: Factor of the loss.
    """

    weight: float = Field(default=1.0, gt=0)


def _kind_of_loss(value: object) -> str:
    return f"{HIDDEN}sum" if isinstance(value, list) else f"{HIDDEN}single"


_Single: TypeAlias = Annotated[LossChoice, Tag(f"{HIDDEN}single")]


_Sum: TypeAlias = Annotated[list[LossPart], Tag(f"{HIDDEN}sum"), Field(min_length=1)]


OneOrSum: TypeAlias = Annotated[_Single | _Sum, Discriminator(_kind_of_loss)]
"""A loss, or the parts of a weighted sum."""
