"""Training from Python: the recipes as functions, with models, rows and adapters in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeAlias

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.load import check_config
from preftree.config.recipes import RECIPES
from preftree.data.sources.memory import Rows, named_rows, write_rows
from preftree.evaluate.in_memory.after_training import run_recipe
from preftree.models.foreign import read_config
from preftree.models.given import check_given, is_other_tokenizer, write_given
from preftree.models.peft_options import lora_options_of
from preftree.report.end_of_run import conclude
from preftree.run_folder.finished_run import FinishedRun, read_finished_run
from preftree.run_folder.metrics_file import Listener, listening
from preftree.runtime.logs import logging_to_stderr, quiet_transformers

Data: TypeAlias = str | Path | Rows
"""A data file, a folder of them or a hub id; or rows in memory: a list of mappings, or a `datasets.Dataset`."""

Model: TypeAlias = str | Path | PreTrainedModel
"""A model folder, an adapter folder, a GGUF file or a hub id; or a transformers model in memory."""


def sft(model: Model, data: Data, **options: Any) -> FinishedRun:
    """Fine-tune on demonstrations, as `preftree sft`; see `dpo` for the arguments."""
    return _train("sft", model, data, options)


def dpo(model: Model, data: Data, **options: Any) -> FinishedRun:
    """Optimise a policy on preferences, as `preftree dpo`.

    Args:
      model: A model folder, an adapter folder or a hub id; or a model in memory, which is written to OUT/start and
        stays as it is: the trained one is `run.model`.
      data: A file, or rows in memory, which are written to OUT/data.jsonl.
      options: The options of the command line (`preftree dpo --help`), inner ones as mappings: `lora={"r": 16}`.
        Without `out` the run's folder is temporary (`run.path`), and a second call starts a new run; with it the same
        call resumes. `lora` may be a `peft.LoraConfig`, and `reference` a model in memory. Three are of Python alone:
        `tokenizer`, with which a model in memory comes, and which takes the place of the one in a model's folder;
        `listener`, a function that is called with each row of metrics as it is written; and `row_names`, the names
        of `data` and `eval_data` in messages.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy. Rows are named
        `data[17].chosen`.
    """
    return _train("dpo", model, data, options)


def reward_model(model: Model, data: Data, **options: Any) -> FinishedRun:
    """Train a reward model on preferences, as `preftree reward`; see `dpo` for the arguments."""
    return _train("reward", model, data, options)


def ppo(model: Model, data: Data, **options: Any) -> FinishedRun:
    """Optimise a policy for a reward, as `preftree ppo`; `data` holds prompts, see `dpo` for the other arguments."""
    return _train("ppo", model, data, options)


def rloo(model: Model, data: Data, **options: Any) -> FinishedRun:
    """Optimise a policy for a reward without a critic, as `preftree rloo`; see `ppo` for the arguments."""
    return _train("rloo", model, data, options)


def _train(recipe: str, model: Model, data: Data, options: dict[str, Any]) -> FinishedRun:
    """Check the options, write what is in memory into the run's folder, and run the recipe."""
    check_given(model)
    settings: dict[str, Any] = {**options, "data": data}
    tokenizer: PreTrainedTokenizerBase | None = settings.pop("tokenizer", None)
    listener: Listener | None = settings.pop("listener", None)
    names: Mapping[str, str] = settings.pop("row_names", {})
    settings["out"] = str(options.get("out") or mkdtemp(prefix=f"preftree-{recipe}-"))
    out = Path(settings["out"]).expanduser()
    if isinstance(settings.get("lora"), LoraConfig):
        read = model.config if isinstance(model, PreTrainedModel) else read_config(model)
        settings["lora"] = lora_options_of(settings["lora"], str(read.model_type))
    rows = {name: settings[name] for name in ("data", "eval_data") if _is_rows(settings.get(name))}
    files = {name: out / f"{name}.jsonl" for name in rows}
    settings |= {name: str(value) for name, value in (settings | files).items() if isinstance(value, Path)}
    reference = settings.get("reference")
    writes_model = isinstance(model, PreTrainedModel) or is_other_tokenizer(model, tokenizer)
    writes_reference = isinstance(reference, PreTrainedModel)
    settings["model"] = str(out / "start" if writes_model else model)
    if writes_reference:
        settings["reference"] = str(out / "reference")
    with ExitStack() as stack:
        stack.enter_context(logging_to_stderr())
        stack.enter_context(named_rows({str(file): names.get(name, name) for name, file in files.items()}))
        config = check_config(RECIPES[recipe].config, settings)
        for name, file in files.items():
            write_rows(rows[name], file, names.get(name, name))
        quiet_transformers()
        if writes_model:
            tokenizer = write_given(model, tokenizer, out / "start")
        if writes_reference:
            write_given(reference, tokenizer, out / "reference")
        if listener is not None:
            stack.enter_context(listening(listener))
        outcome = run_recipe(config)
        if not outcome.signum:
            conclude(out)
    return read_finished_run(out, outcome.signum)


def _is_rows(value: object) -> bool:
    return not isinstance(value, str | Path | float | int | Mapping | None)
