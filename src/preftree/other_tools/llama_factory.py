"""YAML files of LLaMA-Factory (`llamafactory-cli train FILE`), with their dataset_info.json, as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preftree.config.yaml import PlainMap
from preftree.errors import ConfigError
from preftree.other_tools.conversion import Conversion, put
from preftree.other_tools.training_arguments import take_adapter, take_optimisation

_STAGES = {"sft": "sft", "dpo": "dpo", "kto": "dpo", "rm": "reward"}
_LOSSES = {"sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "kto_pair": "kto_pair"}
_LORA = {"lora_rank": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "lora_target": "targets"}
_COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "response": "completion"}
_LEFT_OUT = {
    "do_train": "the verb says it",
    "do_eval": "set eval_data",
    "template": "the tokenizer's own chat template renders conversations",
    "max_samples": "cut the file with `preftree data`, or set max_steps",
    "overwrite_cache": "tokenised rows are kept by their content, so a changed file is read again",
    "overwrite_output_dir": "out is never overwritten; a run in it is continued",
    "preprocessing_num_workers": "rows are tokenised in one process",
    "dataloader_num_workers": "there is no data loader",
    "logging_steps": "every step is written to metrics.jsonl",
    "plot_loss": "RUN/report.html has the curves",
    "save_only_model": "a checkpoint is whole, so that a stopped run resumes bit for bit",
    "report_to": "set track",
    "run_name": "it is read with its tracker alone",
    "trust_remote_code": "code from the hub is never run",
    "flash_attn": "attention over trees is ours",
    "packing": "rows are always packed within a step",
    "neat_packing": "no row attends to another",
    "ddp_timeout": "there is no such limit",
    "deepspeed": "sharding is not built in",
    "resume_from_checkpoint": "a run in out is continued",
    "per_device_eval_batch_size": "evaluation has a budget of tokens",
    "quantization_method": "nf4 and int8 are bitsandbytes'",
    "train_on_prompt": "responses alone are trained on",
    "mask_history": "data.turns: last trains on the last turn alone",
    "enable_thinking": "the chat template's options are a column of the rows",
}


def from_llama_factory(keys: PlainMap, source: Path) -> tuple[str, Conversion]:
    """Our recipe and options of LLaMA-Factory's.

    Raises:
      ConfigError: the stage, the loss or the way of tuning has no counterpart, or the data set is not described.
    """
    conversion = Conversion("LLaMA-Factory", dict(keys))
    take, options = conversion.take, conversion.options
    stage = str(take("stage", "sft"))
    if stage not in _STAGES:
        raise conversion.refuse(f"stage={stage}; there are {', '.join(_STAGES)} (`preftree ppo` takes other options)")
    options["model"] = take("model_name_or_path")
    if options["model"] is None:
        raise conversion.refuse("model_name_or_path is wanted")
    _take_data(conversion, source)
    options["out"] = str(take("output_dir", "saves"))
    take_optimisation(conversion, learning_rate=5e-5)
    options |= {"max_length": int(take("cutoff_len", 2048)), "truncation": "trim_response"}
    conversion.remark(
        "cutoff_len", options["max_length"], "prompt and response are cut in proportion there, here the response"
    )
    if stage in ("dpo", "kto"):
        options["loss"] = _loss(conversion, stage)
    tuning = str(take("finetuning_type", "lora"))
    if tuning == "lora" and stage == "rm":
        conversion.remark("finetuning_type", tuning, "a reward model is trained whole")
        conversion.leave_out(dict.fromkeys(_LORA, "a reward model is trained whole"))
    elif tuning == "lora":
        rank = int(conversion.keys.get("lora_rank") or 8)  # pyright: ignore[reportArgumentType]  # a number, or an error here
        take_adapter(conversion, _LORA, {"r": rank, "alpha": 2 * rank, "targets": "all"})
    elif tuning != "full":
        raise conversion.refuse(f"finetuning_type={tuning}; there are full and lora")
    if (bits := take("quantization_bit")) is not None:
        storage = {4: "nf4", 8: "int8"}.get(int(bits))
        if storage is None:
            raise conversion.refuse(f"quantization_bit={bits}; there are 4 (nf4) and 8 (int8)")
        options["quantize"] = storage
    conversion.leave_out(_LEFT_OUT)
    return _STAGES[stage], conversion


def _loss(conversion: Conversion, stage: str) -> dict[str, Any]:
    take = conversion.take
    beta = float(take("pref_beta", 0.1))
    if stage == "kto":
        weights = {ours: float(take(theirs, 1.0)) for theirs, ours in _KTO_WEIGHTS.items()}
        return {"name": "kto", "beta": beta, **weights}
    name = str(take("pref_loss", "sigmoid"))
    if name not in _LOSSES:
        raise conversion.refuse(f"pref_loss={name}; there are {', '.join(_LOSSES)}")
    if name == "orpo":
        conversion.options["reference"] = "none"
        return {"name": "orpo", "odds_weight": beta}
    loss: dict[str, Any] = {"name": _LOSSES[name], "beta": beta}
    smoothing = float(take("dpo_label_smoothing", 0.0))
    if smoothing and name == "sigmoid":
        loss |= {"name": "cdpo", "label_smoothing": smoothing}
    if name == "simpo":
        conversion.options["reference"] = "none"
        loss["gamma"] = float(take("simpo_gamma", 0.5))
        conversion.remark("simpo_gamma", loss["gamma"], "the margin itself, as there: beta times their gamma / beta")
    if likelihood := float(take("pref_ftx", 0.0)):
        conversion.remark("pref_ftx", likelihood, "set loss: iterative_rpo with nll_weight for DPO with the likelihood")
    return loss


_KTO_WEIGHTS = {"kto_chosen_weight": "desirable_weight", "kto_rejected_weight": "undesirable_weight"}


def _take_data(conversion: Conversion, source: Path) -> None:
    take, options = conversion.take, conversion.options
    names = [name.strip() for name in str(take("dataset", "")).split(",") if name.strip()]
    if len(names) != 1:
        raise conversion.refuse(f"dataset names {len(names)} data sets, and one is wanted; join them in one file")
    folder = Path(str(take("dataset_dir", "data")))
    place, columns = _described(conversion, _nearest(folder, source), names[0])
    data: dict[str, Any] = {"path": place, "order": "example"}
    options["data"] = data | ({"columns": columns} if columns else {})
    if (share := take("val_size")) is not None:
        put(options, "eval_data", float(share))
    if (held_out := take("eval_dataset")) is not None:
        options["eval_data"] = _described(conversion, _nearest(folder, source), str(held_out))[0]


def _nearest(folder: Path, source: Path) -> Path:
    """The folder of data sets, seen from here, or from the configuration."""
    beside = source.parent / folder
    return folder if folder.is_dir() or not beside.is_dir() else beside


def _described(conversion: Conversion, folder: Path, name: str) -> tuple[str, dict[str, str]]:
    """File or hub id of a data set, and its columns where they have other names than ours, by dataset_info.json."""
    path = folder / "dataset_info.json"
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read, and it says what dataset={name} is ({error})") from error
    if not isinstance(known, dict) or not isinstance(known.get(name), dict):
        raise ConfigError(f"{path} does not describe dataset={name}")
    about = known[name]
    place = str(folder / about["file_name"]) if "file_name" in about else str(about.get("hf_hub_url", ""))
    if not place:
        raise ConfigError(f"{path}: {name} has neither file_name nor hf_hub_url")
    given = about.get("columns") or {}
    columns = {_COLUMNS[theirs]: str(ours) for theirs, ours in given.items() if theirs in _COLUMNS}
    for theirs, value in given.items():
        if theirs not in _COLUMNS:
            conversion.remark(
                f"columns.{theirs}", value, "fields are recognised by their names (`preftree data inspect`)"
            )
    if about.get("formatting") == "sharegpt":
        reason = "`sft` imitates the last turn; set data.turns: all for every one, as there"
        conversion.remark("formatting", "sharegpt", reason)
    is_plain = about.get("formatting", "alpaca") == "alpaca" and set(given) <= set(_COLUMNS)
    return place, columns if is_plain and columns != {name: name for name in columns} else {}
