"""Targets of the updates of an iteration: shaped rewards, and the advantages of tokens or responses."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from preftree.config.online import OnlineConfig, PpoConfig
from preftree.losses.quantities import sum_responses
from preftree.losses.rl.advantages import Moments, explained_variance, gae, k1, penalised_rewards, whiten
from preftree.losses.rl.methods import METHODS, PolicyGradient
from preftree.train.rollouts.learner import Scored


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """Targets of the updates of an iteration.

    Attributes:
      old: Log-probs of the tokens under the sampling policy, [I].
      ref: The same under the reference, [I].
      advantages: Advantage of each action, a token or a response, [I] or [R].
      kl_coef: Weight of the KL penalty in the loss; 0 where it is in the rewards.
      values, returns: The critic's old values and the returns to which they are fitted, [I]; None without a critic.
    """

    old: Float[Tensor, " I"]
    ref: Float[Tensor, " I"]
    advantages: Float[Tensor, " N"]
    kl_coef: float
    values: Float[Tensor, " I"] | None
    returns: Float[Tensor, " I"] | None


def method_of(config: OnlineConfig) -> PolicyGradient:
    """The row of a run's method."""
    return METHODS["ppo" if isinstance(config, PpoConfig) else config.method]


def shape_rewards(
    config: OnlineConfig, rewards: Float[Tensor, " R"], finished: Tensor, moments: Moments
) -> tuple[Float[Tensor, " R"], Moments]:
    """Rewards after the penalty, normalisation and clipping, and the moments of all rewards so far, these included."""
    scores = rewards - config.missing_eos_penalty * (~finished).double()
    if config.normalize_rewards:
        moments = moments.with_batch(scores)
        scores = (scores - moments.mean) / moments.std
    if config.clip_rewards is not None:
        scores = scores.clamp(-config.clip_rewards, config.clip_rewards)
    return scores, moments


def aim(
    config: OnlineConfig, scored: Scored, scores: Float[Tensor, " R"], count_R: Tensor, kl_coef: float
) -> tuple[Targets, dict[str, float]]:
    """Targets of the updates, and their figures."""
    kl_I = k1(scored.policy, scored.ref)
    returns_R = scores - kl_coef * sum_responses(kl_I, count_R).values
    figures = {"penalised_return": float(returns_R.mean())}
    method = method_of(config)
    if isinstance(config, PpoConfig):
        assert scored.values is not None
        rewards_I = penalised_rewards(scores, kl_I, count_R, kl_coef=kl_coef)
        advantages, returns = gae(rewards_I, scored.values, count_R, gamma=config.gamma, lam=config.lam)
        figures["explained_variance"] = explained_variance(scored.values, returns)
    else:
        assert method.advantage is not None
        returns, rewards = None, returns_R if method.kl_in == "reward" else scores
        advantages = method.advantage(rewards.view(-1, config.samples_per_prompt)).flatten()
    figures |= {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std(correction=0))}
    if isinstance(config, PpoConfig) and config.whiten_advantages:
        advantages = whiten(advantages)
    if method.ratio == "token" and method.advantage is not None:
        advantages = advantages.repeat_interleave(count_R)
    in_loss = kl_coef if method.kl_in == "loss" else 0.0
    return Targets(scored.policy, scored.ref, advantages, in_loss, scored.values, returns), figures
