"""Options of `preftree reward`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from preftree.config.base import OptimizerName, RunConfig, ScheduleName
from preftree.config.lora import LoraOptions
from preftree.config.loss import LossChoice


class RewardConfig(RunConfig):
    """Options of `preftree reward`.

    Attributes:
      loss: `bradley_terry` for pairs, `bradley_terry_margin` for pairs with margins, `rao_kupper` or `davidson` for
        pairs with ties, `plackett_luce` for rankings.
      head: First weights of the reward head of a language model: `random` by the seed, with variance 1 / (width + 1),
        or `zero`, where all rewards are 0; a reward model keeps its head.
    """

    recipe: ClassVar[str] = "reward"
    loss: LossChoice = LossChoice(name="bradley_terry")
    head: Literal["random", "zero"] = "random"
    answers: int = 0
    lr: float = Field(default=1e-5, gt=0)
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    schedule: ScheduleName = "linear"

    @field_validator("loss", mode="before", json_schema_input_type=str | LossChoice)
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("lora")
    @classmethod
    def _all_weights(cls, value: LoraOptions | None) -> None:
        if value is not None:
            raise ValueError("a reward model is trained whole; leave lora out")

    @field_validator("answers")
    @classmethod
    def _nothing_to_say(cls, value: int) -> int:
        if value:
            raise ValueError("a reward model answers no prompts; leave answers out")
        return value
