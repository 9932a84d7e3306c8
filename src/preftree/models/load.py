"""Loading a causal language model and its tokenizer, from a folder, a GGUF file or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from preftree.config.lora import Quantization
from preftree.errors import ModelError
from preftree.models.adapter_folder import CONFIG, WEIGHTS, AdapterFolder, find_adapter
from preftree.models.adapters import attach_adapter
from preftree.models.check_folder import check_folder, read_header
from preftree.models.foreign import foreign, read_config, without_load_warnings
from preftree.models.gguf.header import SUFFIX, find_gguf, gguf_header
from preftree.models.gguf.read import gguf_config, load_gguf, load_gguf_tokenizer
from preftree.models.on_hub import ask_hub
from preftree.models.quantize import quantization_options
from preftree.run_folder.summary_file import verify_model


def model_in(name: str) -> str:
    """RUN/model for the folder of a run; any other name unchanged."""
    path = Path(name).expanduser()
    return str(path / "model") if (path / "model").is_dir() and not (path / "config.json").exists() else name


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    quantize: Quantization | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A causal language model, in evaluation mode and without dropout.

    For an adapter folder it is the base model with the adapter in it, not merged.

    Args:
      name: A folder, a GGUF file, or a hub id.
      dtype: Dtype of the weights; fp32 for training, since updates of 1e-6 vanish in bf16 weights.
      quantize: Storage of the linear layers' weights.
      device: Device of the model.
    Raises:
      ModelError: there is no model that can be loaded, weights are missing, or it is not a causal LM.
      ConfigError: this quantisation is not possible here.
    """
    adapter = find_adapter(name)
    model = load_base(adapter or name, dtype=dtype, quantize=quantize, device=device)
    if adapter is not None:
        attach_adapter(model, adapter)
        remove_dropout(model)
    return model.eval()


def load_base(
    name: str | Path | AdapterFolder,
    *,
    dtype: torch.dtype = torch.float32,
    quantize: Quantization | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The model of `load_model` without its adapter.

    Raises:
      ModelError, ConfigError: as in `load_model`.
    """
    if isinstance(name, AdapterFolder):
        name = _base_of(name)
    check_name(name)
    if gguf := find_gguf(name):
        model = _from_gguf(gguf, dtype, quantize)
    else:
        quantization = quantization_options(quantize, torch.device(device)) if quantize else {}
        model = _from_folder(name, dtype, quantization)
    remove_dropout(model)
    if not quantize:
        model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps the method
    with foreign(f"model '{name}' cannot compute"), torch.no_grad():
        model.eval()(input_ids=torch.ones(1, 2, dtype=torch.int64, device=model.device), use_cache=False)
    return model.eval()


def _from_gguf(path: Path, dtype: torch.dtype, quantize: Quantization | None) -> PreTrainedModel:
    if quantize:
        raise ModelError(
            f"quantize={quantize} needs a model folder, and {path} is a GGUF file; make one of it with "
            f"`preftree export {path} FOLDER`"
        )
    return load_gguf(path, dtype)


def _from_folder(name: str | Path, dtype: torch.dtype, quantization: dict[str, Any]) -> PreTrainedModel:
    with foreign(f"model '{name}' cannot be loaded as a causal language model"), without_load_warnings():
        config = read_config(name)
        if getattr(config, "auto_map", None):
            raise ModelError(f"model '{name}' brings its own code, which is not run; give one that transformers knows")
        if is_reward_config(config):
            raise ModelError(f"model '{name}' is a reward model, wanted a causal language model; give another folder")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False, **quantization
        )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"model '{name}' lacks weights for {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}; "
            "they would be random, so training from it makes no sense"
        )
    return model


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; that of the base where an adapter folder holds none.

    Raises:
      ModelError: there is no tokenizer, or it has no end-of-sequence token.
    """
    check_name(name, weights=False)
    if (adapter := find_adapter(name)) and not (Path(name).expanduser() / "tokenizer_config.json").exists():
        name = _base_of(adapter)
    gguf = find_gguf(name)
    with foreign(f"no tokenizer can be loaded from '{name}'"):
        tokenizer = load_gguf_tokenizer(gguf) if gguf else AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        tokenizer.decode(tokenizer("a")["input_ids"])
        template = tokenizer.chat_template
        if not isinstance(template, str | dict | None):
            raise ModelError(f"the chat template of '{name}' must be text, got {type(template).__name__}")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of '{name}' has no end-of-sequence token, so responses could never end; set eos_token"
        )
    check_sizes(tokenizer, name)
    return tokenizer


