"""Keys of transformers' TrainingArguments in a YAML file, which TRL, LLaMA-Factory and axolotl share, as ours."""

from __future__ import annotations

from typing import Any

from preftree.other_tools.conversion import Conversion

OPTIMISERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), "adamw_8bit"),
    "rmsprop": "rmsprop",
}
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}


def take_optimisation(conversion: Conversion, *, learning_rate: float, batch: int = 8, accumulation: int = 1) -> None:
    """Take learning rate, optimiser, schedule, steps, precision and saving.

    Args:
      conversion: The conversion.
      learning_rate: The tool's default.
      batch: Its default rows of a device's batch.
      accumulation: Its default number of accumulated batches.
    """
    take, options = conversion.take, conversion.options
    options["lr"] = float(take("learning_rate", learning_rate))
    name = str(take("optim", "adamw_torch_fused"))
    options["optimizer"] = OPTIMISERS.get(name, "adamw")
    if name not in OPTIMISERS:
        conversion.remark("optim", name, "there are adamw, adamw_8bit and rmsprop; adamw is taken")
    elif options["optimizer"] == "adamw_8bit" and name != "adamw_torch_8bit":
        conversion.remark("optim", name, "bitsandbytes' there, torchao's here")
    schedule = str(take("lr_scheduler_type", "linear"))
    options["schedule"] = SCHEDULES.get(schedule, "cosine")
    if schedule not in SCHEDULES:
        conversion.remark("lr_scheduler_type", schedule, "there are constant, linear and cosine; cosine is taken")
    ratio, steps = take("warmup_ratio", 0), take("warmup_steps", 0)
    warmup = steps or ratio
    options["warmup_steps"] = 0 if schedule == "constant" else float(warmup) if warmup < 1 else int(warmup)
    if options["warmup_steps"]:
        options["warmup_from_zero"] = True
    options["weight_decay"] = float(take("weight_decay", 0.0))
    options["max_grad_norm"] = float(take("max_grad_norm", 1.0)) or None
    per_device, accumulated = (
        take("per_device_train_batch_size", batch),
        take("gradient_accumulation_steps", accumulation),
    )
    options["batch_size"] = int(per_device) * int(accumulated)
    conversion.remark(
        "per_device_train_batch_size", per_device, "batch_size counts the rows of a step on all devices: one is assumed"
    )
    _take_pace(conversion)
    _take_precision(conversion)
    options["gradient_checkpointing"] = bool(take("gradient_checkpointing", False))
    options["seed"] = int(take("seed", 42))


def _take_pace(conversion: Conversion) -> None:
    take, options = conversion.take, conversion.options
    limit, epochs = int(take("max_steps", -1)), take("num_train_epochs", 3)
    if limit > 0:
        options["max_steps"] = limit
    elif float(epochs).is_integer():
        options["epochs"] = int(epochs)
    else:
        options["epochs"] = max(1, round(float(epochs)))
        conversion.remark("num_train_epochs", epochs, "whole epochs alone; set max_steps for a part of one")
    for theirs, ours in (("save_steps", "save_every"), ("eval_steps", "eval_every")):
        value = take(theirs)
        if isinstance(value, int) and value >= 1:
            options[ours] = value
        elif value is not None:
            conversion.remark(theirs, value, f"a number of steps is wanted: set {ours}")
    if (kept := take("save_total_limit")) is not None:
        options["keep_checkpoints"] = int(kept)
    for name in ("save_strategy", "eval_strategy", "evaluation_strategy"):
        if (value := take(name)) not in (None, "steps", "no", False):
            conversion.remark(name, value, "checkpoints and evaluations come every so many steps")


def _take_precision(conversion: Conversion) -> None:
    bf16, fp16 = conversion.take("bf16"), conversion.take("fp16")
    conversion.options["precision"] = "bf16" if bf16 in (True, "auto") or fp16 is True else "fp32"
    if fp16 is True:
        conversion.remark("fp16", fp16, "bfloat16 products are taken")


def take_adapter(conversion: Conversion, names: dict[str, str], usual: dict[str, Any]) -> None:
    """Take the options of a LoRA adapter, by the tool's name of each of ours, with the tool's defaults."""
    lora = dict(usual)
    for theirs, ours in names.items():
        if (value := conversion.take(theirs)) is not None:
            lora[ours] = value
    targets = lora.get("targets")
    if isinstance(targets, str):
        listed = [name.strip() for name in targets.split(",")]
        lora["targets"] = "all-linear" if targets in ("all", "all-linear") else listed
    lora["alpha"] = float(lora["alpha"])
    if lora.pop("dropout", 0):
        conversion.remark(
            "lora_dropout", "above 0", "policy and reference must be one function, so there is no dropout"
        )
    conversion.options["lora"] = lora
