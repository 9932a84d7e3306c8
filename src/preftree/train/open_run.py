"""A run from its options to its model: what the recipes share around the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from preftree.config.base import Machine, RunConfig
from preftree.config.recipes import AnyConfig
from preftree.data.order import steps_per_epoch
from preftree.data.store.store import Examples
from preftree.models.adapters import targeted, trained_parameters
from preftree.models.load import load_tokenizer
from preftree.reference.moving import Follower
from preftree.run_folder import writer as folder
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import ProbeReport, verify_scorer
from preftree.storage.checkpoint import LoadedCheckpoint
from preftree.train.dataset import Data, check_budget, num_steps, open_data, probe_rows, steps_from
from preftree.train.finish import finish
from preftree.train.loop import Outcome, Plan, held_out, supervised, train
from preftree.train.policy import Policy, load_policy
from preftree.train.state import Progress
from preftree.train.step.optimizer import build_optimizer, check_optimizer, warmup_length
from preftree.train.step.task import Task
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

C = TypeVar("C", bound=RunConfig)
M = TypeVar("M", bound=Machine)


@dataclass(frozen=True, eq=False, slots=True)
class Setup(Generic[C]):
    """What a run has at hand before its first step.

    Attributes:
      config: The options, with nothing left open.
      ranks: The ranks.
      start: The checkpoint to go on from; None for a fresh run.
      policy: The model in training as it was loaded: not yet where the checkpoint left it.
      tokenizer: The policy's.
      data: What to train on and what to hold out.
      num_steps: Steps of the whole run.
      warmup: Steps of its warm-up.
    """

    config: C
    ranks: Ranks
    start: LoadedCheckpoint | None
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    data: Data
    num_steps: int
    warmup: int

    @property
    def scorer(self) -> Scorer:
        """The policy, scoring."""
        return self.policy.scorer


def prepare(
    config: C,
    ranks: Ranks,
    start: LoadedCheckpoint | None,
    load: Callable[[C, Ranks], Policy] | None = None,
) -> Setup[C]:
    """Pin threads and seeds, load the model, tokenise the data.

    Args:
      config: The options.
      ranks: The ranks.
      start: The checkpoint to go on from.
      load: Loads the model, where it is no language model.
    Raises:
      UserError: one of these cannot be.
    """
    check_optimizer(config)
    config = settle(config, start)
    policy, tokenizer = (load or load_policy)(config, ranks), load_tokenizer(config.model)
    config = config.model_copy(update={"lora": policy.lora})
    if config.gradient_checkpointing:
        policy.scorer.checkpoint_gradients(float(config.gradient_checkpointing))
    if config.compile:
        policy.scorer.compile_layers()
    data = open_data(config, tokenizer, ranks)
    steps = num_steps(config, len(data.train.rows))
    return Setup(config, ranks, start, policy, tokenizer, data, steps, warmup_of(config, start, steps))


def settle(config: M, start: LoadedCheckpoint | None) -> M:
    """Fix what the options left open, pin the CPU threads and seed the random numbers."""
    threads = config.threads or (start.state.meta["environment"]["threads"] if start else torch.get_num_threads())
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    return config.model_copy(update={"threads": threads, "cache": config.cache or str(cache_root())})


def warmup_of(config: AnyConfig, start: LoadedCheckpoint | None, num_steps: int) -> int:
    """Steps of warm-up: under a constant rate a run that is made longer keeps the length it began with."""
    if start and config.schedule == "constant" and start.state.meta["config"]["warmup_steps"] == config.warmup_steps:
        return start.state.meta["trajectory"]["steps of warm-up"]
    return warmup_length(config, num_steps)


def trajectory(setup: Setup[C], recipe: Mapping[str, object]) -> dict[str, object]:
    """What decides which weights come after which; paths, budgets and how often to save do not.

    Args:
      setup: The run.
      recipe: What the recipe adds: its name, its loss.
    """
    config = setup.config
    return {
        **recipe,
        "weights of the model": setup.policy.weights,
        **adaptation(setup.policy, config),
        "training data": setup.data.train.store.digest,
        "held-out share": config.eval_data if isinstance(config.eval_data, float) else None,
        "data.order": config.data.order,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "precision": config.precision,
        **({"compile": True} if config.compile else {}),
        "optimizer": config.optimizer,
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "schedule": config.schedule,
        "steps of warm-up": setup.warmup,
        # A longer run under a constant rate only goes on; under a falling one every step would have been another.
        "steps of the schedule": None if config.schedule == "constant" else setup.num_steps,
    }


def adaptation(policy: Policy, config: AnyConfig) -> dict[str, object]:
    """What an adapter adds to a trajectory; nothing where all weights are trained."""
    lora = policy.lora
    if lora is None:
        return {}
    options = {f"lora.{name}": value for name, value in lora.model_dump(exclude={"name", "new"}).items()}
    start = "merged" if policy.merged else "fresh" if policy.is_fresh else "of the model"
    return {"adapter": start, **options, "quantize": config.quantize}


def admit(
    setup: Setup[C],
    path: Mapping[str, object],
    verify: Callable[[Scorer, Sequence[Sequence[TokenSequence]]], ProbeReport] = verify_scorer,
) -> Outcome | None:
    """Look whether the run may start or go on; the outcome where it has finished before.

    Args:
      setup: The run.
      path: Its trajectory.
      verify: Compares the tree path with the model itself, on a few examples.
    Raises:
      CheckpointError: the checkpoint is of another trajectory.
      ConfigError: an example is larger than a micro-batch may be.
      TrainingError: the tree path does not score as the model itself does.
    """
    config, start, data, scorer = setup.config, setup.start, setup.data, setup.scorer
    folder.check_trajectory(config, start, path)
    if folder.is_finished(config, start, setup.num_steps):
        assert start is not None
        log.info("%s is finished at step %d; nothing to do", config.out, start.step)
        return Outcome(Progress(**start.state.meta["progress"]), {}, 0)
    for part in (data.train, data.held_out):
        if part is not None:
            check_budget(part, scorer.shares_prefixes, config.micro_batch_tokens)
    folder.start_over(config, setup.ranks)
    folder.write_config(config, setup.ranks)
    _describe(setup)
    report = verify(scorer, [data.train.store[row].sequences for row in probe_rows(data.train)])
    log.info("scores equal the model's own: difference %.1e nats of %.1e allowed", report.difference, report.tolerance)
    return None


def execute(
    setup: Setup[C],
    task: Callable[[Examples, bool], Task],
    path: Mapping[str, object],
    *,
    reference: str = "none",
    follower: Follower | None = None,
) -> Outcome:
    """Train, and write the model where the run came to its end.

    Args:
      setup: The run.
      task: Makes the recipe's task of a store of examples, and of whether they are held out.
      path: The run's trajectory, for its checkpoints.
      reference: What the policy is compared with, for people.
      follower: The reference, if it moves.
    """
    config, data = setup.config, setup.data
    about = {
        "policy": setup.policy.words,
        "reference": reference,
        "trajectory": dict(path),
        "config": config.model_dump(),
        "environment": folder.environment(setup.ranks),
    }
    optimizer = build_optimizer(setup.scorer, config)
    settled = config.model_copy(update={"warmup_steps": setup.warmup})  # a share of a longer run would be another count
    own, length = task(data.train.store, False), steps_per_epoch(len(data.train.rows), config.batch_size)
    machine = (setup.scorer, optimizer, settled, setup.ranks)
    steps = partial(steps_from, data.train, config, last=setup.num_steps)
    measured = None
    if (rest := data.held_out) is not None:
        measured = held_out(task(rest.store, True), rest.rows, setup.scorer, settled, setup.ranks)
    plan = Plan(
        advance=supervised(own, steps, setup.num_steps, length, *machine, follower),
        num_steps=setup.num_steps,
        steps_per_epoch=length,
        evaluate=measured,
        about=about,
        state=own.state,
        reference=follower and follower.model,
    )
    outcome = train(plan, *machine, start=setup.start)
    if not outcome.signum:
        finish(config, setup.policy, setup.tokenizer, outcome, about, setup.ranks)
    return outcome


def _describe(setup: Setup[C]) -> None:
    """Say what is trained on what, and from where."""
    config, scorer, data, ranks = setup.config, setup.scorer, setup.data, setup.ranks
    size = sum(parameter.numel() for parameter in scorer.parameters())
    trained = sum(parameter.numel() for parameter in trained_parameters(scorer).values())
    device = f"{ranks.size} x cuda" if ranks.device.type == "cuda" else f"{ranks.size} x cpu, {config.threads} threads"
    sharing = "" if scorer.shares_prefixes else ", prompts computed once per response"
    log.info("%s: %.1f M parameters, %s on %s%s", config.model, size / 1e6, config.precision, device, sharing)
    if (lora := setup.policy.lora) is not None:
        kind = f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.r}, alpha {lora.alpha:g}"
        log.info(
            "%s: %s on %d layers, %.2f M parameters trained%s",
            setup.policy.words,
            kind,
            len(targeted(scorer)),
            trained / 1e6,
            f", base in {config.quantize}" if config.quantize else "",
        )
    held_out = 0 if data.held_out is None else len(data.held_out.rows)
    log.info(
        "%d examples (%d held out), %d steps of %d, %d of warm-up",
        len(data.train.rows),
        held_out,
        setup.num_steps,
        min(config.batch_size, len(data.train.rows)),
        setup.warmup,
    )
    if setup.warmup >= setup.num_steps:
        log.warning("the warm-up of %d steps is longer than the run: lr=%g is never reached", setup.warmup, config.lr)
    if setup.start is not None:
        log.info("going on from %s", setup.start.path)
