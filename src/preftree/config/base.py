"""The options of a run: one strict model per concern, joined flat into one model per recipe.

A function asks for the concern it needs (`Optimisation`, `Lengths`, ...), so its signature says which options can
move it. Inheritance here only joins fields; there is nothing to override.
"""

from __future__ import annotations

import os
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from preftree.config.lora import LoraOptions, Quantization


class Strict(BaseModel):
    """Options of which no other may be there, and which nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


def _check_place(value: str) -> str:
    if not value or any(ord(character) < 32 for character in value):
        raise ValueError(f"must name a file, a folder or a hub id, got {value!r}")
    return os.path.expanduser(value)


Place: TypeAlias = Annotated[str, AfterValidator(_check_place)]


OptimizerName: TypeAlias = Literal["adamw", "rmsprop", "adamw_8bit"]


class DataSource(Strict):
    """A data file and how its rows are taken; written `data: FILE` where the rest stays as it is.

    Attributes:
      path: A file, a folder of files, or a data set id of the Hugging Face hub.
      format: Name of the format (see `preftree data inspect`), of a held-out file as well; recognised where it is null.
      order: `prompt` shuffles whole prompts, so that the branches of one meet in a step; `example` shuffles rows.
      max_rejected: Share of faulty rows above which the run stops.
    """

    path: Place
    format: str | None = None
    order: Literal["prompt", "example"] = "prompt"
    max_rejected: float = Field(default=0.05, ge=0, le=1)


class Start(Strict):
    """What is trained, from what, into which folder.

    Attributes:
      model: A model folder, or a model id of the Hugging Face hub.
      data: The training rows.
      eval_data: Held-out rows: a file, or a share of the training prompts below 1; none by default.
      eval_every: Steps between evaluations; null evaluates at the end.
      out: Folder of the run.
    """

    model: Place
    data: DataSource
    eval_data: Place | float | None = None
    eval_every: PositiveInt | None = None
    out: Place

    @field_validator("data", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("eval_data", mode="before")
    @classmethod
    def _path_or_share(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and value) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(f"must be a file or a share of the prompts between 0 and 1, got {value!r}")

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> Start:
        if self.eval_every is not None and self.eval_data is None:
            raise ValueError("eval_every needs eval_data: a file, or a share of the prompts such as 0.1")
        return self


class Adaptation(Strict):
    """Which weights are trained.

    Attributes:
      lora: A LoRA adapter is trained, and nothing else; null trains every weight.
      quantize: How the frozen weights under the adapter are stored: `nf4`, `int8` or `int4`; null keeps them fp32.
    """

    lora: LoraOptions | None = None
    quantize: Quantization | None = None

    @model_validator(mode="after")
    def _frozen(self) -> Adaptation:
        if self.quantize is not None and self.lora is None:
            raise ValueError(f"quantize={self.quantize} stores frozen weights; train an adapter over them: lora.r=16")
        return self


class Lengths(Strict):
    """Token budgets of a row, and what happens to a row that is over one.

    Attributes:
      max_length: Most tokens of prompt and response together.
      max_prompt_length: Most tokens of the prompt.
      max_response_length: Most tokens of a response.
      truncation: `drop` the row, `trim_prompt` from its beginning, or `trim_response` at its end; counted and shown.
    """

    max_length: PositiveInt | None = 1024
    max_prompt_length: PositiveInt | None = None
    max_response_length: PositiveInt | None = None
    truncation: Literal["drop", "trim_prompt", "trim_response"] = "drop"


class Optimisation(Strict):
    """How a gradient becomes an update.

    Attributes:
      lr: Peak learning rate.
      optimizer: `adamw`, the paper's `rmsprop`, or `adamw_8bit`, whose moments take a byte each (needs torchao); all
        with PyTorch's own constants.
      weight_decay: Decay of matrices (biases and norms keep theirs); decoupled in AdamW, an L2 term in RMSprop.
      max_grad_norm: Global norm that gradients are clipped to; null never clips.
      schedule: Course of the learning rate after the warm-up; linear and cosine end at 0.
      warmup_steps: Steps of linear warm-up, (s+1)/(W+1); below 1 a share of the run's steps.
    """

    lr: float = Field(gt=0)
    optimizer: OptimizerName
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int | float = 0.1

    @field_validator("warmup_steps", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, float) and 0 <= value < 1:
            return value
        raise ValueError(f"must be a number of steps, or a share of the run below 1, got {value!r}")


class Pace(Strict):
    """How much of the data makes a step, and how many steps make a run.

    Attributes:
      batch_size: Examples per optimiser step, over all processes.
      micro_batch_tokens: Most tokens computed at once; changes memory and time, never the trajectory.
      epochs: Passes over the data; 1 where max_steps does not say otherwise.
      max_steps: Optimiser steps; with epochs as well, the run ends at whichever comes first.
    """

    batch_size: PositiveInt = 64
    micro_batch_tokens: PositiveInt = 8192
    epochs: PositiveInt | None = None
    max_steps: PositiveInt | None = None


class Machine(Strict):
    """Arithmetic and memory.

    Attributes:
      seed: Of the data order and of every random number.
      precision: `fp32`, or `bf16` for bfloat16 autocast; the weights and the optimiser stay fp32 either way. A CPU
        without bf16 instructions multiplies rounded numbers in fp32, no faster, and says so.
      gradient_checkpointing: Compute activations again in the backward pass: less memory, about a third more time; a
        number between 0 and 1 does so for that share of the layers.
      compile: Fuse what stands between the matrix products of a layer (torch.compile): faster steps and less memory, a
        minute or more at the start; on a CPU it needs a C++ compiler.
      threads: CPU threads; null takes what PyTorch chose and pins that for the run and its resumptions.
      cache: Folder of tokenised data and reference tables; null is $PREFTREE_CACHE, or ~/.cache/preftree.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool | float = False
    compile: bool = False
    threads: PositiveInt | None = None
    cache: Place | None = None

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _all_none_or_share(cls, value: object) -> object:
        if isinstance(value, bool) or (isinstance(value, int | float) and 0 <= value <= 1):
            return value
        raise ValueError(f"must be true, false or a share of the layers between 0 and 1, got {value!r}")


class Keeping(Strict):
    """What is written on the way.

    Attributes:
      resume: `auto` goes on from the newest good checkpoint in `out`, `never` starts over; or the path of a checkpoint.
      save_every: Steps between checkpoints; null saves at the end and when stopped.
      keep_checkpoints: How many checkpoints stay on disk.
      snapshots: Keep the weights alone at steps that grow by this factor (2: after steps 1, 2, 4, 8, ...), so that
        `preftree eval frontier` can follow the policy on its way; null keeps none.
    """

    resume: Place = "auto"
    save_every: PositiveInt | None = 500
    keep_checkpoints: PositiveInt = 2
    snapshots: float | None = Field(default=None, gt=1)


class RunConfig(Keeping, Machine, Pace, Optimisation, Lengths, Adaptation, Start):
    """What every run is told; a recipe adds its own, as SftConfig and DpoConfig do here.

    Attributes:
      recipe: Name of the verb that runs it.
    """

    recipe: ClassVar[str]
