"""Recipes of PPO and RLOO: a policy that learns from the rewards of sampled responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch.optim import Optimizer

from preftree.config.online import OnlineConfig, PpoConfig, RlooConfig
from preftree.errors import ConfigError
from preftree.judges.reward_model import find_reward_model
from preftree.judges.rewards import load_rewards
from preftree.models.load import load_tokenizer
from preftree.models.reward_model import load_reward_model
from preftree.run_folder.metrics_file import Row
from preftree.runtime.ranks import Ranks
from preftree.scoring.critic import Critic
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.scorer import Scorer
from preftree.train.loop import Measure, Outcome, train
from preftree.train.open_run import OpenRun, admit, open_run
from preftree.train.policy import Policy, find_live_reference, load_policy
from preftree.train.rollouts.iteration import advance, begin_state, evaluate
from preftree.train.rollouts.learner import Learner
from preftree.train.rollouts.mixed_in import open_mixed_in
from preftree.train.rollouts.prompts import online_trajectory, open_run_prompts
from preftree.train.state import Companion, Progress
from preftree.train.step.optimizer import build_optimizer

log = logging.getLogger("preftree")


def run_ppo(config: PpoConfig, measure: Measure | None = None) -> Outcome:
    """Train as `preftree ppo`, from the options to RUN/model.

    Args:
      config: The options.
      measure: As of `train`.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy.
    """
    return _run(config, measure)


def run_rloo(config: RlooConfig, measure: Measure | None = None) -> Outcome:
    """Train as `preftree rloo`, from the options to RUN/model.

    Args:
      config: The options.
      measure: As of `train`.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy.
    """
    return _run(config, measure)


def _run(config: OnlineConfig, measure: Measure | None) -> Outcome:
    with open_run(config, _load) as run:
        data = open_run_prompts(run)
        rewards = load_rewards(config.reward)
        reference = find_live_reference(run.config, run.policy, run.tokenizer, run.ranks)
        mixed_in = open_mixed_in(run)
        trajectory = online_trajectory(run, data, reference, mixed_in)
        if finished := admit(run, data, trajectory):
            return Outcome(finished)
        for scorer in {run.scorer, reference.scorer}:
            _set_temperature(scorer, config.temperature)
        critic = _make_critic(run)
        models = 1 + (reference.scorer is not run.scorer) + (critic is not None and critic[0].trunk is not None)
        _describe(run.config, models)
        optimizer = build_optimizer(run.scorer, run.config)
        config = run.config.model_copy(update={"warmup_steps": data.warmup})
        learner = Learner(config, run.scorer, optimizer, critic, reference, run.tokenizer, data, rewards, mixed_in)
        return train(run, OnlineSteps(learner), trajectory, measure, reference=reference.words, models_in_memory=models)


@dataclass(frozen=True, eq=False, slots=True)
class OnlineSteps:
    """Iterations of an online run: sample, judge, score, update.

    Attributes:
      learner: The models and the prompts.
    """

    learner: Learner

    @property
    def optimizer(self) -> Optimizer:
        """The policy's optimiser."""
        return self.learner.optimizer

    @property
    def num_steps(self) -> int:
        """Iterations of the whole run."""
        return self.learner.data.num_steps

    @property
    def steps_per_epoch(self) -> float:
        """Iterations of one pass over the prompts."""
        config = self.learner.config
        return len(self.learner.data.prompts) * config.samples_per_prompt / config.batch_size

    @property
    def state(self) -> Mapping[str, float]:
        """Running state before the first iteration."""
        return begin_state(self.learner.config)

    @property
    def companions(self) -> Mapping[str, Companion]:
        """The critic, where there is one."""
        return {} if self.learner.critic is None else {"critic": Companion(*self.learner.critic)}

    @property
    def has_evaluation(self) -> bool:
        """Whether prompts are held out."""
        return self.learner.data.held_out is not None

    def step(self, progress: Progress) -> tuple[Progress, Row]:
        """Make one iteration."""
        return advance(self.learner, progress)

    def evaluate(self, progress: Progress, stop: Callable[[], int]) -> Mapping[str, float] | None:
        """Reward and KL of one response to each held-out prompt."""
        return evaluate(self.learner, progress, stop)


def _load(config: OnlineConfig, ranks: Ranks) -> Policy:
    if ranks.size > 1:
        raise ConfigError(f"preftree {config.recipe} runs in one process, got {ranks.size}; leave torchrun out")
    return load_policy(config, ranks)


def _make_critic(run: OpenRun[OnlineConfig]) -> tuple[Critic, Optimizer] | None:
    """The critic of PPO with its optimiser; RLOO has none."""
    config = run.config
    if not isinstance(config, PpoConfig):
        return None
    critic = Critic(run.scorer, shared=config.critic == "shared", start=_critic_start(run, config))
    return critic, build_optimizer(critic, config)


def _critic_start(run: OpenRun[OnlineConfig], config: PpoConfig) -> RewardScorer | None:
    """The reward model that the critic starts from; None where it starts from the policy.

    Raises:
      ConfigError: there is none, or it has another vocabulary.
    """
    if config.critic_start is None:
        return None
    place = find_reward_model(f"rm:{config.critic_start.removeprefix('rm:')}")
    assert place is not None
    if load_tokenizer(place.model).get_vocab() != run.tokenizer.get_vocab():
        raise ConfigError(
            f"critic_start={config.critic_start} has another vocabulary than model={config.model}, so it cannot read "
            "the same tokens; give a reward model with the same tokenizer"
        )
    scorer = RewardScorer(load_reward_model(place.model, device=run.ranks.device), precision=config.precision)
    if scorer.shares_prefixes != run.scorer.shares_prefixes:
        raise ConfigError(f"critic_start={config.critic_start} and model={config.model} must be of one architecture")
    return scorer


def _set_temperature(scorer: Scorer, temperature: float) -> None:
    """Score at a sampling temperature.

    Raises:
      ConfigError: the model caps its logits, which therefore cannot be divided by a temperature.
    """
    if temperature == 1:
        return
    if scorer.head.softcap is not None:
        raise ConfigError(f"temperature={temperature:g} needs logits without a cap, and this model caps them; leave it")
    scorer.head = replace(scorer.head, scale=scorer.head.scale / temperature)


def _describe(config: OnlineConfig, models: int) -> None:
    """Log the critic, the reward and the reference."""
    critics = {"shared": "a critic on its trunk", "separate": "a separate critic"}
    critic = critics[config.critic] if isinstance(config, PpoConfig) else f"no critic, method={config.method}"
    log.info("%s; models in memory: %d", critic, models)
    log.info("reward %s, KL against %s", config.reward, config.reference)
