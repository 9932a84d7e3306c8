"""PPO and RLOO from their options to a model folder: prompts, a reward, and a policy that answers."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from preftree.config.online import OnlineConfig, PpoConfig, RlooConfig
from preftree.data.prompts import PromptSet, open_prompts
from preftree.errors import ConfigError
from preftree.judges.functions import identify
from preftree.judges.rewards import load_rewards
from preftree.models.load import load_tokenizer
from preftree.run_folder import writer as folder
from preftree.runtime.ranks import open_ranks
from preftree.scoring.critic import Critic
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import verify_scorer
from preftree.storage.checkpoint import LoadedCheckpoint
from preftree.train.finish import finish
from preftree.train.loop import Outcome, Plan, train
from preftree.train.open_run import adaptation, settle, warmup_of
from preftree.train.policy import Policy, Reference, find_live_reference, load_policy
from preftree.train.rollouts.iteration import advance, begin_state, evaluate
from preftree.train.rollouts.learner import Learner
from preftree.train.state import Progress
from preftree.train.step.optimizer import build_optimizer, check_optimizer
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

FREE = frozenset(
    {
        *("model", "data", "eval_data", "eval_every", "out", "reward", "reference", "lora", "resume", "save_every"),
        *("keep_checkpoints", "snapshots", "micro_batch_tokens", "generation_batch", "gradient_checkpointing"),
        *("threads", "cache", "epochs", "max_steps", "warmup_steps"),
    }
)
"""Options that do not decide which weights come after which, or that stand in a trajectory as digests."""


def run_ppo(config: PpoConfig) -> Outcome:
    """Everything `preftree ppo` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    return _run(config)


