"""The part that TRL's trainers share: from their arguments to a run, its log under TRL's names, and its model."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from peft import PeftConfig, PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import TrainOutput

from preftree import api
from preftree.data.sources.memory import named_rows, write_rows
from preftree.errors import ConfigError, TrainingError
from preftree.models.foreign import read_config
from preftree.models.load import load_model, load_tokenizer
from preftree.records import Kind
from preftree.run_folder.finished_run import FinishedRun
from preftree.trl.configs import TrlArguments
from preftree.trl.events import Callbacks, make_callbacks
from preftree.trl.figures import LogBook
from preftree.trl.models import check_adapter, check_model, quantize_option, trained_model
from preftree.trl.options import (
    TrlSchedule,
    check_fields,
    check_router_loss,
    length_options,
    row_options,
    run_options,
    schedule_of,
)
from preftree.trl.rows import COLUMNS, TrlData, TrlRows, check_data, is_conversation

log = logging.getLogger("preftree")


class TrlTrainer:
    """A trainer with the arguments and methods of TRL's.

    Attributes:
      args: The arguments.
      state: Position, and `log_history` under TRL's names.
      train_dataset, eval_dataset: The data sets as they were given.
      processing_class: The tokenizer.
      run: The finished run, with its folder, figures and report; None before `train`.
      start: The model as it was given.
    """

    recipe: ClassVar[Literal["sft", "dpo", "reward"]]
    """The recipe that trains."""

    columns: ClassVar[str]
    """Columns that are read, in `rows.COLUMNS`, and names of figures, in `figures.NAMES`."""

    kind: ClassVar[Kind] = "pair"
    """Kind of the examples."""

    cuts: ClassVar[Literal["trim_response", "drop"]] = "trim_response"
    """What happens to a row of more than max_length tokens."""

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        args: TrlArguments,
        *,
        train_dataset: TrlData | None,
        eval_dataset: TrlData | None,
        processing_class: PreTrainedTokenizerBase | None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None,
        quantization_config: object,
        peft_config: PeftConfig | None,
        refused: Mapping[str, object],
        formatting_func: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        """Check every argument; nothing is computed or written yet.

        Args:
          model: A folder, a hub id, or a model in memory.
          args: The configuration.
          train_dataset: Rows to train on.
          eval_dataset: Held-out rows.
          processing_class: The model's tokenizer; that of the model's folder by default.
          callbacks: Callbacks; `preftree.trl.events` lists the events that they get.
          quantization_config: Storage of frozen weights.
          peft_config: An adapter to train.
          refused: Arguments of TRL's constructor that must be left out, by name.
          formatting_func: Makes the text of a row.
        Raises:
          ConfigError: something cannot be honoured; it is named.
          DataError: a data set is no list of rows.
        """
        for name, value in refused.items():
            if value is not None and value != (None, None):
                raise ConfigError(f"{name} cannot be honoured: {_REFUSED[name]}")
        if train_dataset is None:
            raise ConfigError("train_dataset is required")
        check_fields(args)
        check_model(model, args)
        num_rows = len(check_data(train_dataset, "train_dataset"))
        if eval_dataset is not None:
            check_data(eval_dataset, "eval_dataset")
        set_seed(args.seed)
        self.args, self.state = args, TrainerState()
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.run: FinishedRun | None = None
        self.start, self._adapter, self._format = model, peft_config, formatting_func
        self._quantize = quantize_option(quantization_config)
        self._own_tokenizer = processing_class
        place = model if isinstance(model, str | Path) else getattr(model.config, "_name_or_path", "")
        if processing_class is None and not place:
            raise ConfigError("a model in memory needs its tokenizer; give processing_class=")
        self.processing_class = processing_class or load_tokenizer(place)
        run_options(args, schedule_of(args, num_rows))
        row_options(args)
        length_options(args, cuts=self.cuts)
        config = read_config(model) if isinstance(model, str | Path) else model.config
        check_adapter(peft_config, config)
        check_router_loss(args, config)
        self._model: PreTrainedModel | PeftModel | None = model if isinstance(model, PreTrainedModel) else None
        self.callback_handler = Callbacks(make_callbacks(callbacks))
        if is_conversation(self.rows_of(train_dataset).first()):
            log.info(
                "a response ends with the token that closes a turn; what the template writes after it, such as a line "
                "break, is not scored, as it is in TRL"
            )
        self._send("on_init_end")

    def __getattr__(self, name: str) -> Any:
        """Refuse the other attributes of transformers' Trainer by name."""
        raise AttributeError(
            f"preftree.trl has no {type(self).__name__}.{name}; there are train, evaluate, save_model, add_callback, "
            "model, args, state, processing_class, train_dataset, eval_dataset and run"
        )

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The model: at its start before `train`, trained after it."""
        if self._model is None:
            self._model = load_model(self.start) if isinstance(self.start, str | Path) else self.start
        return self._model

    def recipe_options(self) -> dict[str, Any]:
        """Options of the recipe alone, such as its loss."""
        raise NotImplementedError

    def rows_of(self, data: TrlData) -> TrlRows:
        """The rows of a data set as this trainer reads them."""
        return TrlRows(data, COLUMNS[self.columns], formatting=self._format)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, as the argument `callbacks` does."""
        self.callback_handler.callbacks += make_callbacks([callback])

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train to the end of the schedule.

        A run in `args.output_dir` that was stopped is continued, and one that is finished is read, since both give the
        result that a new run would give.

        Args:
          resume_from_checkpoint: A folder of `output_dir`/checkpoints to go on from; True and False change nothing.
        Raises:
          UserError: a mistake or a failure outside the program.
          TrainingError: a signal stopped the run; the same call goes on.
        """
        resume = resume_from_checkpoint or self.args.resume_from_checkpoint
        began = time.time()
        out = Path(str(self.args.output_dir))
        data, evaluation = self._write_rows(out)
        lengths = length_options(self.args, cuts=self.cuts)
        with named_rows({data: "train_dataset"}):
            store = api.tokenize(data, self.processing_class, kind=self.kind, **lengths, **self.token_options())
        schedule = schedule_of(self.args, len(store))
        options = run_options(self.args, schedule) | lengths | self.recipe_options()
        book, live = LogBook(self.columns, schedule), LogBook(self.columns, schedule)
        self.state.max_steps, self.state.num_train_epochs = schedule.num_steps, int(self.args.num_train_epochs)
        self.state.train_batch_size = self.args.per_device_train_batch_size
        self._send("on_train_begin")
        largest = 2 * int(store.num_tokens.max())  # models without trees compute the prompt twice
        with named_rows({data: "train_dataset"} | ({} if evaluation is None else {str(evaluation): "eval_dataset"})):
            self.run = _RECIPES[self.recipe](
                self.start,
                {"path": data, **row_options(self.args), **self.data_options()},
                out=str(out),
                eval_data=evaluation,
                eval_every=None if evaluation is None else schedule.eval_every or schedule.num_steps,
                tokenizer=self._own_tokenizer,
                listener=lambda row: self._hear(row, live),
                lora=self._adapter,
                quantize=self._quantize,
                micro_batch_tokens=max(8192, largest),
                resume=resume if isinstance(resume, str) else "auto",
                **options,
            )
        if self.run.signum:
            raise TrainingError(f"training was stopped by signal {self.run.signum}; the same call goes on")
        for row in self.run.metrics:
            book.add(row)
        self.state.log_history, self.state.global_step = book.history, schedule.num_steps
        self._model = trained_model(self.run.model, self.start, self.recipe)
        return self._finish(book, schedule, time.time() - began)

    def evaluate(self, eval_dataset: TrlData | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Figures of held-out rows under the model: those of the end of the run, where it has measured them.

        Args:
          eval_dataset: Other rows than the trainer's.
          metric_key_prefix: What figures begin with.
        Raises:
          ConfigError: there are no held-out rows; or rows are to be measured that only a run can.
        """
        began = time.time()
        if eval_dataset is None and self.eval_dataset is None:
            raise ConfigError("evaluate needs rows; give eval_dataset=")
        if eval_dataset in (None, self.eval_dataset) and self.run is not None:
            row: Mapping[str, Any] = self.run.figures
        else:
            data = self.eval_dataset if eval_dataset is None else eval_dataset
            assert data is not None
            check_data(data, "eval_dataset")
            row = self.measure(self.rows_of(data))
        figures = LogBook(self.columns, TrlSchedule(1, 1, 0, None, None, None, False, False, False)).named(row)
        named = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        named[f"{metric_key_prefix}_runtime"] = round(time.time() - began, 4)
        self.state.log_history.append({**named, "epoch": self.state.epoch or 0.0, "step": self.state.global_step})
        self._send("on_evaluate", metrics=named)
        return named

    def measure(self, rows: TrlRows) -> Mapping[str, float]:
        """Figures of rows under the model as it is."""
        raise ConfigError(
            "before training, or for other rows than the trainer's, these figures cannot be measured here"
        )

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the trained model, or its adapter, with its tokenizer into a folder; `args.output_dir` by default.

        Raises:
          ConfigError: nothing has been trained yet.
        """
        if self.run is None:
            raise ConfigError("save_model writes the trained model, and nothing has been trained; call train() first")
        shutil.copytree(self.run.model, Path(output_dir or str(self.args.output_dir)).expanduser(), dirs_exist_ok=True)

    def push_to_hub(self, *arguments: object, **options: object) -> None:
        """Refused: what is uploaded is the folder that `save_model` writes."""
        raise ConfigError(
            "push_to_hub cannot be honoured: use `preftree export OUTPUT_DIR FOLDER --push OWNER/NAME`, or "
            "trainer.model.push_to_hub(NAME)"
        )

    def token_options(self) -> dict[str, Any]:
        """Options of tokenisation beside the lengths."""
        return {"keep_repeats": True, "max_rejected": 1.0}

    def data_options(self) -> dict[str, Any]:
        """Options of the rows beside their order."""
        return {}

    def _write_rows(self, out: Path) -> tuple[str, str | None]:
        """The rows of the data sets as files in the run's folder."""
        data = write_rows(self.rows_of(self.train_dataset), out / "data.jsonl", "train_dataset")
        if self.eval_dataset is None:
            return data, None
        return data, write_rows(self.rows_of(self.eval_dataset), out / "eval_data.jsonl", "eval_dataset")

    def _hear(self, row: Mapping[str, Any], book: LogBook) -> None:
        """Pass a row of metrics on to the callbacks, under TRL's names."""
        entry = book.add(row)
        if entry is None:
            return
        self.state.epoch, self.state.log_history = entry.epoch, book.history
        if entry.kind != "evaluate":
            self.state.global_step = entry.step
            self._send("on_step_end")
        if entry.kind != "step":
            self._send("on_log", logs=dict(entry.figures))
        if entry.kind == "evaluate":
            self._send("on_evaluate", metrics=dict(entry.figures))

    def _finish(self, book: LogBook, schedule: TrlSchedule, seconds: float) -> TrainOutput:
        """The last entry of the log, and what `train` returns."""
        loss = sum(book.losses) / max(1, len(book.losses))
        samples = schedule.num_steps * self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        self.state.epoch = schedule.num_steps / schedule.steps_per_epoch
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(samples / seconds, 3),
            "train_steps_per_second": round(schedule.num_steps / seconds, 3),
            "train_loss": loss,
            "epoch": self.state.epoch,
        }
        self.state.log_history.append({**metrics, "step": schedule.num_steps})
        self._send("on_log", logs=dict(metrics))
        self._send("on_train_end")
        return TrainOutput(schedule.num_steps, loss, metrics)

    def _send(self, event: str, **values: Any) -> None:
        self.callback_handler.send(
            event, self.args, self.state, {"processing_class": self.processing_class, "model": self._model, **values}
        )


_RECIPES = {"sft": api.sft, "dpo": api.dpo, "reward": api.reward_model}

_REFUSED = {
    "data_collator": "batches are packed trees, made here",
    "compute_metrics": "figures are those of docs/reference.md, and logits are never kept",
    "compute_loss_func": "write a loss as a function and give it to preftree.dpo(loss='FILE.py:FUNCTION')",
    "optimizers": "the optimisers are adamw, adamw_8bit and rmsprop, and the schedules linear, cosine and constant",
    "optimizer_cls_and_kwargs": "the optimisers are adamw, adamw_8bit and rmsprop",
    "preprocess_logits_for_metrics": "logits are never kept",
    "model_init": "give the model itself",
}
"""Arguments of TRL's constructors that cannot be honoured, with the reason."""
