"""`preftree sft`, `dpo`, `reward`, `ppo` and `rloo`: a configuration file, options as key=value, or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.report import conclude
from preftree.runtime.logs import quiet_transformers

OPEN = {"ignore_unknown_options": True}  # so that --lr=1e-6 meets our own sentence

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|key=value",
        help="At most one file of defaults, and any number of options; dotted keys reach inside.",
        show_default=False,
    ),
]


def sft(words: Words = None) -> None:
    """Fine-tune on demonstrations: preftree sft model=MODEL data=FILE out=RUN [key=value ...]

    Options: model data eval_data eval_every out side lora quantize lr optimizer weight_decay max_grad_norm
    schedule warmup_steps batch_size micro_batch_tokens epochs max_steps max_length max_prompt_length
    max_response_length truncation seed precision gradient_checkpointing compile threads cache resume save_every
    keep_checkpoints snapshots
    """
    from preftree.config.load import load_config
    from preftree.config.sft import SftConfig

    config = load_config(SftConfig, words or [])
    from preftree.train.sft import run_sft

    quiet_transformers()
    _end(run_sft(config).signum, config.out)


def dpo(words: Words = None) -> None:
    """Optimise a policy on preferences: preftree dpo model=MODEL data=FILE out=RUN [loss=dpo] [beta=.1] [key=value ...]

    Options: model data eval_data eval_every out loss beta reference lora quantize lr optimizer weight_decay
    max_grad_norm schedule warmup_steps batch_size micro_batch_tokens epochs max_steps max_length max_prompt_length
    max_response_length truncation seed precision gradient_checkpointing compile threads cache resume save_every
    keep_checkpoints snapshots
    """
    from preftree.config.dpo import DpoConfig
    from preftree.config.load import load_config

    config = load_config(DpoConfig, words or [])
    from preftree.train.dpo import run_dpo

    quiet_transformers()
    _end(run_dpo(config).signum, config.out)


def reward(words: Words = None) -> None:
    """Train a reward model on preferences: preftree reward model=MODEL data=FILE out=RUN [key=value ...]

    Options: model data eval_data eval_every out loss head lora quantize lr optimizer weight_decay max_grad_norm
    schedule warmup_steps batch_size micro_batch_tokens epochs max_steps max_length max_prompt_length
    max_response_length truncation seed precision gradient_checkpointing compile threads cache resume save_every
    keep_checkpoints snapshots
    """
    from preftree.config.load import load_config
    from preftree.config.reward import RewardConfig

    config = load_config(RewardConfig, words or [])
    from preftree.train.reward import run_reward

    quiet_transformers()
    _end(run_reward(config).signum, config.out)


def ppo(words: Words = None) -> None:
    """Optimise a policy for a reward: preftree ppo model=MODEL data=PROMPTS reward=REWARD out=RUN [key=value ...]

    Options: model data eval_data eval_every out reward reference lora quantize samples_per_prompt batch_size
    minibatch_size ppo_epochs temperature max_new_tokens generation_batch normalize_rewards clip_rewards
    missing_eos_penalty kl_coef kl_target kl_horizon kl_estimator clip entropy_coef max_approx_kl gamma lam vf_coef
    clip_value critic critic_lr whiten_advantages lr optimizer weight_decay max_grad_norm schedule warmup_steps
    micro_batch_tokens epochs max_steps seed precision gradient_checkpointing threads cache resume save_every
    keep_checkpoints snapshots
    """
    from preftree.config.load import load_config
    from preftree.config.online import PpoConfig

    config = load_config(PpoConfig, words or [])
    from preftree.train.ppo import run_ppo

    quiet_transformers()
    _end(run_ppo(config).signum, config.out)


def rloo(words: Words = None) -> None:
    """As ppo without a critic: preftree rloo model=MODEL data=PROMPTS reward=REWARD out=RUN [advantage=rloo|grpo] ...

    Options: model data eval_data eval_every out reward reference lora quantize advantage samples_per_prompt batch_size
    minibatch_size ppo_epochs temperature max_new_tokens generation_batch normalize_rewards clip_rewards
    missing_eos_penalty kl_coef kl_target kl_horizon kl_estimator clip entropy_coef max_approx_kl lr optimizer
    weight_decay max_grad_norm schedule warmup_steps micro_batch_tokens epochs max_steps seed precision
    gradient_checkpointing threads cache resume save_every keep_checkpoints snapshots
    """
    from preftree.config.load import load_config
    from preftree.config.online import RlooConfig

    config = load_config(RlooConfig, words or [])
    from preftree.train.ppo import run_rloo

    quiet_transformers()
    _end(run_rloo(config).signum, config.out)


def _end(signum: int, out: str) -> None:
    if signum:
        raise typer.Exit(128 + signum)
    if os.environ.get("RANK", "0") == "0":
        conclude(Path(out))
