"""Options of `preftree ppo` and `preftree rloo`, which sample from the policy that they train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from preftree.config.base import (
    Adaptation,
    Keeping,
    Machine,
    Optimisation,
    OptimizerName,
    Pace,
    PathOrId,
    ScheduleName,
    Strict,
    Tracking,
    check_path_alone,
)
from preftree.config.read_with import ReadWith


class PromptSource(Strict):
    """A file of prompts; `data: FILE` sets its path.

    Attributes:
      path: Any data file, of which only the prompts are read; or a .txt file with one prompt a line.
    """

    path: PathOrId


class ModelAndPrompts(Strict):
    """Model, prompts, reward, reference and folder of a run.

    Attributes:
      model: A model folder, or a model id of the Hugging Face hub; usually a fine-tuned one.
      data: Prompts to answer: a path.
      eval_data: Held-out prompts: a path; null holds out none.
      eval_every: Iterations between evaluations, from the start to the end; null makes some ten of them in a run.
      out: Folder of the run.
      reward: `world:NAME`, `FILE.py:FUNCTION`, `MODULE:FUNCTION`, the folder of a reward model, `rm:PATH:LABEL`, or a
        language model with a pointwise rubric: `llm:FILE.yaml`, `openai:MODEL@URL`.
      reference: Reference of the KL penalty: `start` is the model that the run starts from; a path or hub id is
        another.
    """

    model: PathOrId
    data: Annotated[PromptSource, BeforeValidator(check_path_alone, json_schema_input_type=PathOrId | PromptSource)]
    eval_data: PathOrId | None = None
    eval_every: PositiveInt | None = None
    out: PathOrId
    reward: PathOrId
    reference: PathOrId = "start"

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> ModelAndPrompts:
        if self.eval_every is not None and self.eval_data is None:
            raise ValueError("eval_every needs eval_data: a file of prompts that are not trained on")
        return self

    @property
    def reference_place(self) -> str:
        """Name of the reference: `start`, a path or a hub id."""
        return self.reference

    @property
    def reference_schedule(self) -> None:
        """None: the reference is fixed."""
        return


class Rollouts(Strict):
    """Sampled responses; `batch_size` counts those of an iteration.

    Attributes:
      samples_per_prompt: Responses to each prompt of an iteration.
      minibatch_size: Responses in an update; null takes the whole batch.
      ppo_epochs: Passes over the responses of an iteration.
      temperature: Sampling temperature; log-probs of policy and reference are taken at it too.
      max_new_tokens: Most tokens of a response, with its end-of-sequence token.
      generation_batch: Responses sampled at once; changes memory and time.
    """

    samples_per_prompt: PositiveInt = 4
    minibatch_size: PositiveInt | None = None
    ppo_epochs: PositiveInt
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: PositiveInt = 128
    generation_batch: PositiveInt = 64


class RewardShaping(Strict):
    """Treatment of rewards, and KL penalty.

    Attributes:
      normalize_rewards: Whether the running mean of all rewards so far is subtracted, and the result divided by their
        standard deviation.
      clip_rewards: Largest absolute reward after normalisation; null never clips.
      missing_eos_penalty: Penalty of a response that max_new_tokens cut, subtracted first.
      kl_coef: Reward that a nat of KL to the reference costs; its first value where kl_target is set.
      kl_target: KL of a response in nats, towards which kl_coef is adjusted; null keeps kl_coef fixed.
      kl_horizon: Responses over which kl_coef changes by a fifth at most.
    """

    normalize_rewards: bool = False
    clip_rewards: float | None = Field(default=None, gt=0)
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    kl_coef: float = Field(default=0.05, ge=0)
    kl_target: float | None = Field(default=None, gt=0)
    kl_horizon: Annotated[float, ReadWith("kl_target", lambda options: options.kl_target is not None)] = Field(
        default=10000.0, gt=0
    )

    @model_validator(mode="after")
    def _something_to_steer(self) -> RewardShaping:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target steers kl_coef by factors, which 0 stays under; set kl_coef above 0")
        return self


def _updates_often(options: _Online) -> bool:
    """Whether an iteration makes several updates: before the first one every ratio is 1, and no limit can matter."""
    return options.ppo_epochs > 1 or (options.minibatch_size or options.batch_size) < options.batch_size


_SEVERAL = ReadWith("several updates an iteration: ppo_epochs above 1, or a minibatch_size", _updates_often)


class Surrogate(Strict):
    """Limits of an update.

    Attributes:
      clip: Clipping range of the probability ratio, from 1 - clip to 1 + clip.
      entropy_coef: Weight of the next token's entropy in the objective.
      max_approx_kl: KL in nats a token between the policy and the one that sampled, above which the iteration ends
        early; null never ends it early.
    """

    clip: Annotated[float, _SEVERAL] = Field(default=0.2, gt=0, lt=1)
    entropy_coef: float = Field(default=0.0, ge=0)
    max_approx_kl: Annotated[float | None, _SEVERAL] = Field(default=None, gt=0)


class _Online(
    Tracking, Keeping, Machine, Pace, Optimisation, Adaptation, Surrogate, RewardShaping, Rollouts, ModelAndPrompts
):
    lr: float = Field(default=1e-6, gt=0)
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    schedule: ScheduleName = "constant"

    @field_validator("compile")
    @classmethod
    def _not_compiled(cls, value: bool) -> bool:
        if value:
            raise ValueError("fused layers cannot sample; leave compile out")
        return value

    @model_validator(mode="after")
    def _whole_numbers(self) -> _Online:
        if self.batch_size % self.samples_per_prompt:
            raise ValueError(
                f"batch_size counts responses and must be a multiple of samples_per_prompt={self.samples_per_prompt}, "
                f"got {self.batch_size}"
            )
        if self.minibatch_size is not None and self.batch_size % self.minibatch_size:
            raise ValueError(f"minibatch_size must divide batch_size={self.batch_size}, got {self.minibatch_size}")
        return self


class PpoConfig(_Online):
    """Options of `preftree ppo`.

    Attributes:
      gamma: Discount of later tokens.
      lam: Lambda of the generalised advantage estimates.
      vf_coef: Weight of the critic's loss; it matters with critic=shared.
      clip_value: Largest change of a value in an iteration; null sets no limit.
      critic: `separate` trains a copy of the model as the critic; `shared` trains a linear head on the policy's trunk.
      critic_lr: Learning rate of the critic; null takes lr.
      critic_start: Reward model whose weights and head a separate critic starts from: a folder, a run or a hub id; null
        copies the policy, with a head of 0.
      ptx_data: Demonstrations or plain texts whose likelihood is raised in every update ("PPO-ptx"): a path; null mixes
        none in. An update reads as many rows as it has responses.
      ptx_coef: Weight of their mean negative log-likelihood of a token; 27.8 is that of Ouyang et al. 2022,
        arXiv:2203.02155.
      whiten_advantages: Whether the advantages of an iteration are shifted and scaled to mean 0 and standard deviation
        1.
    """

    recipe: ClassVar[str] = "ppo"
    ppo_epochs: PositiveInt = 4
    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    vf_coef: float = Field(default=0.1, gt=0)
    clip_value: Annotated[float | None, _SEVERAL] = Field(default=0.2, gt=0)
    critic: Literal["separate", "shared"] = "separate"
    critic_lr: float | None = Field(default=None, gt=0)
    critic_start: Annotated[
        PathOrId | None, ReadWith("critic=separate", lambda options: options.critic == "separate")
    ] = None
    ptx_data: PathOrId | None = None
    ptx_coef: Annotated[float, ReadWith("ptx_data", lambda options: options.ptx_data is not None)] = Field(
        default=27.8, gt=0
    )
    whiten_advantages: bool = True

    @model_validator(mode="after")
    def _a_trunk(self) -> PpoConfig:
        if self.lora is not None and self.critic == "separate":
            raise ValueError("lora trains an adapter alone, and critic=separate a whole model; set critic=shared")
        return self

    @model_validator(mode="after")
    def _likely_at_one_temperature(self) -> PpoConfig:
        if self.ptx_data is not None and self.temperature != 1:
            raise ValueError(
                "ptx_data raises likelihoods at temperature 1, and the policy is trained at another; leave it"
            )
        return self


PUBLISHED: dict[str, dict[str, float]] = {
    "rloo": {},
    "grpo": {"kl_coef": 0.04},
    "dr_grpo": {"kl_coef": 0.0},
    "dapo": {"kl_coef": 0.0, "clip_high": 0.28},
    "gspo": {"kl_coef": 0.0, "clip": 3e-4, "clip_high": 4e-4},
    "cispo": {"kl_coef": 0.0, "clip_high": 5.0},
}
"""Defaults by method where they differ from the options' own: those of each paper. The clip of cispo is that of Khatri
et al. 2025, arXiv:2510.13786, since its own paper does not print it."""


class RlooConfig(_Online):
    """Options of `preftree rloo`: no critic; the other responses to a prompt are the baseline.

    Attributes:
      method: `rloo` subtracts the mean of the other responses, and a response is one action. The others subtract the
        mean of all, and their KL penalty is in the loss (docs/online.md): `grpo` divides by the deviation and takes the
        mean over each response's tokens; `dr_grpo` divides by neither; `dapo` clips higher and takes one mean over all
        tokens; `gspo` has one ratio a response, the mean of its tokens'; `cispo` clips the weight, not the gradient.
        Defaults: kl_coef is .04 with grpo and 0 with the others but rloo; clip .0003 with gspo.
      clip_high: Clipping range above 1, up to 1 + clip_high; null takes clip. Defaults: dapo .28, gspo .0004, cispo 5.
    """

    recipe: ClassVar[str] = "rloo"
    ppo_epochs: PositiveInt = 1
    method: Literal["rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "rloo"
    clip: Annotated[
        float, _SEVERAL, ReadWith("another method than cispo", lambda options: options.method != "cispo")
    ] = Field(default=0.2, gt=0, lt=1)
    clip_high: Annotated[float | None, _SEVERAL] = Field(default=None, gt=0)

    @property
    def own_defaults(self) -> Mapping[str, object]:
        """The defaults of the method."""
        return PUBLISHED[self.method]

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, options: object) -> object:
        if not isinstance(options, dict):
            return options
        return {**PUBLISHED.get(str(options.get("method", "rloo")), {}), **options}

    @model_validator(mode="after")
    def _others(self) -> RlooConfig:
        if self.samples_per_prompt < 2:
            raise ValueError("samples_per_prompt must be >= 2: the other responses to a prompt are the baseline, got 1")
        return self


OnlineConfig: TypeAlias = PpoConfig | RlooConfig
