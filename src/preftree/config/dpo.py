"""The options of `preftree dpo`."""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeAlias

from pydantic import (
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from preftree.config.base import OptimizerName, PathOrId, RunConfig, ScheduleName, Strict
from preftree.config.loss import HIDDEN, LossChoice, OneOrSum, is_mixture, listed, loss_label


class PreferenceObjective(Strict):
    """Loss of a run on preferences, and its reference.

    Attributes:
      loss: Name of a loss, or its name and options; `preftree losses` lists them. Or a weighted sum:
        `{dpo: 1.0, sft: 0.2}`, or `[{name, weight, ...}]`; `loss.sft=.2` then sets a weight and `loss.dpo.beta=.1` an
        option.
      beta: Strength of the KL constraint, for the one loss that takes it; null is the default of the loss.
      reference: `start` is the model that the run starts from, with its adapter; `base` is the bare model under an
        adapter; a path or hub id is another model; `none` suits losses that need none. The options below let it follow
        the policy.
    """

    loss: OneOrSum = LossChoice(name="dpo")
    beta: float | None = Field(default=None, gt=0)
    reference: PathOrSchedule = "start"

    @field_validator("loss", mode="before", json_schema_input_type=str | dict[str, float] | OneOrSum)
    @classmethod
    def _name_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        return listed(value) if is_mixture(value) else value

    @model_validator(mode="after")
    def _one_beta(self) -> PreferenceObjective:
        inner = [part.options["beta"] for part, _ in self.losses if "beta" in part.options]
        if self.beta is not None and len(inner) == 1 and inner[0] != self.beta:
            raise ValueError(f"beta is {self.beta:g} and loss.beta is {inner[0]}; set one of them")
        return self

    @property
    def reference_place(self) -> str:
        """Name of the reference: `start`, `base`, `none`, a path or a hub id; the first one, where it moves."""
        return self.reference if isinstance(self.reference, str) else self.reference.start

    @property
    def reference_schedule(self) -> ReferenceSchedule | None:
        """Schedule by which the reference follows the policy; None where it is fixed."""
        return None if isinstance(self.reference, str) else self.reference

    @property
    def losses(self) -> list[tuple[LossChoice, float]]:
        """The losses of the sum with their weights; a single loss has the weight 1."""
        loss = self.loss
        return [(part, part.weight) for part in loss] if isinstance(loss, list) else [(loss, 1.0)]

    @property
    def loss_label(self) -> str:
        """The loss, or the sum, in a few words."""
        return loss_label(self.model_dump()["loss"])


class DpoConfig(RunConfig, PreferenceObjective):
    """Options of `preftree dpo`; the defaults are the DPO paper's, but for a shorter warm-up that suits small data."""

    recipe: ClassVar[str] = "dpo"
    lr: float = Field(default=1e-6, gt=0)
    optimizer: OptimizerName = "rmsprop"
    max_grad_norm: float | None = Field(default=10.0, gt=0)
    schedule: ScheduleName = "constant"


class ReferenceSchedule(Strict):
    """A reference that follows the policy: reference <- mixup * policy + (1 - mixup) * reference, every so many steps.

    Attributes:
      start: The first reference, `from` in a file: a name as `reference` takes it.
      sync_every: Optimiser steps between two such updates.
      mixup: Share of the policy; 1 copies the policy.
    """

    start: PathOrId = Field(default="start", validation_alias="from")
    sync_every: PositiveInt
    mixup: float = Field(default=0.6, gt=0, le=1)

    @model_serializer
    def _as_written(self) -> dict[str, str | int | float]:
        return {"from": self.start, "sync_every": self.sync_every, "mixup": self.mixup}


def _kind_of_reference(value: object) -> str:
    return f"{HIDDEN}place" if isinstance(value, str) else f"{HIDDEN}schedule"


_Fixed: TypeAlias = Annotated[PathOrId, Tag(f"{HIDDEN}place")]


_Moving: TypeAlias = Annotated[ReferenceSchedule, Tag(f"{HIDDEN}schedule")]


PathOrSchedule: TypeAlias = Annotated[_Fixed | _Moving, Discriminator(_kind_of_reference)]
"""A fixed reference, or one that follows the policy."""
