"""Files beside the weights of a model folder: what other programs need of them, and what travels along.

A model folder holds more than weights, configuration and tokenizer: processors of images and sounds, licences, tables
of positions. A folder that is trained from it keeps them.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from preftree.data.tokens.template import closing_token
from preftree.errors import ModelError
from preftree.models.gguf.header import find_gguf
from preftree.models.gguf.read import stored_type

log = logging.getLogger("preftree")

_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files that describe how images and sounds become inputs."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".index.json")
_WRITTEN = ("config.json", "generation_config.json", "README.md", "Modelfile", "MANIFEST.json", "training_args.bin")
_OWN = ("adapter_", "trainer_state", "optimizer", "scheduler", "rng_state", ".")
_READABLE = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Classes that transformers 5 writes and transformers 4 does not know, and a name that both know."""


def end_tokens(settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a response: the tokenizer's EOS, those of the model's generation settings, and the token with
    which the chat template closes an assistant's turn.

    Raises:
      ModelError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ModelError("the tokenizer has no end-of-sequence token, so no response could end; set eos_token")
    setting = getattr(settings, "eos_token_id", None)
    from_settings = setting if isinstance(setting, list | tuple) else [] if setting is None else [setting]
    if wrong := [token for token in from_settings if not isinstance(token, int) or token < 0]:
        raise ModelError(f"the generation settings of the model name {wrong[0]!r} as an end token, wanted token ids")
    closing = closing_token(tokenizer)
    return list(dict.fromkeys([end, *from_settings, *([] if closing is None else [closing])]))


def write_generation(settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write generation_config.json: the model's settings, with every token that ends a response.

    Args:
      settings: Settings of the model; they are written as they are, also where transformers would not save them.
      tokenizer: Tokenizer of the model.
      folder: An existing folder.
    """
    ends = end_tokens(settings, tokenizer)
    known: dict[str, Any] = {} if settings is None else settings.to_diff_dict()
    content = known | {"eos_token_id": ends if len(ends) > 1 else ends[0]}
    (folder / "generation_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer, under a class that transformers 4 knows as well."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    name = config.get("tokenizer_class")
    if name in _READABLE:
        text = json.dumps(config | {"tokenizer_class": _READABLE[name]}, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def copy_beside(source: str, folder: Path) -> list[str]:
    """Copy the files beside the weights of a model into the folder of a model that was trained from it.

    Args:
      source: Folder, GGUF file or hub id of the model; of a hub id, the processors, and of a GGUF file nothing.
      folder: An existing folder; files in it are not replaced.
    Returns:
      The names of the files that were copied.
    """
    top = Path(source).expanduser()
    files = _local(top) if top.is_dir() else [] if find_gguf(top) else _processors(source)
    copied: list[str] = []
    for path in files:
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return copied


def copy_files(source: Path, folder: Path) -> None:
    """Copy the regular files of one folder into another; links out of it are left out, and named in the log."""
    for path in sorted(source.iterdir()):
        if _is_inside(path, source):
            shutil.copyfile(path, folder / path.name)
        elif path.is_symlink():
            log.warning("%s is a link to a file outside its folder; it is not copied", path)


def _is_inside(path: Path, top: Path) -> bool:
    """Whether a path is a regular file whose content is in `top`, or in the hub's cache that `top` belongs to."""
    if not path.is_file():
        return False
    if not path.is_symlink():
        return True
    target, top = path.resolve(), top.resolve()
    cache = top.parent.parent / "blobs" if top.parent.name == "snapshots" else top
    return target.is_relative_to(top) or target.is_relative_to(cache)


def stored_dtype(name: str) -> str | None:
    """Dtype of the weights in a model folder or on the hub, as its configuration says; None where it does not.

    For a GGUF file of quantised weights, "dequantised from" and their types.
    """
    try:
        if gguf := find_gguf(name):
            return stored_type(gguf)
        dtype = AutoConfig.from_pretrained(name, trust_remote_code=False).dtype
    except Exception:  # only said beside a model that has been trained: nothing depends on it
        return None
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _local(top: Path) -> Iterator[Path]:
    tokenizer = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges", "spiece")
    for path in sorted(top.iterdir()):
        name = path.name
        if name in _WRITTEN or name.startswith((*_OWN, *tokenizer)) or name.endswith((*_WEIGHTS, ".py", ".model")):
            continue
        if _is_inside(path, top):
            yield path
        elif path.is_symlink() and path.is_file():
            log.warning("%s is a link to a file outside its folder; it is not copied", path)


def _processors(name: str) -> Iterator[Path]:
    """The processors of a model on the hub; a language model has none, and is not asked for."""
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.get_text_config() is config:
            return
        for file in _PROCESSORS:
            cached = cached_file(
                name,
                file,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
            if cached is not None:
                yield Path(cached)
    except (OSError, ValueError) as error:
        log.warning("the processors of '%s' cannot be copied: %s", name, str(error).partition("\n")[0])