def check_sizes(tokenizer: PreTrainedTokenizerBase, name: str | Path) -> None:
    """Refuse a tokenizer with tokens that the embedding of its model has no rows for; padding is never embedded.

    Raises:
      ModelError: there are such tokens; both sizes are in the message.
    """
    rows = embedding_rows(name)
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if rows is not None and number >= rows}
    beyond.pop(str(tokenizer.pad_token), None)
    if beyond:
        token = min(beyond, key=lambda token: beyond[token])
        raise ModelError(
            f"the tokenizer of '{name}' has {len(tokenizer)} tokens, and its model's embedding has {rows} rows: none "
            f"for {token!r} ({beyond[token]}); give the tokenizer that the model was saved with, or resize the "
            "embedding (resize_token_embeddings) and save the model again"
        )


def embedding_rows(name: str | Path) -> int | None:
    """Rows of the embedding of the model that a tokenizer belongs to; None where its folder holds no model."""
    if adapter := find_adapter(name):
        grown = [
            tensor.shape[0]
            for tensor_name, tensor in read_header(adapter.path / WEIGHTS).items()
            if tensor_name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))
        ]
        return grown[0] if grown else embedding_rows(_base_of(adapter))
    path, gguf = Path(name).expanduser(), find_gguf(name)
    if gguf is None and path.is_dir() and not (path / "config.json").exists():
        return None
    try:
        config = gguf_config(gguf) if gguf else read_config(name)
        with foreign(f"model '{name}' has no text model"):
            rows = getattr(config.get_text_config(), "vocab_size", None)
    except ModelError:  # the model is loaded elsewhere, and what is wrong with it is said there
        return None
    return rows if isinstance(rows, int) else None


def remove_dropout(model: nn.Module) -> None:
    """Set every dropout probability of the modules to 0; the configuration saved with the model keeps its values.

    Policy and reference must be the same function of their weights, and responses to one prompt share its activations.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith(("_drop", "pdrop"))):
                setattr(module, name, 0.0)


def _base_of(adapter: AdapterFolder) -> str:
    """Folder or hub id of the model under an adapter; a folder that is missing must not be taken for a hub id."""
    path = Path(adapter.base).expanduser()
    if (path.is_absolute() or adapter.base.startswith(".")) and not path.exists():
        raise ModelError(
            f"adapter '{adapter.path}' belongs to the model in '{adapter.base}', which does not exist; put it "
            f"back, or set base_model_name_or_path in the adapter's {CONFIG}"
        )
    return adapter.base


def is_reward_config(config: PretrainedConfig) -> bool:
    """Whether a configuration describes a model whose head gives classes or rewards instead of logits."""
    names = getattr(config, "architectures", None) or []
    return bool(names) and all(name.endswith("ForSequenceClassification") for name in names)


def check_name(name: str | Path, *, weights: bool = True) -> None:
    """Refuse a path that does not exist, before it is taken for a hub id and looked up on the network.

    Args:
      name: A folder, a GGUF file, or a hub id.
      weights: Whether the weights will be read, and are compared with the folder's manifest, too.
    Raises:
      ModelError: the name is a path, and there is no model, or one that is not as Preftree wrote it.
    """
    path = Path(name).expanduser()
    if gguf := find_gguf(name):
        gguf_header(gguf)
        return
    if path.is_dir():
        check_folder(path)
    is_path = isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1
    looks_local = is_path or path.suffix.lower() == SUFFIX
    if path.is_file():
        raise ModelError(f"model '{name}' is a file, and not a GGUF file (*.gguf); give a model folder")
    if path.is_dir() and not any((path / file).exists() for file in ("config.json", "tokenizer_config.json", CONFIG)):
        raise ModelError(f"folder '{name}' holds no config.json; give the folder that the model was saved to")
    if looks_local and not path.is_dir():
        what = "file" if path.suffix.lower() == SUFFIX else "folder"
        raise ModelError(f"model {what} '{name}' does not exist")
    if path.is_dir():
        verify_model(path, weights=weights)
    else:
        ask_hub(str(name))
