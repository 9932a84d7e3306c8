"""YAML files of axolotl (`axolotl train FILE`) as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftree.config.yaml import PlainMap
from preftree.other_tools.conversion import Conversion
from preftree.other_tools.training_arguments import take_adapter, take_optimisation

_LOSSES = {"dpo": "dpo", "ipo": "ipo", "orpo": "orpo", "kto": "kto", "simpo": "simpo"}
_RENAMED = {
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
}
_LORA = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "targets",
    "lora_modules_to_save": "modules_to_save",
    "peft_use_dora": "dora",
    "peft_use_rslora": "rslora",
}
_LEFT_OUT = {
    "chat_template": "the tokenizer's own chat template renders conversations",
    "dataset_prepared_path": "tokenised rows are kept in the cache",
    "dataset_processes": "rows are tokenised in one process",
    "shuffle_merged_datasets": "rows are shuffled in every epoch",
    "sample_packing": "rows are always packed within a step",
    "eval_sample_packing": "rows are always packed within a step",
    "pad_to_sequence_len": "nothing is padded",
    "train_on_inputs": "responses alone are trained on",
    "group_by_length": "micro-batches are made by a budget of tokens",
    "flash_attention": "attention over trees is ours",
    "sdp_attention": "attention over trees is ours",
    "xformers_attention": "attention over trees is ours",
    "tf32": "set torch's own switch",
    "tokenizer_type": "the model's own tokenizer is loaded",
    "model_type": "the model's own class is loaded",
    "special_tokens": "set them in the tokenizer's folder",
    "logging_steps": "every step is written to metrics.jsonl",
    "gradient_checkpointing_kwargs": "it changes memory and time, not the result",
    "resume_from_checkpoint": "a run in out is continued",
    "auto_resume_from_checkpoints": "a run in out is continued",
    "trust_remote_code": "code from the hub is never run",
    "strict": "every row is checked",
    "deepspeed": "sharding is not built in",
    "fsdp": "sharding is not built in",
    "fsdp_config": "sharding is not built in",
    "hub_model_id": "`preftree export --push` uploads",
    "wandb_project": "set track: [wandb]",
    "wandb_entity": "set track: [wandb]",
    "wandb_name": "set track: [wandb]",
    "wandb_watch": "set track: [wandb]",
    "wandb_run_id": "set track: [wandb]",
    "wandb_log_model": "set track: [wandb]",
    "evals_per_epoch": "set eval_every to a number of steps",
    "saves_per_epoch": "set save_every to a number of steps",
    "eval_table_size": "the report shows answers to held-out prompts",
    "plugins": "there are no plugins",
    "liger_rope": "the layers are those of transformers",
    "liger_rms_norm": "the layers are those of transformers",
    "liger_glu_activation": "the layers are those of transformers",
    "liger_fused_linear_cross_entropy": "logits are never whole",
    "excess_length_strategy": "set truncation: drop, trim_prompt or trim_response",
}


def from_axolotl(keys: PlainMap, source: Path) -> tuple[str, Conversion]:
    """Our recipe and options of axolotl's.

    Raises:
      ConfigError: the kind of training or the adapter has no counterpart, or several data sets are named.
    """
    conversion = Conversion("axolotl", dict(keys))
    take, options = conversion.take, conversion.options
    loss = take("rl")
    recipe = "reward" if take("reward_model", False) else "sft" if loss is None else "dpo"
    if loss is not None and loss not in _LOSSES:
        raise conversion.refuse(f"rl={loss}; there are {', '.join(_LOSSES)}")
    options["model"] = take("base_model")
    if options["model"] is None:
        raise conversion.refuse("base_model is wanted")
    _take_data(conversion, recipe)
    options["out"] = str(take("output_dir", "model-out"))
    for theirs, common in _RENAMED.items():
        if (value := take(theirs)) is not None:
            conversion.keys[common] = value
    conversion.keys.setdefault("num_train_epochs", 1)
    conversion.keys.setdefault("lr_scheduler_type", "cosine")
    take_optimisation(conversion, learning_rate=2e-4, batch=1)
    options |= {"max_length": int(take("sequence_len", 512)), "truncation": "drop"}
    if recipe == "dpo":
        options["loss"] = _loss(conversion, str(loss))
    adapter = take("adapter")
    if adapter in ("lora", "qlora") and recipe != "reward":
        targets = "all" if take("lora_target_linear", False) else "q_proj, v_proj"
        take_adapter(conversion, _LORA, {"r": 8, "alpha": 16, "targets": targets})
        if adapter == "qlora" or take("load_in_4bit", False):
            options["quantize"] = "nf4"
            take("load_in_4bit")
        elif take("load_in_8bit", False):
            options["quantize"] = "int8"
    elif adapter is not None:
        raise conversion.refuse(f"adapter={adapter}; there are lora and qlora, and a reward model is trained whole")
    conversion.leave_out(dict.fromkeys(_STORED, "frozen weights are stored so under an adapter alone"))
    conversion.leave_out(_LEFT_OUT)
    return recipe, conversion


_STORED = ("load_in_4bit", "load_in_8bit")


def _loss(conversion: Conversion, name: str) -> dict[str, Any]:
    beta = conversion.take("rl_beta", conversion.take("dpo_beta"))
    if name in ("orpo", "simpo"):
        conversion.options["reference"] = "none"
    if name == "orpo":
        return {"name": "orpo", "odds_weight": float(conversion.take("orpo_alpha", beta or 0.1))}
    loss: dict[str, Any] = {"name": _LOSSES[name], "beta": 0.1 if beta is None else float(beta)}
    if name == "simpo":
        loss["gamma"] = float(conversion.take("simpo_gamma", 0.5))
    if name == "kto":
        for ours in ("desirable_weight", "undesirable_weight"):
            loss[ours] = float(conversion.take(f"kto_{ours}", 1.0))
    if smoothing := float(conversion.take("dpo_label_smoothing", 0.0)):
        loss |= {"name": "cdpo", "label_smoothing": smoothing}
    return loss


def _take_data(conversion: Conversion, recipe: str) -> None:
    take, options = conversion.take, conversion.options
    sets = take("datasets", [])
    if not isinstance(sets, list) or len(sets) != 1 or not isinstance(sets[0], dict):
        raise conversion.refuse("datasets must name one data set; join several in one file")
    about = dict(sets[0])
    files = about.pop("data_files", None)
    files = [files] if isinstance(files, str) else files
    place = about.pop("path", None)
    if files is not None and len(files) == 1:
        place = files[0]
    options["data"] = {"path": place, "order": "example"}
    if recipe == "sft" and about.get("type") == "chat_template":
        options["data"]["turns"] = "all"
    for name, value in about.items():
        conversion.remark(f"datasets.{name}", value, "the format is recognised by its fields (`preftree data inspect`)")
    if share := take("val_set_size"):
        options["eval_data"] = float(share)
    if (tests := take("test_datasets")) is not None:
        conversion.remark("test_datasets", tests, "set eval_data to the file")
