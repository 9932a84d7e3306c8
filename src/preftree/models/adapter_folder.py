"""Adapters on disk, as peft writes them.

An adapter folder holds adapter_config.json and adapter_model.safetensors; other adapters of the same base lie in
subfolders. In memory the adapter is always called `default`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from preftree.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"
_PREFIX = "base_model.model."
_PROMPT_LEARNING = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
    "ADAPTION_PROMPT",
)
_ODD = ("alora_invocation_tokens", "arrow_config", "layer_replication", "trainable_token_indices", "lora_bias")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter on disk.

    Attributes:
      path: Its folder.
      base: Folder or hub id of the model that it belongs to.
      config: Its adapter_config.json.
    """

    path: Path
    base: str
    config: Mapping[str, Any]


def find_adapter(name: str | Path, which: str | None = None) -> AdapterFolder | None:
    """The adapter in a folder, or None where the folder holds a whole model (or `name` is a hub id).

    Args:
      name: A folder, or a hub id.
      which: Subfolder of one of several adapters; None is the one at the top.
    Raises:
      ModelError: there is no adapter of this name; the adapter adds tokens instead of weights, is not in safetensors
        format, or does not say which model it belongs to.
    """
    top = Path(name).expanduser()
    found = adapter_names(top)
    if which is not None and which not in found:
        raise ModelError(f"'{name}' holds no adapter {which!r}, it holds {', '.join(found) or 'none'}")
    if which is None and NAME not in found:
        if found and not (top / "config.json").exists():
            raise ModelError(f"'{name}' holds the adapters {', '.join(found)}; name one, such as {top / found[0]}")
        return None
    folder = top if which in (None, NAME) else top / which
    config = json.loads((folder / CONFIG).read_bytes())
    kind = config.get("peft_type")
    if kind in _PROMPT_LEARNING:
        raise ModelError(
            f"adapter '{folder}' is of type {kind}, which puts learned tokens before the text instead of changing "
            "weights; only LoRA adapters can share a prompt among responses"
        )
    odd = [f"{name}={config[name]}" for name in _ODD if config.get(name)]
    odd += [f"bias={config['bias']}"] if config.get("bias", "none") != "none" else []
    if kind != "LORA" or odd:
        raise ModelError(
            f"adapter '{folder}' is {odd[0] if odd else f'of type {kind}'}; only LoRA (DoRA and rsLoRA "
            "included) that leaves all else in the model alone is supported"
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"adapter '{folder}' has no {WEIGHTS}; save it again with peft's save_pretrained")
    base = config.get("base_model_name_or_path")
    if not base:
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
    """An adapter by the name that it has in the folder `model`, or by its own folder.

    Raises:
      ModelError: it is neither, or not of a kind that can be used.
    """
    own = adapter_names(Path(model).expanduser())
    found = find_adapter(model, which) if which in own else None
    if found is None and adapter_names(Path(which).expanduser()):
        found = find_adapter(which)
    if found is None:
        raise ModelError(
            f"--adapter {which}: neither an adapter in '{model}', which holds {', '.join(own) or 'none'}, nor a folder "
            f"with an {CONFIG}"
        )
    return found


def write_adapter(model: PreTrainedModel, base: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft reads them.

    Args:
      model: Holds the adapter.
      base: Folder or hub id of the model under it; a folder is written as an absolute path.
      folder: Exists.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    tensors = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    options: Any = model.peft_config[NAME]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript, reportCallIssue]  # peft sets it
    config: dict[str, Any] = options.to_dict()
    place = Path(base).expanduser()
    config |= {"base_model_name_or_path": str(place.resolve()) if place.is_dir() else base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
