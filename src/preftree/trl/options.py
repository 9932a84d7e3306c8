"""TRL's arguments as our options: what each field becomes, and one sentence for what cannot be had here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PretrainedConfig
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from preftree.errors import ConfigError
from preftree.other_tools.trl_fields import reason_of
from preftree.trl.configs import TrlArguments

_OPTIMISERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_torch_8bit": "adamw_8bit",
    "rmsprop": "rmsprop",
}
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
_ORDERS = {"random": "example", "sequential": "file"}

_TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")

_ALL_CHECKPOINTS = 1_000_000
"""Checkpoints that stay where TRL keeps every one."""


@dataclass(frozen=True, slots=True)
class TrlSchedule:
    """The steps of a run, as transformers' Trainer counts them.

    Attributes:
      num_steps: Steps of the whole run.
      steps_per_epoch: Steps of one pass over the rows.
      warmup: Steps of warm-up.
      log_every: Steps between log entries; None logs none.
      eval_every: Steps between evaluations; None evaluates at the end alone.
      save_every: Steps between checkpoints; None saves at the end alone.
      logs_first: Whether the first step is logged too.
      evaluates: Whether evaluations are logged.
      evaluates_first: Whether the start is evaluated too.
    """

    num_steps: int
    steps_per_epoch: int
    warmup: int
    log_every: int | None
    eval_every: int | None
    save_every: int | None
    logs_first: bool
    evaluates: bool
    evaluates_first: bool

    def logs(self, step: int) -> bool:
        """Whether an entry of the log comes after a step."""
        return (self.logs_first and step == 1) or (self.log_every is not None and step % self.log_every == 0)

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation after a step is one that TRL makes."""
        if not self.evaluates:
            return False
        return self.evaluates_first if step == 0 else step % (self.eval_every or self.num_steps) == 0


def check_fields(args: TrlArguments) -> None:
    """Refuse fields that are set to what cannot be honoured.

    Raises:
      ConfigError: a field differs from its default, and is neither read nor without effect; the reason is named.
    """
    usual = type(args)(output_dir=args.output_dir, bf16=False)  # bf16, which is read, is not possible everywhere
    for item in dataclasses.fields(args):
        value, default = _plain(getattr(args, item.name)), _plain(getattr(usual, item.name))
        reason = reason_of(item.name)
        if reason is not None and value != default:
            raise ConfigError(f"{item.name}={value!r} cannot be honoured: {reason}; leave it at {default!r}")
    if args.world_size > 1:
        raise ConfigError(
            "several processes were started, and preftree.trl trains in one; use `torchrun ... preftree dpo CONFIG`"
        )
    if args.use_cpu and torch.cuda.is_available():
        raise ConfigError("use_cpu=True with a CUDA device; hide the device with CUDA_VISIBLE_DEVICES= instead")


def _plain(value: Any) -> Any:
    """Objects that TrainingArguments makes of texts, as plain values."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def schedule_of(args: TrlArguments, num_rows: int) -> TrlSchedule:
    """Steps of a run over so many rows, and when it logs, evaluates and saves."""
    steps_per_epoch = -(-num_rows // batch_size(args))
    num_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    warmup = args.warmup_steps

    def every(strategy: object, value: int | float | None) -> int | None:
        if strategy == IntervalStrategy.NO:
            return None
        if strategy == IntervalStrategy.EPOCH:
            return steps_per_epoch
        assert value is not None, "TrainingArguments sets it"
        return math.ceil(value * num_steps) if value < 1 else int(value)

    if args.save_strategy == SaveStrategy.BEST:
        raise ConfigError("save_strategy='best' cannot be honoured: checkpoints come at regular steps; use 'steps'")
    return TrlSchedule(
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        warmup=math.ceil(warmup * num_steps) if warmup < 1 else int(warmup),
        log_every=every(args.logging_strategy, args.logging_steps),
        eval_every=every(args.eval_strategy, args.eval_steps),
        save_every=every(IntervalStrategy(SaveStrategy(args.save_strategy).value), args.save_steps),
        logs_first=args.logging_first_step,
        evaluates=args.eval_strategy != IntervalStrategy.NO,
        evaluates_first=args.eval_on_start,
    )


def batch_size(args: TrlArguments) -> int:
    """Rows of an optimiser step."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps


