"""The options of `preftree dpo`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import (
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from preftree.config.base import OptimizerName, Place, RunConfig, Strict
from preftree.config.loss import HIDDEN, LossChoice, OneOrSum, is_mixture, listed, loss_label


class Objective(Strict):
    """What a preference run minimises, and against which reference.

    Attributes:
      loss: Name of a loss (see `preftree losses`) with its options; or a weighted sum, `{dpo: 1.0, sft: 0.2}` or
        `[{name, weight, ...}]`.
      beta: Strength of the KL constraint, for the one loss that takes it.
      reference: `start` is the model the run starts from, its adapter included; `base` is the bare model under an
        adapter; a path or hub id is another model; `none` for losses that compare with none. `{from, sync_every,
        mixup}` is one that follows the policy.
    """

    loss: OneOrSum = LossChoice(name="dpo")
    beta: float | None = Field(default=None, gt=0)
    reference: PlaceOrSchedule = "start"

    @field_validator("loss", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        return listed(value) if is_mixture(value) else value

    @model_validator(mode="after")
    def _one_beta(self) -> Objective:
        inner = [part.options["beta"] for part, _ in self.losses if "beta" in part.options]
        if self.beta is not None and len(inner) == 1 and inner[0] != self.beta:
            raise ValueError(f"beta is {self.beta:g} and loss.beta is {inner[0]}; set one of them")
        return self

    @property
    def reference_place(self) -> str:
        """What the reference is, at first where it moves."""
        return self.reference if isinstance(self.reference, str) else self.reference.start

    @property
    def reference_schedule(self) -> ReferenceSchedule | None:
        """How the reference follows the policy; None where it stays."""
        return None if isinstance(self.reference, str) else self.reference

    @property
    def losses(self) -> list[tuple[LossChoice, float]]:
        """The losses of the sum with their weights; of one loss, itself."""
        loss = self.loss
        return [(part, part.weight) for part in loss] if isinstance(loss, list) else [(loss, 1.0)]

    @property
    def loss_label(self) -> str:
        """The loss, or the sum, in a few words."""
        return loss_label(self.model_dump()["loss"])


class DpoConfig(RunConfig, Objective):
    """Options of `preftree dpo`; the defaults are the paper's, but for a warm-up that a small data set can finish."""

    recipe: ClassVar[str] = "dpo"
    lr: float = Field(default=1e-6, gt=0)
    optimizer: OptimizerName = "rmsprop"
    max_grad_norm: float | None = Field(default=10.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"


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
