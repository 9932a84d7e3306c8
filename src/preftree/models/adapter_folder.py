"""Adapter folders in peft's format.

An adapter folder holds adapter_config.json and adapter_model.safetensors (and, written here, adapter_base.json); other
adapters of the same base are in its subfolders. In memory the adapter is always called `default`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from preftree.errors import ModelError
from preftree.models.check_folder import check_folder, read_header, read_json, stored_tensors
from preftree.run_folder.summary_file import verify_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"
_BASE = "adapter_base.json"
PREFIX = "base_model.model."
_PROMPT_LEARNING = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
    "ADAPTION_PROMPT",
)
_UNSUPPORTED = ("alora_invocation_tokens", "arrow_config", "layer_replication", "trainable_token_indices", "lora_bias")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter on disk.

    Attributes:
      path: The folder.
      base: Folder or hub id of the model that the adapter belongs to.
      config: Content of adapter_config.json.
    """

    path: Path
    base: str
    config: Mapping[str, Any]


def find_adapter(name: str | Path, which: str | None = None) -> AdapterFolder | None:
    """The adapter in a folder, or None where the folder holds a whole model (or `name` is a hub id).

    Args:
      name: A folder, or a hub id.
      which: Subfolder of one of several adapters; None for the one at the top.
    Raises:
      ModelError: there is no adapter of this name; the adapter adds tokens instead of weights, is not in safetensors
        format, does not say which model it belongs to, or is not as Preftree wrote it.
    """
    top = Path(name).expanduser()
    names = adapter_names(top)
    if which is not None and which not in names:
        raise ModelError(f"'{name}' holds no adapter {which!r}, it holds {', '.join(names) or 'none'}")
    if which is None and NAME not in names:
        if names and not (top / "config.json").exists():
            raise ModelError(f"'{name}' holds the adapters {', '.join(names)}; name one, such as {top / names[0]}")
        return None
    folder = top if which in (None, NAME) else top / which
    verify_model(top)
    check_folder(folder)
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind in _PROMPT_LEARNING:
        raise ModelError(
            f"adapter '{folder}' is of type {kind}, which puts learned tokens before the text instead of changing "
            "weights; only LoRA adapters can share a prompt among responses"
        )
    unsupported = [f"{name}={config[name]}" for name in _UNSUPPORTED if config.get(name)]
    unsupported += [f"bias={config['bias']}"] if config.get("bias", "none") != "none" else []
    if kind != "LORA" or unsupported:
        raise ModelError(
            f"adapter '{folder}' is {unsupported[0] if unsupported else f'of type {kind}'}; only LoRA (DoRA and rsLoRA "
            "included) that changes nothing else in the model is supported"
        )
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise ModelError(f"{folder / CONFIG} must give r and lora_alpha as numbers; save the adapter again")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"adapter '{folder}' has no {WEIGHTS}; save it again with peft's save_pretrained")
    ranks = [tensor.shape[0] for name, tensor in read_header(folder / WEIGHTS).items() if "lora_A" in name]
    if ranks and not 0 < config["r"] <= max(ranks):
        raise ModelError(
            f"{folder / CONFIG} says r={config['r']}, and {WEIGHTS} beside it has ranks up to {max(ranks)}; download "
            "both again"
        )
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(
            f"{folder / CONFIG} does not name the model under the adapter; set base_model_name_or_path there"
        )
    return AdapterFolder(folder, str(base), config)


def adapter_names(folder: Path) -> list[str]:
    """Names of the adapters in a folder: `default` at its top, the others in subfolders."""
    if not folder.is_dir():
        return []
    below = sorted(path.name for path in folder.iterdir() if (path / CONFIG).is_file())
    return ([NAME] if (folder / CONFIG).is_file() else []) + below


def find_over(model: str, which: str) -> AdapterFolder:
    """An adapter by its name in the folder `model`, or by the path of its folder.

    Raises:
      ModelError: there is no such adapter, or it is of a kind that is not supported.
    """
    names = adapter_names(Path(model).expanduser())
    adapter = find_adapter(model, which) if which in names else None
    if adapter is None and adapter_names(Path(which).expanduser()):
        adapter = find_adapter(which)
    if adapter is None:
        raise ModelError(
            f"--adapter {which}: neither an adapter in '{model}', which holds {', '.join(names) or 'none'}, nor a "
            f"folder with an {CONFIG}"
        )
    return adapter


def write_adapter(model: PreTrainedModel, base: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors in peft's format.

    Args:
      model: The model with the adapter.
      base: Folder or hub id of the model under it; a folder is written as an absolute path.
      folder: An existing folder.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    tensors = {PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if sample := sample_weights(base):  # in a file of its own, since safetensors writes metadata in any order
        (folder / _BASE).write_text(json.dumps({"sample": sample}) + "\n", encoding="utf-8")
    options: Any = model.peft_config[NAME]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript, reportCallIssue]  # peft sets it
    config: dict[str, Any] = options.to_dict()
    path = Path(base).expanduser()
    config |= {"base_model_name_or_path": str(path.resolve()) if path.is_dir() else base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8")


def base_sample_of(adapter: AdapterFolder) -> str | None:
    """What `sample_weights` gave for the model that the adapter was trained on; None in adapters of other programs."""
    path = adapter.path / _BASE
    sample = read_json(path).get("sample") if path.exists() else None
    return sample if isinstance(sample, str) else None


def sample_weights(base: str) -> str | None:
    """Digests of the form (names, dtypes, shapes) and of a few values of each tensor in a model's folder.

    Training moves nearly every value, so the first kilobyte of each tensor tells two models apart, and reading it takes
    milliseconds. None for a hub id, and for a folder without safetensors.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        return None
    tensors = stored_tensors(folder)
    form, values = hashlib.sha256(), hashlib.sha256()
    with ExitStack() as stack:
        files = {path: stack.enter_context(open(path, "rb")) for path in {tensor.path for tensor in tensors.values()}}
        for name in sorted(tensors):
            tensor = tensors[name]
            form.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            files[tensor.path].seek(tensor.start)
            values.update(files[tensor.path].read(min(1024, tensor.stop - tensor.start)))
    return f"{form.hexdigest()[:32]}:{values.hexdigest()[:32]}" if tensors else None


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
