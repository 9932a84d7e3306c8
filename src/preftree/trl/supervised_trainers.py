"""TRL's SFTTrainer and RewardTrainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from preftree.errors import ConfigError
from preftree.trl.arguments import NO_OPTIMIZERS, GivenCallbacks, GivenModel, name_of
from preftree.trl.configs import RewardConfig, SFTConfig
from preftree.trl.models import grown_reward_model
from preftree.trl.rows import COLUMNS, TrlData, TrlRows, is_conversation
from preftree.trl.trainer import TrlTrainer

log = logging.getLogger("preftree")


class SFTTrainer(TrlTrainer):
    """TRL's SFTTrainer: texts, prompts with completions, and conversations, whose assistant's turns are trained on."""

    recipe, columns, kind = "sft", "sft", "demonstration"

    def __init__(
        self,
        model: GivenModel,
        args: SFTConfig | None = None,
        data_collator: object = None,
        train_dataset: TrlData | None = None,
        eval_dataset: TrlData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_loss_func: object = None,
        compute_metrics: object = None,
        callbacks: GivenCallbacks = None,
        optimizers: object = NO_OPTIMIZERS,
        optimizer_cls_and_kwargs: object = None,
        preprocess_logits_for_metrics: object = None,
        quantization_config: object = None,
        peft_config: PeftConfig | None = None,
        formatting_func: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        """Arguments as of `DPOTrainer`, without a reference."""
        super().__init__(
            model,
            args or SFTConfig(name_of(model, "SFT")),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=quantization_config,
            peft_config=peft_config,
            refused={
                "data_collator": data_collator,
                "compute_loss_func": compute_loss_func,
                "compute_metrics": compute_metrics,
                "optimizers": optimizers,
                "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
                "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
            },
            formatting_func=formatting_func,
        )
        first = self.rows_of(self.train_dataset).first()
        self._talks = is_conversation(first)
        self._all_turns = self._talks and (
            "prompt" not in first or bool(getattr(self.args, "assistant_only_loss", False))
        )
        self._check_tokens(first)
        if "text" in first and self.processing_class.bos_token_id is None:
            log.warning(
                "the tokenizer has no BOS: the first token of a text is predicted too, after an EOS, and not left out "
                "as in TRL"
            )

    def rows_of(self, data: TrlData) -> TrlRows:
        """Texts, prompts with completions, or conversations."""
        field: Any = getattr(self.args, "dataset_text_field", "text")
        return TrlRows(data, COLUMNS["sft"], text_field=field, formatting=self._format)

    def recipe_options(self) -> dict[str, Any]:
        """None beside the common ones."""
        return {}

    def token_options(self) -> dict[str, Any]:
        """Every turn of the assistant is imitated in a conversation; of a prompt's only with assistant_only_loss."""
        return super().token_options() | ({"turns": "all"} if self._all_turns else {})

    def data_options(self) -> dict[str, Any]:
        """As `token_options`."""
        return {"turns": "all"} if self._all_turns else {}

    def _check_tokens(self, first: Mapping[str, Any]) -> None:
        """Refuse what would train on other tokens than responses.

        Raises:
          ConfigError: the loss is another one, or covers what users write.
        """
        args: Any = self.args
        if args.loss_type != "nll":
            raise ConfigError(f"loss_type={args.loss_type!r} cannot be honoured; there is nll")
        if "prompt" in first and args.completion_only_loss is False:
            raise ConfigError(
                "completion_only_loss=False trains on prompts too, and responses alone are trained on here; leave it "
                "out, or give whole texts in the column 'text'"
            )
        turns = first["completion"] if self._talks and "prompt" in first else []
        if len(turns) > 1 and not self._all_turns:
            raise ConfigError(
                f"a completion of {len(turns)} messages would be trained on in its last one alone; give the messages "
                "before it in the prompt, or set assistant_only_loss=True"
            )
        if self._talks and not args.assistant_only_loss and "prompt" not in first:
            raise ConfigError(
                "assistant_only_loss=False trains on what users say and on the template's words; the assistant's turns "
                "alone are trained on here: set assistant_only_loss=True"
            )
        if args.assistant_only_loss and not self._talks:
            raise ConfigError("assistant_only_loss=True is of conversations, and these rows are texts; leave it out")


class RewardTrainer(TrlTrainer):
    """TRL's RewardTrainer: Bradley and Terry's loss, with margins where the rows have them."""

    recipe, columns, cuts = "reward", "reward", "drop"

    def __init__(
        self,
        model: GivenModel,
        args: RewardConfig | None = None,
        data_collator: object = None,
        train_dataset: TrlData | None = None,
        eval_dataset: TrlData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: object = None,
        callbacks: GivenCallbacks = None,
        optimizers: object = NO_OPTIMIZERS,
        optimizer_cls_and_kwargs: object = None,
        preprocess_logits_for_metrics: object = None,
        quantization_config: object = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        """Arguments as of `DPOTrainer`, without a reference; a language model by name gets a new head, as in TRL.

        Raises:
          UserError: as `TrlTrainer`; or an adapter is to be trained.
        """
        if peft_config is not None or quantization_config is not None:
            raise ConfigError("a reward model is trained whole here; leave peft_config and quantization_config out")
        super().__init__(
            model,
            args or RewardConfig(name_of(model, "Reward")),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=None,
            peft_config=None,
            refused={
                "data_collator": data_collator,
                "compute_metrics": compute_metrics,
                "optimizers": optimizers,
                "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
                "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
            },
        )
        if isinstance(model, str | Path):  # after the seed is set: transformers draws the head
            self.start = self._model = grown_reward_model(model, processing_class)
            self._own_tokenizer = self.processing_class
        elif model.config.num_labels != 1:
            raise ConfigError(f"a reward model has one output, and this one has {model.config.num_labels}")

    def recipe_options(self) -> dict[str, Any]:
        """The loss; margins are read where the rows have them."""
        centring = getattr(self.args, "center_rewards_coefficient", None)
        with_margins = "margin" in self.rows_of(self.train_dataset).first()
        name = "bradley_terry_margin" if with_margins else "bradley_terry"
        return {"loss": {"name": name, **({} if centring is None else {"centring": float(centring)})}}