def run_rloo(config: RlooConfig) -> Outcome:
    """Everything `preftree rloo` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    return _run(config)


def _run(config: OnlineConfig) -> Outcome:
    with open_ranks() as ranks, folder.claim_folder(config, ranks):
        if ranks.size > 1:
            raise ConfigError(f"preftree {config.recipe} runs in one process, got {ranks.size}; leave torchrun out")
        check_optimizer(config)
        start = folder.find_start(config, ranks)
        config = settle(config, start)
        policy, tokenizer = load_policy(config, ranks), load_tokenizer(config.model)
        config = config.model_copy(update={"lora": policy.lora})
        if config.gradient_checkpointing:
            policy.scorer.checkpoint_gradients(float(config.gradient_checkpointing))
        prompts = open_prompts(config.data.path, tokenizer)
        held_out = None if config.eval_data is None else open_prompts(config.eval_data, tokenizer)
        rewards = load_rewards(config.reward)
        reference = find_live_reference(config, policy, tokenizer, ranks)
        steps = _num_steps(config, len(prompts))
        config = config.model_copy(update={"warmup_steps": warmup_of(config, start, steps)})
        path = _trajectory(config, policy, reference, prompts, steps)
        folder.check_trajectory(config, start, path)
        if folder.is_finished(config, start, steps):
            assert start is not None
            log.info("%s is finished at step %d; nothing to do", config.out, start.step)
            return Outcome(Progress(**start.state.meta["progress"]), {}, 0)
        _check_budget(config, prompts)
        folder.start_over(config, ranks)
        folder.write_config(config, ranks)
        report = verify_scorer(policy.scorer, _probes(prompts))
        log.info(
            "scores equal the model's own: difference %.1e nats of %.1e allowed", report.difference, report.tolerance
        )
        for scorer in {policy.scorer, reference.scorer}:
            _temper(scorer, config.temperature)
        critic = None
        if isinstance(config, PpoConfig):
            module = Critic(policy.scorer, shared=config.critic == "shared")
            critic = (module, build_optimizer(module, config))
        models = 1 + (reference.scorer is not policy.scorer) + (critic is not None and critic[0].trunk is not None)
        _describe(config, policy, prompts, held_out, steps, models, start)
        optimizer = build_optimizer(policy.scorer, config)
        learner = Learner(
            config, policy.scorer, optimizer, critic, reference, tokenizer, prompts, held_out, rewards, steps
        )
        about = {
            "policy": policy.words,
            "reference": reference.words,
            "models_in_memory": models,
            "trajectory": path,
            "config": config.model_dump(),
            "environment": folder.environment(ranks),
        }
        plan = Plan(
            advance=partial(advance, learner),
            num_steps=steps,
            steps_per_epoch=len(prompts) * config.samples_per_prompt / config.batch_size,
            evaluate=None if held_out is None else partial(evaluate, learner),
            about=about,
            state=begin_state(config),
            critic=critic,
        )
        outcome = train(plan, policy.scorer, optimizer, config, ranks, start=start)
        if not outcome.signum:
            finish(config, policy, tokenizer, outcome, about, ranks)
        return outcome


def _num_steps(config: OnlineConfig, num_prompts: int) -> int:
    """Iterations of a run: its epochs over the prompts, or max_steps, whichever ends first; else one epoch."""
    if config.epochs is None and config.max_steps is not None:
        return config.max_steps
    whole = math.ceil(num_prompts * config.samples_per_prompt * (config.epochs or 1) / config.batch_size)
    return whole if config.max_steps is None else min(whole, config.max_steps)


def _trajectory(
    config: OnlineConfig, policy: Policy, reference: Reference, prompts: PromptSet, num_steps: int
) -> dict[str, object]:
    """What decides which weights come after which."""
    digest = hashlib.sha256()
    for own in prompts.ids:
        digest.update(np.array([len(own), *own], np.int64).tobytes())
    return {
        "recipe": config.recipe,
        "weights of the model": policy.weights,
        **adaptation(policy, config),
        "weights of the reference": reference.weights,
        "training data": digest.hexdigest(),
        "reward": identify(config.reward),
        **{name: value for name, value in config.model_dump().items() if name not in FREE},
        "steps of warm-up": config.warmup_steps,
        "steps of the schedule": None if config.schedule == "constant" else num_steps,
    }


def _check_budget(config: OnlineConfig, prompts: PromptSet) -> None:
    longest = max(len(own) for own in prompts.ids) + config.max_new_tokens - 1
    if longest > config.micro_batch_tokens:
        raise ConfigError(
            f"micro_batch_tokens must be at least {longest} to hold the longest prompt with max_new_tokens="
            f"{config.max_new_tokens}, got {config.micro_batch_tokens}; raise it, or lower max_new_tokens"
        )


def _probes(prompts: PromptSet) -> list[list[TokenSequence]]:
    """A few prompts, each with two made-up responses: its own tokens, and those of another."""
    by_length = sorted(prompts.ids, key=len)[: max(1, len(prompts) // 2)]
    chosen = [by_length[place] for place in np.unique(np.linspace(0, len(by_length) - 1, 4).round().astype(int))]
    groups = []
    for own, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        responses = [np.array([*own, *more], np.int32) for more in (own[:256], other[:128][::-1])]
        groups.append([TokenSequence(ids, np.arange(len(ids)) >= len(own)) for ids in responses])
    return groups


def _temper(scorer: Scorer, temperature: float) -> None:
    """Score at a sampling temperature.

    Raises:
      ConfigError: the model caps its logits, after which nothing divides them.
    """
    if temperature == 1:
        return
    if scorer.head.softcap is not None:
        raise ConfigError(f"temperature={temperature:g} needs logits without a cap, and this model caps them; leave it")
    scorer.head = replace(scorer.head, scale=scorer.head.scale / temperature)


def _describe(
    config: OnlineConfig,
    policy: Policy,
    prompts: PromptSet,
    held_out: PromptSet | None,
    num_steps: int,
    models: int,
    start: LoadedCheckpoint | None,
) -> None:
    """Say what is trained on what, and from where."""
    size = sum(parameter.numel() for parameter in policy.scorer.parameters()) / 1e6
    words: Mapping[str, str] = {"shared": "a critic on its trunk", "separate": "a critic of its own"}
    critic = words[config.critic] if isinstance(config, PpoConfig) else f"no critic, advantage={config.advantage}"
    log.info("%s: %.1f M parameters, %s; models in memory: %d", config.model, size, critic, models)
    log.info("reward %s, KL against %s", config.reward, config.reference)
    log.info(
        "%d prompts (%d held out), %d iterations of %d responses, %d to a prompt",
        len(prompts),
        0 if held_out is None else len(held_out),
        num_steps,
        config.batch_size,
        config.samples_per_prompt,
    )
    if start is not None:
        log.info("going on from %s", start.path)
