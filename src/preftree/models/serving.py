"""Serving an exported folder by other programs: an Ollama Modelfile, and commands for vLLM, llama.cpp and Ollama."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from preftree.models.beside_weights import end_tokens

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that `--max-lora-rank` accepts."""

_UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules saved whole",
    "target_parameters": "adapted experts",
}
"""Options of an adapter that these programs do not support, in words."""

GGUF_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def modelfile(
    tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, *, base: str | None, file: str = "."
) -> str:
    """Content of an Ollama Modelfile for the exported folder, with a stop for every token that ends a response.

    Args:
      tokenizer: Tokenizer of the model; without a chat template a prompt is passed on unchanged.
      generation: The model's generation settings; settings without a value are left to Ollama.
      base: Folder of the model under an adapter; None where the folder is a whole model.
      file: The whole model, beside the Modelfile; a dot is the folder.
    """
    lines = [f"FROM {_quoted(file)}"] if base is None else [f"FROM {_quoted(base)}", "ADAPTER ."]
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    for end in end_tokens(generation, tokenizer):
        lines.append(f"PARAMETER stop {_quoted(str(tokenizer.convert_ids_to_tokens(end)), always=True)}")
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(generation, name, None)
        if generation.do_sample and value is not None:
            lines.append(f"PARAMETER {name} {value}")
    return "\n".join(lines) + "\n"


def merged_commands(out: Path, dtype: str) -> dict[str, str]:
    """Commands for a whole model in `out`, by the program that they start."""
    folder, gguf_type = shlex.quote(str(out)), GGUF_TYPES[dtype]
    return {
        "vLLM": f"vllm serve {folder} --dtype {'auto' if dtype == 'float32' else dtype}",
        "llama.cpp": f"python llama.cpp/convert_hf_to_gguf.py {folder} --outfile {_gguf(out)} --outtype {gguf_type}",
        "Ollama": _ollama(out),
    }


def adapter_commands(out: Path, base: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Commands for an adapter in `out`, by the program that they start.

    Args:
      out: The adapter's folder.
      base: Folder or hub id of the model under the adapter.
      config: Content of adapter_config.json.
    """
    folder, under, name = shlex.quote(str(out)), shlex.quote(base), shlex.quote(out.name)
    rank = next((rank for rank in _VLLM_RANKS if rank >= int(config["r"])), int(config["r"]))
    unsupported = [words for key, words in _UNSUPPORTED.items() if config.get(key)]
    if unsupported:
        reason = f"none for an adapter with {' and '.join(unsupported)}: export it with --merged"
        return {"vLLM, llama.cpp, Ollama": reason}
    return {
        "vLLM": f"vllm serve {under} --enable-lora --max-lora-rank {rank} --lora-modules {name}={folder}",
        "llama.cpp": f"python llama.cpp/convert_lora_to_gguf.py {folder} --base {under} --outfile {_gguf(out)}",
        "Ollama": _ollama(out),
    }


def _quoted(text: str, *, always: bool = False) -> str:
    """A value of a Modelfile; its quotes have no escapes, and text with quotes stands between three of them."""
    if not always and not set(text) & set(" \t\n\"'#"):
        return text
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def _gguf(out: Path) -> str:
    return shlex.quote(str(out / f"{out.name}.gguf"))


def _ollama(out: Path) -> str:
    return f"ollama create {shlex.quote(out.name.lower())} -f {shlex.quote(str(out / 'Modelfile'))}"
