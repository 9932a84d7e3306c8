"""The shapes that options come in: a place, a loss or a sum of losses, a reference that stays or follows."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    model_serializer,
)

from preftree.config.mixture import HIDDEN


class Strict(BaseModel):
    """Options of which no other may be there, and which nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


def _check_place(value: str) -> str:
    if not value or any(ord(character) < 32 for character in value):
        raise ValueError(f"must name a file, a folder or a hub id, got {value!r}")
    return os.path.expanduser(value)


Place: TypeAlias = Annotated[str, AfterValidator(_check_place)]


def _check_option(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(value, int | float) and number:
        return float(value)
    if isinstance(value, str):
        return value
    raise ValueError(f"must be a finite number or a word, got {value!r}")


class LossChoice(BaseModel):
    """The name of a loss and its raw options; losses/table.py binds them to the function's signature."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)
    # Pydantic's documented way to say what an extra may be.
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_check_option)]] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, float | str]:
        """Everything beside the name."""
        return dict(self.model_extra or {})


class LossPart(LossChoice):
    """A loss of a weighted sum.

    Attributes:
      weight: What the loss is multiplied with.
    """

    weight: float = Field(default=1.0, gt=0)


def _kind_of_loss(value: object) -> str:
    return f"{HIDDEN}sum" if isinstance(value, list) else f"{HIDDEN}one"


_One: TypeAlias = Annotated[LossChoice, Tag(f"{HIDDEN}one")]
_Sum: TypeAlias = Annotated[list[LossPart], Tag(f"{HIDDEN}sum"), Field(min_length=1)]
OneOrSum: TypeAlias = Annotated[_One | _Sum, Discriminator(_kind_of_loss)]
"""A loss, or the parts of a weighted sum."""


class ReferenceSchedule(Strict):
    """A reference that follows the policy: reference <- mixup * policy + (1 - mixup) * reference, now and then.

    Attributes:
      start: What it is at first, written `from`: as `reference` where that is a word.
      sync_every: Optimiser steps from one such update to the next.
      mixup: Share of the policy in it; 1 takes the policy as it is.
    """

    start: Place = Field(default="start", validation_alias="from")
    sync_every: PositiveInt
    mixup: float = Field(default=0.6, gt=0, le=1)

    @model_serializer
    def _as_written(self) -> dict[str, str | int | float]:
        return {"from": self.start, "sync_every": self.sync_every, "mixup": self.mixup}


def _kind_of_reference(value: object) -> str:
    return f"{HIDDEN}place" if isinstance(value, str) else f"{HIDDEN}schedule"


_Fixed: TypeAlias = Annotated[Place, Tag(f"{HIDDEN}place")]
_Moving: TypeAlias = Annotated[ReferenceSchedule, Tag(f"{HIDDEN}schedule")]
PlaceOrSchedule: TypeAlias = Annotated[_Fixed | _Moving, Discriminator(_kind_of_reference)]
"""A reference that stays, or one that follows the policy."""
