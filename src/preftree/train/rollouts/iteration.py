"""One iteration of PPO or RLOO: sample, judge, score, estimate advantages, update a few times.

Responses are scored and trained on packed trees, as in preference training: those to one prompt share it.
Log-probs of the sampling policy come from the same scorer and the same packing as the first epoch of updates, so at
the first minibatch every ratio is 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from preftree.config.online import OnlineConfig, PpoConfig, RlooConfig
from preftree.errors import HalfwayError, TrainingError, UserError
from preftree.losses.quantities import sum_responses
from preftree.losses.rl.advantages import Moments, adapted_kl_coef, k3
from preftree.losses.rl.methods import actions, token_weights
from preftree.losses.rl.policy_gradient import (
    clipped_surrogate,
    is_clipped,
    kl_loss,
    value_loss,
    weighted_likelihood,
)
from preftree.run_folder.metrics_file import Row
from preftree.scoring.vocabulary import head_entropy, head_of
from preftree.stats.intervals import clustered_mean
from preftree.train.rollouts.learner import Learner, score
from preftree.train.rollouts.rollout import Minibatch, Rollout, cut_minibatches, prompts_of
from preftree.train.rollouts.targets import Targets, aim, method_of, shape_rewards
from preftree.train.state import Progress
from preftree.train.step.optimizer import learning_rate, set_learning_rate

LARGEST_START = {"fp32": 1e-4, "bf16": 3e-2}
"""Largest logratio of a token that rounding can cause before the first update of an iteration, nats."""

HELD_OUT_ROW = 1 << 48
"""Number of the first held-out response: its random numbers differ from all others and repeat at every evaluation."""


def begin_state(config: OnlineConfig) -> dict[str, float]:
    """The running state before the first iteration."""
    return _state(config.kl_coef, Moments())


def advance(learner: Learner, progress: Progress) -> tuple[Progress, Row]:
    """Run one iteration, a pure function of progress and weights; returns the new progress and a row of metrics.

    Raises:
      UserError: nothing was updated.
      HalfwayError: something failed after a first update.
    """
    config, began = learner.config, time.perf_counter()
    iteration, device = progress.step, learner.scorer.device
    samples, num = config.samples_per_prompt, config.batch_size
    rows = prompts_of(iteration, num_prompts=len(learner.data.prompts), per_iteration=num // samples, seed=config.seed)
    rollout = learner.sample(learner.data.prompts, rows, samples, iteration * num)
    sampled = time.perf_counter()

    def minibatches(epoch: int) -> list[Minibatch]:
        number, size = iteration * config.ppo_epochs + epoch, config.minibatch_size or num
        cuts = cut_minibatches(num, samples=samples, size=size, seed=config.seed, epoch=number)
        return [learner.lay_out(rollout, cut) for cut in cuts]

    planned = minibatches(0)
    scored = score(learner, rollout, planned)
    kl_coef, moments = progress.state["kl_coef"], _moments(progress.state)
    raw = torch.from_numpy(rollout.rewards_R)
    scores, moments = shape_rewards(config, raw, torch.from_numpy(rollout.finished_R), moments)
    targets, figures = aim(config, scored, scores.to(device), torch.from_numpy(rollout.count_R).to(device), kl_coef)
    judged = time.perf_counter()

    lr = learning_rate(iteration, config, learner.data.num_steps)
    set_learning_rate(learner.optimizer, lr)
    if learner.critic is not None and isinstance(config, PpoConfig):
        set_learning_rate(learner.critic[1], lr * (config.critic_lr or config.lr) / config.lr)
    updates: list[dict[str, float]] = []
    tokens, stopped = 0, False
    for epoch in range(config.ppo_epochs):
        batches = planned if epoch == 0 else minibatches(epoch)
        for place, batch in enumerate(batches):
            number = (iteration * config.ppo_epochs + epoch) * len(batches) + place
            name = f"step {iteration + 1}"
            try:
                done = update(learner, rollout, batch, targets, first=not updates, name=name, number=number)
            except UserError as error:
                if updates:
                    raise HalfwayError(f"{error} (after {len(updates)} updates of this step)") from error
                raise
            tokens += sum(len(micro.batch.input_T) for micro in batch.micros)
            if done is None:
                stopped = True
                break
            updates.append(done)
        if stopped:
            break
    ended = time.perf_counter()

    kl = float(scored.kl.sum()) / num
    after = kl_coef
    if config.kl_target is not None:
        after = adapted_kl_coef(kl_coef, kl, target=config.kl_target, horizon=config.kl_horizon, num_responses=num)
    alone = sum(len(sequence.ids) - 1 for sequence in rollout.sequences)
    progress = replace(
        progress,
        step=iteration + 1,
        examples=progress.examples + num,
        tokens=progress.tokens + tokens,
        tokens_alone=progress.tokens_alone + alone * len(updates) * len(planned[0].responses) // num,
        seconds=progress.seconds + ended - began,
        state=_state(after, moments),
    )
    return progress, {
        "step": progress.step,
        "epoch": progress.step * (num // samples) / len(learner.data.prompts),
        "reward": float(raw.mean()),
        "reward_std": float(raw.std(correction=0)),
        "kl": kl,
        "kl_sampled": float((scored.policy - scored.ref).sum()) / num,
        **figures,
        **_together(updates),
        "entropy": float(scored.entropy.mean()),
        "response_tokens": float(rollout.count_R.mean()),
        "finished": float(rollout.finished_R.mean()),
        "special_tokens": float(rollout.marked_R.mean()),
        "kl_coef": kl_coef,
        "updates": len(updates),
        "lr": lr,
        "responses": progress.examples,
        "tokens": progress.tokens,
        "responses_per_second": num / (ended - began),
        "seconds_generating": sampled - began,
        "seconds_scoring": judged - sampled,
        "seconds_updating": ended - judged,
        "seconds": progress.seconds,
    }


def evaluate(learner: Learner, progress: Progress, stop: Callable[[], int]) -> Mapping[str, float] | None:
    """Reward and KL of one response to each held-out prompt, drawn with the same random numbers every time."""
    if stop():
        return None
    prompts = learner.data.held_out
    assert prompts is not None
    rows = np.arange(len(prompts))
    rollout = learner.sample(prompts, rows, 1, HELD_OUT_ROW)
    scored = score(learner, rollout, [learner.lay_out(rollout, rows)])
    kl_R = sum_responses(scored.kl, torch.from_numpy(rollout.count_R).to(scored.kl.device)).values.cpu().numpy()
    figures: dict[str, float] = {}
    for name, values in (("reward", rollout.rewards_R), ("kl", kl_R)):
        figures[name] = float(values.mean())
        if len(np.unique(prompts.same)) > 1:
            interval = clustered_mean(values, np.ones(len(values)), prompts.same)
            figures |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    shares = {"finished": float(rollout.finished_R.mean()), "special_tokens": float(rollout.marked_R.mean())}
    return figures | {"response_tokens": float(rollout.count_R.mean()), **shares, "responses": len(rows)}


def update(
    learner: Learner, rollout: Rollout, batch: Minibatch, targets: Targets, *, first: bool, name: str, number: int = 0
) -> dict[str, float] | None:
    """Make one update; returns its figures, or None where the policy is too far from the sampling policy to update.

    Args:
      learner: The models.
      rollout: The responses.
      batch: The responses of this update.
      targets: Targets of the updates.
      first: Whether nothing was updated since the responses were scored: the ratios must be 1.
      name: Name of the step in errors.
      number: Number of the update in the run.
    Raises:
      TrainingError: a figure is not finite, or a first ratio is not 1; nothing was updated.
    """
    config, device, method = learner.config, learner.scorer.device, method_of(learner.config)
    num_tokens, num_responses = int(rollout.count_R[batch.responses].sum()), len(batch.responses)
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    largest = torch.zeros(2, dtype=torch.float64, device=device)
    for micro in batch.micros:
        responses = batch.responses[list(micro.examples)]
        index = torch.from_numpy(rollout.places(responses)).to(device)
        trees = micro.batch.to(device)
        count_R = trees.count_R
        head = head_of(learner.scorer, trees)
        logps = head.logps(trees.target_S).index_select(0, trees.prediction_I).double()
        old = targets.old.index_select(0, index)
        acts, old_acts = (actions(each, count_R, method) for each in (logps, old))
        sizes = {"num_tokens": num_tokens, "num_responses": num_responses, "limit": config.max_new_tokens}
        weights_I = token_weights(count_R, method, **sizes)
        of_tokens = method.ratio == "token"
        place = index if of_tokens else torch.from_numpy(responses).to(device)
        weights = weights_I if of_tokens else torch.full_like(acts, 1 / num_responses)
        advantages = targets.advantages.index_select(0, place)
        high = config.clip_high if isinstance(config, RlooConfig) else None
        if method.weighs:
            assert high is not None
            policy = (weights * weighted_likelihood(acts, old_acts, advantages, clip_high=high)).sum()
        else:
            surrogate = clipped_surrogate(acts, old_acts, advantages, clip=config.clip, clip_high=high)
            policy = (weights * surrogate).sum()
        loss, parts = policy, [policy]
        if targets.kl_coef > 0:
            penalty = kl_loss(logps, old, targets.ref.index_select(0, index))
            loss = loss + targets.kl_coef * (weights_I * penalty).sum()
        if learner.critic is not None and isinstance(config, PpoConfig):
            assert targets.values is not None and targets.returns is not None
            values = learner.critic[0](trees, head.hidden_SD).double()
            known = (targets.values.index_select(0, index), targets.returns.index_select(0, index))
            value = value_loss(values, *known, clip=config.clip_value).sum() / num_tokens
            loss = loss + config.vf_coef * value
            parts.append(value)
        else:
            parts.append(torch.zeros_like(policy))
        if config.entropy_coef > 0:
            entropy = head_entropy(head).index_select(0, trees.prediction_I).double().sum() / num_tokens
            loss = loss - config.entropy_coef * entropy
        loss.backward()
        with torch.no_grad():
            clip = None if method.weighs else config.clip
            far = is_clipped(acts, old_acts, advantages, clip=clip, clip_high=high).sum()
            far = far / (num_tokens if of_tokens else num_responses)
            moved = k3(old, logps).sum() / num_tokens
            sums += torch.stack([*parts, far, moved, loss]).detach()
            gap = acts - old_acts
            largest = torch.maximum(largest, torch.stack([gap.max(), (logps - old).abs().max()]))
    mixed_in = (
        learner.mixed_in.descend(learner.scorer, number, num_responses) if learner.mixed_in else sums.new_zeros(())
    )
    modules = [learner.scorer, *([learner.critic[0]] if learner.critic else [])]
    trained = [[p for p in module.parameters() if p.requires_grad and p.grad is not None] for module in modules]
    norms = [nn.utils.get_total_norm([p.grad for p in some if p.grad is not None]) for some in trained]
    host = torch.cat([sums, largest, torch.stack([*norms, mixed_in]).double()]).cpu()  # the one copy to the host
    policy_loss, critic_loss, clipped, moved, _, gap, start = host[:7].tolist()
    if not bool(host.isfinite().all()):
        _forget(learner)
        raise TrainingError(
            f"{name}: the policy's loss is {policy_loss:g}, the critic's {critic_loss:g}, the gradient's norm "
            f"{float(host[7]):g}; nothing was updated: lower lr or clip, or look at the rewards"
        )
    if first and start > LARGEST_START[config.precision]:
        _forget(learner)
        raise TrainingError(
            f"{name}: before the first update a token's logratio to the sampling policy is {start:.3g} nats "
            f"(allowed: {LARGEST_START[config.precision]:g}), and must be 0 up to rounding; please report it"
        )
    if config.max_approx_kl is not None and moved > config.max_approx_kl:
        _forget(learner)
        return None
    for some, norm in zip(trained, norms, strict=True):
        if config.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(some, config.max_grad_norm, norm)
    learner.optimizer.step()
    if learner.critic is not None:
        learner.critic[1].step()
    _forget(learner)
    figures = {
        "policy_loss": policy_loss,
        "clip_fraction": clipped,
        "approx_kl": moved,
        "ratio_max": float(np.exp(gap)),
        "grad_norm": float(host[7]),
    }
    if learner.critic is not None:
        figures |= {"value_loss": critic_loss, "critic_grad_norm": float(host[8])}
    return figures | ({"ptx_loss": float(host[-1])} if learner.mixed_in else {})


def _forget(learner: Learner) -> None:
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.critic is not None:
        learner.critic[1].zero_grad(set_to_none=True)


def _together(updates: list[dict[str, float]]) -> dict[str, float]:
    """Means over the updates of an iteration, and the largest ratio."""
    means = {name: float(np.mean([figures[name] for figures in updates])) for name in updates[0]}
    return means | {"ratio_max": max(figures["ratio_max"] for figures in updates)}


def _state(kl_coef: float, moments: Moments) -> dict[str, float]:
    return {
        "kl_coef": kl_coef,
        "rewards_seen": moments.count,
        "rewards_mean": moments.mean,
        "rewards_square": moments.square,
    }


def _moments(state: Mapping[str, float]) -> Moments:
    return Moments(state["rewards_seen"], state["rewards_mean"], state["rewards_square"])
