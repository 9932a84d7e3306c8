"""RUN/measured.json: figures measured after training. Every part may be missing."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from preftree.errors import DataError
from preftree.stats.calibration import Bin
from preftree.storage.atomic import write_result
from preftree.storage.json_file import read_json, sealed_json
from preftree.storage.manifest import hash_file


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Point(BaseModel):
    """Reward and KL of a policy; further figures of it are kept and shown.

    Attributes:
      kl: KL(policy || reference), nats per response.
      reward: Expected reward.
      step: Optimiser step; 0 is the reference.
      beta: Beta of the run.
      setting: Options that distinguish the run from others of its method, where that is more than beta.
      seed: Seed of the run.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    kl: float = Field(ge=0)
    reward: float
    step: int | None = None
    beta: float | None = None
    setting: str | None = None
    seed: int | None = None


class Temperature(_Part):
    """A figure at one sampling temperature, with the ends of its confidence interval where it has one.

    Attributes:
      name: Name of the policy, such as `dpo`.
      temperature: Sampling temperature.
      value: Win rate or reward, as `Measured.temperature_figure` says.
    """

    name: str
    temperature: float = Field(ge=0)
    value: float
    low: float | None = None
    high: float | None = None


class Sample(_Part):
    """Answers of reference and policy to one prompt; rewards where they are known."""

    prompt: str
    reference: str
    policy: str
    reference_reward: float | None = None
    policy_reward: float | None = None


class Answered(_Part):
    """Answers to one prompt before and after training; the most likely token each time."""

    prompt: str
    before: str
    after: str


class TokenReward(_Part):
    """A token's text and beta x (policy - reference logp); no reward where the token is not scored."""

    text: str
    reward: float | None


class PairRewards(_Part):
    """Implicit rewards of a pair by token.

    Attributes:
      prompt: Text of the prompt.
      chosen, rejected: The responses' tokens.
      beta: Factor of the logratios.
      where: Row of the pair, or an empty string.
    """

    prompt: str
    chosen: tuple[TokenReward, ...]
    rejected: tuple[TokenReward, ...]
    beta: float
    where: str = ""


class Reliability(_Part):
    """Predictions of about one confidence: their mean, how often they were right, their share of all."""

    confidence: float
    right: float
    share: float

    @classmethod
    def of(cls, bin: Bin) -> Reliability:
        """A bin of a calibration."""
        return cls(**bin._asdict())


class Measured(_Part):
    """Figures that metrics.jsonl cannot hold.

    Attributes:
      how: Settings with which frontier and samples were measured.
      frontier: Points along training.
      optimum: The best reward of any policy at some KLs, where a world gives it.
      temperature: Figures over sampling temperatures, all of one kind.
      temperature_figure: Name of that kind.
      answers: Answers to a few prompts before and after training.
      answers_held_out: Whether these prompts were held out.
      samples: Texts side by side.
      token_rewards: Pairs with a reward for each token.
      reliability: Reliability of a reward model's predictions on held-out pairs, by confidence.
      sampled_tokens: Mean length of the policy's own samples.
      ref_sampled_tokens: Mean length of the reference's samples.
      effective_share: Effective sample size of the weights policy / reference over reference samples, as a share of
        their number: 1 where both agree, near 0 where the policy lives on a few of them.
      unseen_mass: Share of the policy's samples that no pair of the data holds.
      of: SHA-256 of the run's config.yaml; None in files of earlier versions.
    """

    how: dict[str, str | int | None] = Field(default_factory=dict)
    frontier: tuple[Point, ...] = ()
    optimum: tuple[Point, ...] = ()
    temperature: tuple[Temperature, ...] = ()
    temperature_figure: str = "win rate"
    answers: tuple[Answered, ...] = ()
    answers_held_out: bool = False
    samples: tuple[Sample, ...] = ()
    token_rewards: tuple[PairRewards, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    sampled_tokens: float | None = Field(default=None, gt=0)
    ref_sampled_tokens: float | None = Field(default=None, gt=0)
    effective_share: float | None = Field(default=None, ge=0, le=1)
    unseen_mass: float | None = Field(default=None, ge=0, le=1)
    of: str | None = None


def read_measured(path: Path) -> Measured:
    """Read a run's measured.json; a missing file is an empty one.

    Raises:
      DataError: it is not what this module writes, or belongs to a run with other options.
    """
    if not path.exists():
        return Measured()
    advice = "measure again, or move the file away"
    measured = read_json(path, Measured, advice)
    if measured.of not in (None, _options_beside(path)):
        raise DataError(f"{path} is of a run with other options than config.yaml beside it; {advice}")
    return measured


def write_measured(path: Path, measured: Measured) -> None:
    """Write a run's measured.json, with the digest of config.yaml beside it.

    Raises:
      WriteError: it cannot be written.
    """
    content = measured.model_copy(update={"of": _options_beside(path)}).model_dump(mode="json", exclude_defaults=True)
    write_result(path, sealed_json(content), advice="fix that and measure again")


def _options_beside(path: Path) -> str | None:
    config = path.with_name("config.yaml")
    return hash_file(config) if config.is_file() else None
