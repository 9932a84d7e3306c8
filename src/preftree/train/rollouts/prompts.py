"""Prompts of an online run: training and held-out prompts, the number of iterations, and the trajectory's entries."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftree.config.online import OnlineConfig, PpoConfig
from preftree.data.prompts import PromptSet, open_prompts, prompts_digest
from preftree.errors import ConfigError
from preftree.judges.functions import identify
from preftree.scoring.scorer import Scorer
from preftree.train.open_run import OpenRun, adaptation, warmup_of
from preftree.train.policy import ReferenceModel
from preftree.train.rollouts.mixed_in import MixedIn
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

NOT_IN_TRAJECTORY = frozenset(
    {
        *("model", "data", "eval_data", "eval_every", "out", "reward", "reference", "lora", "resume", "save_every"),
        *("keep_checkpoints", "snapshots", "keep_best", "stop_after", "track", "answers"),
        *("micro_batch_tokens", "generation_batch", "gradient_checkpointing"),
        *("threads", "cache", "epochs", "max_steps", "warmup_steps", "critic_start", "ptx_data"),
    }
)
"""Options that do not determine the sequence of weights, or that a trajectory holds as digests."""


@dataclass(frozen=True, eq=False, slots=True)
class RunPrompts:
    """Prompts of a run, and its number of iterations.

    Attributes:
      prompts: The training prompts.
      held_out: The held-out prompts; None where there are none.
      config: The run's options.
      num_steps: Iterations of the whole run.
      warmup: Iterations of warm-up.
    """

    prompts: PromptSet
    held_out: PromptSet | None
    config: OnlineConfig
    num_steps: int
    warmup: int

    def probes(self) -> Sequence[Sequence[TokenSequence]]:
        """A few prompts, each with two artificial responses: the tokens of this prompt and of another."""
        by_length = sorted(self.prompts.ids, key=len)[: max(1, len(self.prompts) // 2)]
        chosen = [by_length[rank] for rank in np.unique(np.linspace(0, len(by_length) - 1, 4).round().astype(int))]
        groups = []
        for prompt, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
            responses = [np.array([*prompt, *more], np.int32) for more in (prompt[:256], other[:128][::-1])]
            groups.append([TokenSequence(ids, np.arange(len(ids)) >= len(prompt)) for ids in responses])
        return groups

    def check_budget(self, scorer: Scorer) -> None:
        """Refuse a prompt that does not fit a micro-batch together with the longest response.

        Raises:
          ConfigError: a prompt does not fit.
        """
        config = self.config
        longest = max(len(ids) for ids in self.prompts.ids) + config.max_new_tokens - 1
        if longest > config.micro_batch_tokens:
            raise ConfigError(
                f"micro_batch_tokens must be at least {longest} to hold the longest prompt with max_new_tokens="
                f"{config.max_new_tokens}, got {config.micro_batch_tokens}; raise it, or lower max_new_tokens"
            )

    def describe(self) -> None:
        """Log numbers of prompts and iterations."""
        log.info(
            "%d prompts (%d held out), %d iterations of %d responses, %d to a prompt",
            len(self.prompts),
            0 if self.held_out is None else len(self.held_out),
            self.num_steps,
            self.config.batch_size,
            self.config.samples_per_prompt,
        )


def open_run_prompts(run: OpenRun[OnlineConfig]) -> RunPrompts:
    """Read and tokenise the prompts of a run.

    Raises:
      DataError: a file cannot be read, or a row has no prompt.
    """
    config = run.config
    prompts = open_prompts(config.data.path, run.tokenizer)
    held_out = None if config.eval_data is None else open_prompts(config.eval_data, run.tokenizer)
    steps = _num_steps(config, len(prompts))
    return RunPrompts(prompts, held_out, config, steps, warmup_of(run, steps))


def online_trajectory(
    run: OpenRun[OnlineConfig], data: RunPrompts, reference: ReferenceModel, mixed_in: MixedIn | None = None
) -> dict[str, object]:
    """Everything that determines the sequence of weights."""
    config = run.config
    start = config.critic_start if isinstance(config, PpoConfig) else None
    return {
        "recipe": config.recipe,
        "weights of the model": run.policy.weights,
        **adaptation(run),
        "weights of the reference": reference.weights,
        "training data": prompts_digest(data.prompts.ids),
        "reward": identify(config.reward),
        "start of the critic": start and identify(f"rm:{start.removeprefix('rm:')}"),
        "demonstrations mixed in": mixed_in and mixed_in.store.digest,
        **{name: value for name, value in config.model_dump().items() if name not in NOT_IN_TRAJECTORY},
        "steps of warm-up": data.warmup,
        "steps of the schedule": None if config.schedule == "constant" else data.num_steps,
    }


def _num_steps(config: OnlineConfig, num_prompts: int) -> int:
    """Iterations of a run: its epochs over the prompts, or max_steps, whichever ends first; otherwise one epoch."""
    if config.epochs is None and config.max_steps is not None:
        return config.max_steps
    total = math.ceil(num_prompts * config.samples_per_prompt * (config.epochs or 1) / config.batch_size)
    return total if config.max_steps is None else min(total, config.max_steps)
