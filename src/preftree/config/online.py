"""Options of `preftree ppo` and `preftree rloo`: runs that sample from the policy they train."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt, field_validator, model_validator

from preftree.config.base import Adaptation, Keeping, Machine, Optimisation, OptimizerName, Pace, Place, Strict


class PromptSource(Strict):
    """A file of prompts; written `data: FILE`.

    Attributes:
      path: Any data file, of which the prompts alone are read; or a .txt file with one prompt a line.
    """

    path: Place


class OnlineStart(Strict):
    """What is trained, from what, by which reward, into which folder.

    Attributes:
      model: A model folder, or a model id of the Hugging Face hub: fine-tuned, as a rule.
      data: The prompts to answer.
      eval_data: Held-out prompts: a file; none by default.
      eval_every: Iterations between evaluations; null evaluates at the end.
      out: Folder of the run.
      reward: `world:NAME`, `FILE.py:FUNCTION`, `MODULE:FUNCTION`, the folder of a reward model, or `rm:PATH:LABEL`.
      reference: What the KL penalty is against: `start` is the model the run starts from; a path or hub id is another.
    """

    model: Place
    data: PromptSource
    eval_data: Place | None = None
    eval_every: PositiveInt | None = None
    out: Place
    reward: Place
    reference: Place = "start"

    @field_validator("data", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> OnlineStart:
        if self.eval_every is not None and self.eval_data is None:
            raise ValueError("eval_every needs eval_data: a file of prompts that are not trained on")
        return self

    @property
    def reference_place(self) -> str:
        """What the reference is."""
        return self.reference

    @property
    def reference_schedule(self) -> None:
        """The reference stays."""
        return


class Rollouts(Strict):
    """How responses are sampled; `batch_size` counts the responses of an iteration.

    Attributes:
      samples_per_prompt: Responses to each prompt of an iteration.
      minibatch_size: Responses of an update; null takes the whole batch.
      ppo_epochs: Passes over the responses of an iteration.
      temperature: Of sampling, and of the policy that is trained: its log-probs, and the reference's, are taken at it.
      max_new_tokens: Most tokens of a response, its end-of-sequence token included.
      generation_batch: Responses sampled at once; changes memory and time.
    """

    samples_per_prompt: PositiveInt = 4
    minibatch_size: PositiveInt | None = None
    ppo_epochs: PositiveInt
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: PositiveInt = 128
    generation_batch: PositiveInt = 64


class RewardShaping(Strict):
    """From a reward to what is learnt from.

    Attributes:
      normalize_rewards: Subtract the running mean of all rewards so far and divide by their standard deviation.
      clip_rewards: Largest absolute reward, after that; null never clips.
      missing_eos_penalty: Taken from the reward of a response that max_new_tokens cut, before all else.
      kl_coef: Reward that a nat of KL to the reference costs; at the start, where kl_target is set.
      kl_target: KL of a response, nats, that kl_coef is steered to; null keeps kl_coef as it is.
      kl_horizon: Responses over which kl_coef changes by a fifth at the most.
      kl_estimator: `k1` (log-ratio) or `k3` (never negative) for the penalty.
    """

    normalize_rewards: bool = False
    clip_rewards: float | None = Field(default=None, gt=0)
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    kl_coef: float = Field(default=0.05, ge=0)
    kl_target: float | None = Field(default=None, gt=0)
    kl_horizon: float = Field(default=10000.0, gt=0)
    kl_estimator: Literal["k1", "k3"] = "k1"

    @model_validator(mode="after")
    def _something_to_steer(self) -> RewardShaping:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target steers kl_coef by factors, which 0 stays under; set kl_coef above 0")
        return self


class Surrogate(Strict):
    """How far an update may go.

    Attributes:
      clip: The policy's ratio is cut off at 1 - clip and 1 + clip.
      entropy_coef: Reward of the loss for a nat of entropy of the next token.
      max_approx_kl: The epochs of an iteration end before an update at which the policy is this far from the one that
        sampled, nats a token; null never ends them.
    """

    clip: float = Field(default=0.2, gt=0, lt=1)
    entropy_coef: float = Field(default=0.0, ge=0)
    max_approx_kl: float | None = Field(default=None, gt=0)


class _Online(Keeping, Machine, Pace, Optimisation, Adaptation, Surrogate, RewardShaping, Rollouts, OnlineStart):
    lr: float = Field(default=1e-6, gt=0)
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"

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
      vf_coef: Weight of the critic's loss; it matters where the trunk is shared.
      clip_value: How far a value may go in an iteration; null lets it go.
      critic: `separate` trains a copy of the model as the critic; `shared` a linear head on the policy's own trunk.
      critic_lr: Learning rate of the critic; null is lr.
      whiten_advantages: Shift and scale the advantages of an iteration to mean 0 and standard deviation 1.
    """

    recipe: ClassVar[str] = "ppo"
    ppo_epochs: PositiveInt = 4
    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    vf_coef: float = Field(default=0.1, gt=0)
    clip_value: float | None = Field(default=0.2, gt=0)
    critic: Literal["separate", "shared"] = "separate"
    critic_lr: float | None = Field(default=None, gt=0)
    whiten_advantages: bool = True

    @model_validator(mode="after")
    def _a_trunk(self) -> PpoConfig:
        if self.lora is not None and self.critic == "separate":
            raise ValueError("lora trains an adapter alone, and critic=separate a whole model; set critic=shared")
        return self


class RlooConfig(_Online):
    """Options of `preftree rloo`: no critic; the other responses to a prompt are the baseline.

    Attributes:
      advantage: `rloo` leaves the response itself out of the mean; `grpo` divides by the group's standard deviation.
    """

    recipe: ClassVar[str] = "rloo"
    ppo_epochs: PositiveInt = 1
    advantage: Literal["rloo", "grpo"] = "rloo"

    @model_validator(mode="after")
    def _others(self) -> RlooConfig:
        if self.samples_per_prompt < 2:
            raise ValueError("samples_per_prompt must be >= 2: the other responses to a prompt are the baseline, got 1")
        return self


OnlineConfig: TypeAlias = PpoConfig | RlooConfig
