"""How other programs take an exported folder: an Ollama Modelfile, and the commands of llama.cpp and vLLM."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""

GGUF_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def modelfile(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, *, base: str | None) -> str:
    """An Ollama Modelfile to lie in the exported folder.

    Args:
      tokenizer: Whose tokens end a response; without a chat template a prompt is passed on as it is.
      generation: The model's own sampling; what it leaves open is left to Ollama.
      base: Folder of the model under an adapter; None where the folder is a whole model.
    """
    lines = ["FROM ."] if base is None else [f"FROM {base}", "ADAPTER ."]
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE "{{ .Prompt }}"')
    ends = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None:
            lines.append(f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(int(end))}"')
    for name, option in (("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k")):
        value = getattr(generation, option, None)
        if generation.do_sample and value is not None:
            lines.append(f"PARAMETER {name} {value}")
    return "\n".join(lines) + "\n"


def merged_commands(out: Path, dtype: str) -> dict[str, str]:
    """The commands for a whole model in `out`, by what they are for."""
    place = shlex.quote(str(out))
    gguf = shlex.quote(str(out / f"{out.name}.gguf"))
    return {
        "vLLM": f"vllm serve {place} --dtype {'auto' if dtype == 'float32' else dtype}",
        "llama.cpp": f"python llama.cpp/convert_hf_to_gguf.py {place} --outfile {gguf} --outtype {GGUF_TYPES[dtype]}",
        "Ollama": f"ollama create {shlex.quote(out.name.lower())} -f {shlex.quote(str(out / 'Modelfile'))}",
    }


def adapter_commands(out: Path, base: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The commands for an adapter in `out`, by what they are for.

    Args:
      out: The adapter's folder.
      base: Folder or hub id of the model under it.
      config: Its adapter_config.json.
    """
    place, under, name = shlex.quote(str(out)), shlex.quote(base), shlex.quote(out.name)
    rank = next((rank for rank in _VLLM_RANKS if rank >= int(config["r"])), int(config["r"]))
    odd = [word for key, word in (("use_dora", "DoRA"), ("modules_to_save", "modules saved whole")) if config.get(key)]
    odd += ["adapted experts"] if config.get("target_parameters") else []
    if odd:
        return {"vLLM, llama.cpp, Ollama": f"none for an adapter with {' and '.join(odd)}: export it with --merged"}
    gguf = shlex.quote(str(out / f"{out.name}.gguf"))
    return {
        "vLLM": f"vllm serve {under} --enable-lora --max-lora-rank {rank} --lora-modules {name}={place}",
        "llama.cpp": f"python llama.cpp/convert_lora_to_gguf.py {place} --base {under} --outfile {gguf}",
        "Ollama": f"ollama create {shlex.quote(out.name.lower())} -f {shlex.quote(str(out / 'Modelfile'))}",
    }
