"""Options that runs share: one strict model for each concern, joined flat into one model for each recipe.

A function takes the concern it needs (`Optimisation`, `Lengths`, ...), so its signature says which options affect it.
Inheritance only joins fields; nothing is overridden but defaults. The `Attributes:` section of a model is the one
description of its options: `config/help.py` reads it for `--help`, `preftree options` and docs/options.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from preftree.config.lora import LoraOptions, Quantization
from preftree.config.read_with import ReadWith, check_read


class Strict(BaseModel):
    """Base of all options: unknown names are refused, types are not converted, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    @property
    def own_defaults(self) -> Mapping[str, object]:
        """Defaults that depend on another option, and so differ from those of the fields."""
        return {}

    @model_validator(mode="after")
    def _every_option_is_read(self) -> Strict:
        check_read(self, self.own_defaults)
        return self


def _check_place(value: str) -> str:
    if not value or any(ord(character) < 32 for character in value):
        raise ValueError(f"must name a file, a folder or a hub id, got {value!r}")
    return os.path.expanduser(value)


PathOrId: TypeAlias = Annotated[str, AfterValidator(_check_place), Field(json_schema_extra={"format": "path"})]
"""A path, or an id of the Hugging Face hub."""


OptimizerName: TypeAlias = Literal["adamw", "rmsprop", "adamw_8bit"]
ScheduleName: TypeAlias = Literal["constant", "linear", "cosine"]
RowOrder: TypeAlias = Literal["prompt", "example", "prefix", "file"]


def check_path_alone(value: object) -> object:
    """A source of data given as its path alone, as the options that it abbreviates."""
    return {"path": value} if isinstance(value, str) else value


SHORTHANDS = {"data": "path", "loss": "name", "reference": "from"}
"""Options that may be written as one word, and the inner option that this word sets."""


class DataSource(Strict):
    """A data file and the use of its rows; `data: FILE` sets the path alone.

    Attributes:
      path: A file, a folder of files, or a data set id of the Hugging Face hub.
      format: Name of the format (`preftree data inspect` prints it), for a held-out file too; null recognises it.
      columns: Meaning of the fields where rows are of no known format, for a held-out file too: {prompt: question,
        chosen: best, rejected: worst}, or data.columns.prompt=question on the command line (docs/data.md).
      order: `prompt` shuffles whole prompts, so that all branches of a prompt are in one step; `example` shuffles rows;
        `prefix` also keeps prompts together that begin alike, such as the turns of a dialogue; `file` shuffles nothing.
      turns: Assistant turns of a conversation that `sft` imitates: the `last` one or `all`, except where a turn's
        `train` or `weight` says otherwise. For `all` the chat template must render a turn alike once others follow,
        or have {% generation %} markers.
      ranking_weight: Weight of a ranking under a loss of pairs: `pairs` gives each of its pairs the weight of the row,
        so a ranking of K weighs K (K - 1) / 2; with `row` they share it, as in InstructGPT.
      repeats: `drop` leaves out rows that say what an earlier one says, and those that contradict one; `keep` trains
        on every row as often as it comes.
      max_rejected: Largest share of faulty rows; above it the run stops.
    """

    path: PathOrId
    format: str | None = None
    columns: dict[str, str] | None = None
    order: RowOrder = "prompt"
    turns: Literal["last", "all"] = "last"
    ranking_weight: Literal["pairs", "row"] = "pairs"
    repeats: Literal["drop", "keep"] = "drop"
    max_rejected: float = Field(default=0.05, ge=0, le=1)


