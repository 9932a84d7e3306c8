"""TRL's configurations: transformers' TrainingArguments with TRL's fields, types and defaults (as of TRL 1.16).

A configuration takes every field that TRL's takes; which of them are read is decided when a trainer is made
(`trl/options.py`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import TrainingArguments


@dataclass
class TrlArguments(TrainingArguments):
    """Fields and defaults that TRL's configurations share."""

    # A whole number may be given for a float, as in transformers, whose annotations are those of a command line.
    __no_type_check__: ClassVar[bool] = True

    # TrainingArguments reads this name: texts that begin with { are JSON.
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    logging_steps: float = field(default=10)
    gradient_checkpointing: bool = field(default=True)  # pyright: ignore[reportIncompatibleVariableOverride]  # TRL's default
    bf16: bool | None = field(default=None)  # pyright: ignore[reportIncompatibleVariableOverride]  # TRL's type

    model_init_kwargs: dict[str, Any] | str | None = None
    trust_remote_code: bool = False
    dataset_num_proc: int | None = None
    max_length: int | None = 1024

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16  # pyright: ignore[reportIncompatibleVariableOverride]  # as above
        with warnings.catch_warnings():  # of the name gradient_checkpointing, which is TRL's own default
            warnings.simplefilter("ignore", FutureWarning)
            super().__post_init__()


@dataclass
class DPOConfig(TrlArguments):
    """Arguments of `DPOTrainer`."""

    pad_to_multiple_of: int | str | None = "auto"
    activation_offloading: bool = False
    learning_rate: float = field(default=1e-6)
    router_aux_loss_coef: float | None = None
    disable_dropout: bool = True
    truncation_mode: str = "keep_start"
    padding_free: bool = False
    precompute_ref_log_probs: bool = False
    precompute_ref_batch_size: int | None = None
    loss_type: list[str] = field(default_factory=lambda: ["sigmoid"])
    loss_weights: list[float] | None = None
    ld_alpha: float | None = None
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    label_smoothing: float = 0.0
    beta: float = 0.1
    use_weighting: bool = False
    discopop_tau: float = 0.05
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    pad_token: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        super().__post_init__()


@dataclass
class SFTConfig(TrlArguments):
    """Arguments of `SFTTrainer`."""

    pad_to_multiple_of: int | str | None = "auto"
    activation_offloading: bool = False
    learning_rate: float = field(default=2e-5)
    router_aux_loss_coef: float | None = None
    chat_template_path: str | None = None
    dataset_text_field: str = "text"
    dataset_kwargs: dict[str, Any] | str | None = None
    eos_token: str | None = None
    truncation_mode: str = "keep_start"
    shuffle_dataset: bool = False
    packing: bool = False
    packing_strategy: str = "bfd"
    padding_free: bool = False
    eval_packing: bool | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    loss_type: str = "nll"
    pad_token: str | None = None


@dataclass
class RewardConfig(TrlArguments):
    """Arguments of `RewardTrainer`."""

    pad_to_multiple_of: int | str | None = "auto"
    activation_offloading: bool = False
    learning_rate: float = field(default=1e-4)
    chat_template_path: str | None = None
    disable_dropout: bool = True
    eos_token: str | None = None
    center_rewards_coefficient: float | None = None
    pad_token: str | None = None


@dataclass
class KTOConfig(TrlArguments):
    """Arguments of `KTOTrainer`."""

    pad_to_multiple_of: int | str | None = "auto"
    activation_offloading: bool = False
    learning_rate: float = field(default=1e-6)
    train_sampling_strategy: str = field(default="sequential")
    router_aux_loss_coef: float | None = None
    disable_dropout: bool = True
    precompute_ref_log_probs: bool = False
    precompute_ref_batch_size: int | None = None
    loss_type: str = "kto"
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512


@dataclass
class CPOConfig(TrlArguments):
    """Arguments of `CPOTrainer`."""

    learning_rate: float = field(default=1e-6)
    max_completion_length: int | None = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    loss_type: str = "sigmoid"
    disable_dropout: bool = True
    cpo_alpha: float = 1.0
    simpo_gamma: float = 0.5
    alpha: float = 0.0
    generate_during_eval: bool = False
    is_encoder_decoder: bool | None = None
