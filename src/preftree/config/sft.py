"""Options of `preftree sft`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from preftree.config.base import OptimizerName, RunConfig, ScheduleName


class SftConfig(RunConfig):
    """Options of `preftree sft`.

    Attributes:
      side: Responses of a preference file to imitate; null expects a file of demonstrations.
    """

    recipe: ClassVar[str] = "sft"
    side: Literal["chosen"] | None = None
    lr: float = Field(default=2e-5, gt=0)
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    schedule: ScheduleName = "linear"