class ModelAndData(Strict):
    """Model, data and folder of a run.

    Attributes:
      model: A model folder, a GGUF file, or a model id of the Hugging Face hub.
      data: Training rows: a path, or the options below.
      eval_data: Held-out rows: a path, or a share of the training prompts between 0 and 1; null holds out none.
      eval_every: Steps between evaluations, from step 0 to the end; null makes some ten of them in a run.
      out: Folder of the run.
    """

    model: PathOrId
    data: Annotated[DataSource, BeforeValidator(check_path_alone, json_schema_input_type=PathOrId | DataSource)]
    eval_data: PathOrId | float | None = None
    eval_every: PositiveInt | None = None
    out: PathOrId

    @field_validator("eval_data", mode="before")
    @classmethod
    def _path_or_share(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and value) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(f"must be a file or a share of the prompts between 0 and 1, got {value!r}")

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> ModelAndData:
        if self.eval_every is not None and self.eval_data is None:
            raise ValueError("eval_every needs eval_data: a file, or a share of the prompts such as 0.1")
        return self


class Adaptation(Strict):
    """Weights that are trained.

    Attributes:
      lora: A LoRA adapter to train in place of the weights, such as `lora.r=16`; null trains every weight.
      quantize: Storage of the frozen weights under the adapter; null keeps them fp32.
    """

    lora: LoraOptions | None = None
    quantize: Quantization | None = None

    @model_validator(mode="after")
    def _frozen(self) -> Adaptation:
        if self.quantize is not None and self.lora is None:
            raise ValueError(f"quantize={self.quantize} stores frozen weights; train an adapter over them: lora.r=16")
        return self


def _has_limit(options: Lengths) -> bool:
    limits = (options.max_length, options.max_prompt_length, options.max_response_length)
    return any(limit is not None for limit in limits)


class Lengths(Strict):
    """Token budgets of a row, and the treatment of a row that exceeds one.

    Attributes:
      max_length: Most tokens of prompt and response together; null sets no limit.
      max_prompt_length: Most tokens of the prompt; null sets no limit.
      max_response_length: Most tokens of a response; null sets no limit.
      truncation: Treatment of a row that is too long: `drop` it, cut the beginning of its prompt (`trim_prompt`) or
        the end of its response (`trim_response`). The rows are counted and shown.
    """

    max_length: PositiveInt | None = 1024
    max_prompt_length: PositiveInt | None = None
    max_response_length: PositiveInt | None = None
    truncation: Annotated[
        Literal["drop", "trim_prompt", "trim_response"],
        ReadWith("a limit: max_length, max_prompt_length or max_response_length", lambda options: _has_limit(options)),
    ] = "drop"


class Optimisation(Strict):
    """Optimiser and learning rate.

    Attributes:
      lr: Peak learning rate.
      optimizer: `adamw`; `rmsprop`, as in the DPO paper; or `adamw_8bit`, whose moments take a byte each (needs
        torchao). All have PyTorch's default constants.
      weight_decay: Decay of matrices, not of biases and norms; decoupled in AdamW, an L2 term in RMSprop.
      max_grad_norm: Global norm to which gradients are clipped; null never clips.
      schedule: Course of the learning rate after the warm-up; linear and cosine end at 0.
      warmup_steps: Steps of linear warm-up, lr (s+1)/(W+1) at step s of W; below 1, a share of the run's steps.
      warmup_from_zero: Whether the warm-up is lr s/W, as in transformers, whose first step changes nothing.
    """

    lr: float = Field(gt=0)
    optimizer: OptimizerName
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(gt=0)
    schedule: ScheduleName
    warmup_steps: int | float = 0.1
    warmup_from_zero: Annotated[bool, ReadWith("warmup_steps above 0", lambda options: options.warmup_steps > 0)] = (
        False
    )

    @field_validator("warmup_steps", mode="before")
    @classmethod
    def _count_or_share(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, float) and 0 <= value < 1:
            return value
        raise ValueError(f"must be a number of steps, or a share of the run below 1, got {value!r}")


class Pace(Strict):
    """Size of a step, and number of steps.

    Attributes:
      batch_size: Examples in an optimiser step, over all processes; responses in an iteration of ppo and rloo.
      micro_batch_tokens: Most tokens computed at once; changes memory and time, never the result.
      epochs: Passes over the data; null makes one, or as many as max_steps needs.
      max_steps: Optimiser steps; with epochs too, the run ends at whichever comes first.
    """

    batch_size: PositiveInt = 64
    micro_batch_tokens: PositiveInt = 8192
    epochs: PositiveInt | None = None
    max_steps: PositiveInt | None = None


