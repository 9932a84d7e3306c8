"""YAML files of TRL's command line (`trl dpo --config FILE`) as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftree.config.yaml import PlainMap
from preftree.other_tools.conversion import Conversion, put
from preftree.other_tools.training_arguments import take_adapter, take_optimisation
from preftree.other_tools.trl_fields import DEFAULT_ONLY, READ, WITHOUT_EFFECT
from preftree.other_tools.trl_losses import dpo_loss, kto_loss

_LOSS_DEFAULTS: dict[str, Any] = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "beta": 0.1,
    "label_smoothing": 0.0,
    "ld_alpha": None,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "use_weighting": False,
    "discopop_tau": 0.05,
}
_KTO_DEFAULTS = {"loss_type": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}
_LORA = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "targets",
    "lora_modules_to_save": "modules_to_save",
    "use_rslora": "rslora",
    "use_dora": "dora",
}
_RATES = {"dpo": 1e-6, "kto": 1e-6, "sft": 2e-5, "reward": 1e-4}
_OF_SCRIPTS = {
    "dataset_config": "name the folder or file of the configuration as data",
    "dataset_train_split": "a split is chosen by the name of its file or folder",
    "dataset_test_split": "set eval_data to the file of the split",
    "dataset_streaming": "rows are tokenised once and mapped into memory",
    "attn_implementation": "attention over trees is ours; `Scorer(attention=...)` chooses among them",
    "dtype": "weights are trained in fp32",
    "torch_dtype": "weights are trained in fp32",
    "model_revision": "the main revision is loaded; download another one and name its folder",
    "lora_task_type": "the recipe says it",
}


def verb_of(keys: PlainMap) -> str:
    """The command of TRL that a file is for, by the keys that only one has; `dpo` where none tells."""
    unpaired = keys.get("loss_type") in ("kto", "apo_zero_unpaired")
    if unpaired or keys.keys() & {"desirable_weight", "undesirable_weight"}:
        return "kto"
    if keys.keys() & {"assistant_only_loss", "completion_only_loss", "packing", "dataset_text_field"}:
        return "sft"
    return "reward" if "center_rewards_coefficient" in keys else "dpo"


def from_trl(keys: PlainMap, source: Path) -> tuple[str, Conversion]:
    """Our recipe and options of TRL's.

    Raises:
      ConfigError: the loss has no counterpart, or data and model are not named.
    """
    verb = verb_of(keys)
    conversion = Conversion("TRL", dict(keys))
    take, options = conversion.take, conversion.options
    options["model"] = take("model_name_or_path")
    put(options, "data.path", take("dataset_name"))
    if options["model"] is None or options["data"]["path"] is None:
        raise conversion.refuse("model_name_or_path and dataset_name are wanted")
    options["data"] |= {"order": "file" if take("train_sampling_strategy") == "sequential" else "example"}
    options["data"]["repeats"] = "keep"
    options["out"] = str(take("output_dir", "trainer_output"))
    conversion.keys.setdefault("gradient_checkpointing", True)
    conversion.keys.setdefault("bf16", not conversion.keys.get("fp16"))
    take_optimisation(conversion, learning_rate=_RATES[verb])
    length = conversion.keys.pop("max_length", 1024)
    options["max_length"] = length  # null sets no limit there, too
    if length is not None:
        options["truncation"] = "drop" if verb == "reward" else "trim_response"
    if (mode := take("truncation_mode", "keep_start")) != "keep_start":
        conversion.remark("truncation_mode", mode, "the end of a response is cut; or set truncation: trim_prompt")
    _take_objective(conversion, verb)
    if take("use_peft", False):
        take_adapter(conversion, _LORA, {"r": 16, "alpha": 32, "targets": "q_proj, v_proj"})
        if "lora_target_modules" not in keys:
            conversion.remark("lora_target_modules", None, "peft chooses by the architecture: q_proj and v_proj here")
    for name, storage in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if take(name, False):
            options["quantize"] = storage
    conversion.leave_out(_OF_SCRIPTS)
    for name in [name for name in conversion.keys if name in READ or name in WITHOUT_EFFECT]:
        reason = WITHOUT_EFFECT.get(name, "it decides what is logged or evaluated; every step is in metrics.jsonl")
        conversion.remark(name, conversion.keys.pop(name), reason)
    conversion.leave_out(DEFAULT_ONLY)
    return {"kto": "dpo"}.get(verb, verb), conversion


def _take_objective(conversion: Conversion, verb: str) -> None:
    take, options = conversion.take, conversion.options
    if verb == "dpo":
        fields = {name: take(name, default) for name, default in _LOSS_DEFAULTS.items()}
        if isinstance(fields["loss_type"], str):
            fields["loss_type"] = [fields["loss_type"]]
        parts = dpo_loss(fields)
        alone = len(parts) == 1 and parts[0]["weight"] == 1
        options["loss"] = {k: v for k, v in parts[0].items() if k != "weight"} if alone else parts
        if take("sync_ref_model", False):
            moves = {"sync_every": take("ref_model_sync_steps", 512), "mixup": take("ref_model_mixup_alpha", 0.6)}
            options["reference"] = {"from": "start", **moves}
    elif verb == "kto":
        options["loss"] = kto_loss({name: take(name, default) for name, default in _KTO_DEFAULTS.items()})
    elif verb == "reward":
        loss: dict[str, Any] = {"name": "bradley_terry"}
        if (centring := take("center_rewards_coefficient")) is not None:
            loss["centring"] = float(centring)
        options["loss"] = loss
    elif take("assistant_only_loss", False):
        options["data"]["turns"] = "all"
