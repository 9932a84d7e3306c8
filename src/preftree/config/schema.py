"""The options of a run: one strict model per concern, joined flat into one model per recipe.

A function asks for the concern it needs (`Optimisation`, `Lengths`, ...), so its signature says which options can
move it. Inheritance here only joins fields; there is nothing to override.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt, field_validator, model_validator

from preftree.config.adapter import LoraOptions, Quantization
from preftree.config.choices import LossChoice, OneOrSum, Place, PlaceOrSchedule, ReferenceSchedule, Strict
from preftree.config.mixture import is_mixture, listed

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
        if isinstance(self.loss, LossChoice):
            return self.loss.name
        return " + ".join(f"{part.weight:g} {part.name}" for part in self.loss)


class RunConfig(Keeping, Machine, Pace, Optimisation, Lengths, Adaptation, Start):
    """What every run is told; a recipe adds its own, as SftConfig and DpoConfig do here.

    Attributes:
      recipe: Name of the verb that runs it.
    """

    recipe: ClassVar[str]


class SftConfig(RunConfig):
    """Options of `preftree sft`.

    Attributes:
      side: Which side of a preference file to imitate; null wants a file of demonstrations.
    """

    recipe: ClassVar[str] = "sft"
    side: Literal["chosen"] | None = None
    lr: float = Field(default=2e-5, gt=0)
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"


class DpoConfig(RunConfig, Objective):
    """Options of `preftree dpo`; the defaults are the paper's, but for a warm-up that a small data set can finish."""

    recipe: ClassVar[str] = "dpo"
    lr: float = Field(default=1e-6, gt=0)
    optimizer: OptimizerName = "rmsprop"
    max_grad_norm: float | None = Field(default=10.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