class Machine(Strict):
    """Arithmetic, memory and randomness.

    Attributes:
      seed: Seed of the data order and of every random number.
      precision: `fp32`, or `bf16` for bfloat16 autocast; weights and optimiser are fp32 in both. A CPU without bf16
        instructions multiplies rounded numbers in fp32, which is no faster, and warns.
      gradient_checkpointing: Whether activations are computed again in the backward pass, for less memory and about a
        third more time; a number between 0 and 1 is the share of layers that do so.
      compile: Whether torch.compile fuses the operations between the matrix products of a layer: faster steps and less
        memory, a minute or more at the start; on a CPU it needs a C++ compiler.
      threads: CPU threads; null takes PyTorch's number and keeps it when the run is resumed.
      cache: Folder of tokenised data and reference tables; null is $PREFTREE_CACHE, or ~/.cache/preftree.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool | float = False
    compile: bool = False
    threads: int | None = Field(default=None, ge=1, le=1024)
    cache: PathOrId | None = None

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _all_none_or_share(cls, value: object) -> object:
        if isinstance(value, bool) or (isinstance(value, int | float) and 0 <= value <= 1):
            return value
        raise ValueError(f"must be true, false or a share of the layers between 0 and 1, got {value!r}")


HeldOutFigure: TypeAlias = Literal["loss", "accuracy", "reward"]
_WITH_EVALUATIONS = ReadWith(
    "eval_data, which is what evaluations are on", lambda options: options.eval_data is not None
)


class Keeping(Strict):
    """What a run keeps on disk.

    Attributes:
      resume: `auto` resumes from the newest good checkpoint in `out`, `never` starts over; or the path of a checkpoint.
      save_every: Steps between checkpoints; null saves at the end and when the run is stopped.
      keep_checkpoints: Number of checkpoints that stay on disk.
      snapshots: Factor between the steps whose weights are kept, for `RUN@40` and `preftree eval frontier` (2: after
        steps 1, 2, 4, 8, ...); auto is 2 where they take 1 GiB together at most, and none elsewhere; null keeps none.
      keep_best: Held-out figure by which the weights of the best evaluation are kept, as `RUN@best`: `loss`, `accuracy`
        of losses that have one, or `reward` of ppo and rloo; null keeps none.
      stop_after: Evaluations in a row without a gain in that figure (without keep_best in the loss, or the reward of
        ppo and rloo) after which the run ends; null goes on to the last step.
      answers: Prompts, held out where any are, that the model answers before and after training, for the report; 0 for
        none.
    """

    resume: PathOrId = "auto"
    save_every: PositiveInt | None = 500
    keep_checkpoints: PositiveInt = 2
    snapshots: Annotated[float, Field(gt=1)] | Literal["auto"] | None = "auto"
    keep_best: Annotated[HeldOutFigure | None, _WITH_EVALUATIONS] = None
    stop_after: Annotated[PositiveInt | None, _WITH_EVALUATIONS] = None
    answers: int = Field(default=6, ge=0)


TrackerName: TypeAlias = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Tracking(Strict):
    """Trackers of experiments.

    Attributes:
      track: Trackers that get options, figures, report, samples and the place of the model, with commas: `tensorboard`,
        `wandb`, `mlflow`, `trackio` (docs/trackers.md); null has none.
    """

    track: list[TrackerName] = ["tensorboard"]

    @field_validator("track", mode="before")
    @classmethod
    def _with_commas(cls, value: object) -> object:
        if value is None:
            return []
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


class RunConfig(Tracking, Keeping, Machine, Pace, Optimisation, Lengths, Adaptation, ModelAndData):
    """Options of every run on the examples of a file; a recipe adds to them."""

    recipe: ClassVar[str]
    """Name of the recipe, in `RECIPES`."""
