"""TRL's trainers on preferences: DPO, KTO and CPO."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree import api
from preftree.errors import ConfigError
from preftree.other_tools.trl_losses import cpo_loss, dpo_loss, kto_loss
from preftree.trl.arguments import NO_OPTIMIZERS, GivenCallbacks, GivenModel, name_of
from preftree.trl.configs import CPOConfig, DPOConfig, KTOConfig
from preftree.trl.options import length_options
from preftree.trl.rows import TrlData, TrlRows
from preftree.trl.trainer import TrlTrainer

log = logging.getLogger("preftree")

NLL = (
    "the likelihood of the chosen responses is a mean over the tokens of each row; TRL's is over a micro-batch's, so "
    " it depends on how rows are batched, and losses differ a little"
)


class _ReferenceTrainer(TrlTrainer):
    """A trainer whose policy has a reference."""

    recipe = "dpo"

    def __init__(
        self,
        model: GivenModel,
        ref_model: PreTrainedModel | None,
        args: DPOConfig | KTOConfig,
        *,
        peft_config: PeftConfig | None,
        **arguments: Any,
    ) -> None:
        if ref_model is not None and ref_model is model:
            raise ConfigError("model and ref_model are one object, which training changes; leave ref_model out")
        if args.sync_ref_model and (peft_config is not None or ref_model is not None):
            raise ConfigError(
                "sync_ref_model=True moves all weights of the start model; leave peft_config and ref_model out"
            )
        self.ref_model = ref_model
        super().__init__(model, args, peft_config=peft_config, **arguments)

    def recipe_options(self) -> dict[str, Any]:
        """The loss and the reference."""
        args: Any = self.args
        reference: Any = "start" if self.ref_model is None else self.ref_model
        if args.sync_ref_model:
            moves = {"sync_every": args.ref_model_sync_steps, "mixup": float(args.ref_model_mixup_alpha)}
            reference = {"from": "start", **moves}
        return {"loss": self.loss(), "reference": reference}

    def loss(self) -> Any:
        """The loss, as the option `loss` takes it."""
        raise NotImplementedError

    def measure(self, rows: TrlRows) -> Mapping[str, float]:
        """Figures of rows under the model as it is, compared with the reference; as `_measure`."""
        return _measure(self, rows, self.loss(), self.ref_model)


class DPOTrainer(_ReferenceTrainer):
    """TRL's DPOTrainer: `loss_type` and its options become `loss`, the other fields options of `preftree dpo`."""

    columns = "dpo"

    def __init__(
        self,
        model: GivenModel,
        ref_model: PreTrainedModel | None = None,
        args: DPOConfig | None = None,
        data_collator: object = None,
        train_dataset: TrlData | None = None,
        eval_dataset: TrlData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: object = None,
        callbacks: GivenCallbacks = None,
        optimizers: object = NO_OPTIMIZERS,
        quantization_config: object = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        """Arguments of TRL's constructor; those that cannot be honoured are refused by name.

        Raises:
          UserError: as `TrlTrainer`.
        """
        super().__init__(
            model,
            ref_model,
            args or DPOConfig(name_of(model, "DPO")),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=quantization_config,
            peft_config=peft_config,
            refused={
                "data_collator": data_collator,
                "compute_metrics": compute_metrics,
                "optimizers": optimizers,
            },
        )
        self.loss()

    def loss(self) -> Any:
        """The loss, or the parts of a sum."""
        parts = dpo_loss(vars(self.args))
        if len(parts) > 1 or parts[0]["weight"] != 1:
            return parts
        return {name: value for name, value in parts[0].items() if name != "weight"}


class KTOTrainer(_ReferenceTrainer):
    """TRL's KTOTrainer. The mismatched responses that estimate the KL are drawn over the data set, not over a batch."""

    columns, kind = "kto", "response"

    def __init__(
        self,
        model: GivenModel,
        ref_model: PreTrainedModel | None = None,
        args: KTOConfig | None = None,
        data_collator: object = None,
        train_dataset: TrlData | None = None,
        eval_dataset: TrlData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: object = None,
        callbacks: GivenCallbacks = None,
        optimizers: object = NO_OPTIMIZERS,
        quantization_config: object = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        """Arguments as of `DPOTrainer`."""
        super().__init__(
            model,
            ref_model,
            args or KTOConfig(name_of(model, "KTO")),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=quantization_config,
            peft_config=peft_config,
            refused={
                "data_collator": data_collator,
                "compute_metrics": compute_metrics,
                "optimizers": optimizers,
            },
        )
        if self.loss()["name"] == "kto":
            log.warning(
                "KTO's KL is estimated over a whole step from responses to other prompts of the data set; TRL takes "
                "those of the same batch, so losses differ within the estimate's noise"
            )

    def loss(self) -> Any:
        """The loss."""
        return kto_loss(vars(self.args))


class CPOTrainer(TrlTrainer):
    """TRL's experimental CPOTrainer: CPO, SimPO, AlphaPO and CPO-SimPO."""

    recipe, columns = "dpo", "dpo"

    def __init__(
        self,
        model: GivenModel,
        args: CPOConfig | None = None,
        data_collator: object = None,
        train_dataset: TrlData | None = None,
        eval_dataset: TrlData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: object = None,
        callbacks: GivenCallbacks = None,
        optimizers: object = NO_OPTIMIZERS,
        preprocess_logits_for_metrics: object = None,
        peft_config: PeftConfig | None = None,
        compute_metrics: object = None,
    ) -> None:
        """Arguments as of `DPOTrainer`, without a reference."""
        super().__init__(
            model,
            args or CPOConfig(name_of(model, "CPO")),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=None,
            peft_config=peft_config,
            refused={
                "data_collator": data_collator,
                "compute_metrics": compute_metrics,
                "optimizers": optimizers,
                "model_init": model_init,
                "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
            },
        )
        if self.recipe_options()["loss"].get("nll_weight"):
            log.warning(NLL)

    def recipe_options(self) -> dict[str, Any]:
        """The loss."""
        return {"loss": cpo_loss(vars(self.args)), "reference": "none"}

    def measure(self, rows: TrlRows) -> Mapping[str, float]:
        """Figures of rows under the model as it is."""
        return _measure(self, rows, cpo_loss(vars(self.args)), None)


def _measure(trainer: TrlTrainer, rows: TrlRows, loss: Any, reference: PreTrainedModel | None) -> Mapping[str, float]:
    """Figures of rows under the model as it is.

    Args:
      trainer: The trainer.
      rows: The rows.
      loss: The loss, or the parts of a sum.
      reference: The reference model; None is the start.
    Raises:
      ConfigError: a model is in memory alone.
    """
    if reference is not None or (trainer.run is None and isinstance(trainer.start, PreTrainedModel)):
        raise ConfigError(
            "rows can be measured before training, and others than the trainer's after it, where the models are "
            "folders or hub ids; give eval_dataset= to the trainer, and call evaluate after train"
        )
    precision = "bf16" if trainer.args.bf16 else "fp32"
    start = trainer.run.path / "start" if trainer.run and isinstance(trainer.start, PreTrainedModel) else trainer.start
    before = api.load(start, precision=precision)  # pyright: ignore[reportArgumentType]  # a name, as checked above
    policy = before if trainer.run is None else api.load(trainer.run.model, precision=precision)
    lengths = length_options(trainer.args, cuts=trainer.cuts)
    store = api.tokenize(rows, trainer.processing_class, kind=trainer.kind, **lengths, **trainer.token_options())
    parts = [loss] if isinstance(loss, dict) else loss
    return api.measure(policy, store, reference=before, loss=parts)