def run_options(args: TrlArguments, schedule: TrlSchedule) -> dict[str, Any]:
    """Options of a run that do not depend on its recipe.

    Raises:
      ConfigError: an optimiser, a schedule or an order that there is not.
    """
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    warmup = 0 if name == "constant" else schedule.warmup  # transformers' `constant` has none
    if args.data_seed not in (None, args.seed):
        raise ConfigError(f"data_seed={args.data_seed} differs from seed={args.seed}, and a run has one; leave it out")
    return {
        "batch_size": batch_size(args),
        "max_steps": schedule.num_steps,
        "lr": float(args.learning_rate),
        "optimizer": _choose("optim", str(getattr(args.optim, "value", args.optim)), _OPTIMISERS),
        "weight_decay": float(args.weight_decay),
        "max_grad_norm": float(args.max_grad_norm) if args.max_grad_norm else None,
        "schedule": _choose("lr_scheduler_type", name, _SCHEDULES),
        "warmup_steps": warmup,
        "warmup_from_zero": warmup > 0,
        "seed": args.seed,
        "precision": "bf16" if args.bf16 else "fp32",
        "gradient_checkpointing": bool(args.activation_checkpointing),
        "compile": args.torch_compile,
        "track": _trackers(args),
        "save_every": schedule.save_every,
        "keep_checkpoints": args.save_total_limit or _ALL_CHECKPOINTS,
    }


def row_options(args: TrlArguments) -> dict[str, Any]:
    """How the rows of a data set are used: in TRL's order, each as often as it comes; faulty ones are left out."""
    order = _choose("train_sampling_strategy", args.train_sampling_strategy, _ORDERS)
    return {"order": order, "repeats": "keep", "max_rejected": 1.0}


def length_options(args: TrlArguments, *, cuts: Literal["trim_response", "drop"]) -> dict[str, Any]:
    """Budgets of a row.

    Args:
      args: The arguments.
      cuts: What TRL's trainer does to a row of more than max_length tokens.
    Raises:
      ConfigError: the beginning is to be cut.
    """
    if getattr(args, "truncation_mode", "keep_start") != "keep_start":
        raise ConfigError(
            "truncation_mode='keep_end' cannot be honoured: it cuts the prompts of a pair at two places; use "
            "keep_start, or preftree.dpo(truncation='trim_prompt')"
        )
    if args.max_length is None:
        return {"max_length": None}
    limit = getattr(args, "max_completion_length", None)
    return {"max_length": args.max_length, "truncation": cuts} | (
        {} if limit is None else {"max_response_length": limit}
    )


def check_router_loss(args: TrlArguments, config: PretrainedConfig) -> None:
    """Refuse the auxiliary loss of a mixture's routers, which TRL adds unless it is told not to.

    Raises:
      ConfigError: the model has routers, and their loss is not switched off.
    """
    text = config.get_text_config()
    asked = getattr(args, "router_aux_loss_coef", 0.0)
    coefficient = getattr(text, "router_aux_loss_coef", 0.0) if asked is None else asked
    if coefficient and (asked or hasattr(text, "output_router_logits")):
        raise ConfigError(
            f"router_aux_loss_coef={coefficient:g} cannot be honoured: the loss is of means over the tokens that are "
            "computed together, so how a step is packed would change the training; set router_aux_loss_coef=0.0"
        )


def _trackers(args: TrlArguments) -> list[str] | None:
    names = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or ())
    if unknown := [name for name in names if name not in _TRACKERS]:
        raise ConfigError(f"report_to={unknown[0]!r} cannot be honoured; there are {', '.join(_TRACKERS)}")
    return names or None


def _choose(field: str, value: str, known: dict[str, str]) -> str:
    if value not in known:
        raise ConfigError(f"{field}={value!r} cannot be honoured; there are {', '.join(known)}")
    return known[value]
