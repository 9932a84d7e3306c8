"""Sampling with vLLM, an optional extra, by the protocol of protocol.py.

Every row has a seed made of the job's seed and the row's number, so a row's random numbers do not depend on how rows
are cut into calls. vLLM draws the numbers: the same seed gives another text than with hf.py, and vLLM does not promise
the same text for every batch, since its batches change how sums are rounded.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedTokenizerBase

from preftree.errors import ConfigError, ModelError
from preftree.generate.protocol import Generation, Sampler, Sampling, cut_response
from preftree.models.beside_weights import end_tokens
from preftree.models.gguf.header import find_gguf
from preftree.storage.manifest import hash_file


def vllm_sampler(name: str, tokenizer: PreTrainedTokenizerBase, *, precision: Literal["fp32", "bf16"]) -> Sampler:
    """A model in vLLM as a sampler.

    Args:
      name: A model's folder or hub id; no adapter folder.
      tokenizer: Tokenizer of the model.
      precision: Precision of the weights.
    Raises:
      ConfigError: vLLM is not installed; later, a prompt leaves no room for max_new_tokens.
      ModelError: the folder holds an adapter, or it is a GGUF file.
    """
    try:
        vllm: Any = importlib.import_module("vllm")  # an extra
    except ImportError as error:
        raise ConfigError(
            f"--engine vllm needs vLLM, which cannot be imported ({error}); install it with pip install "
            "'preftree[vllm]', or leave --engine out"
        ) from error
    if (Path(name).expanduser() / "adapter_config.json").is_file():
        raise ModelError(f"{name} holds an adapter; merge it with `preftree export RUN OUT --merged` for vLLM")
    if gguf := find_gguf(name):
        raise ModelError(f"{name} is a GGUF file; make a folder of it for vLLM: preftree export {gguf} FOLDER")
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    engine = vllm.LLM(model=name, dtype=dtype, generation_config="vllm")  # not the settings of the model
    ends = end_tokens(_settings(name), tokenizer)
    limit = int(engine.llm_engine.model_config.max_model_len)

    def sample(prompts: Sequence[Sequence[int]], sampling: Sampling, *, first_row: int = 0) -> list[Generation]:
        for row, prompt in enumerate(prompts, first_row):
            if not 0 < len(prompt) <= limit - sampling.max_new_tokens:
                raise ConfigError(
                    f"prompt {row} has {len(prompt)} tokens, wanted 1 to {limit - sampling.max_new_tokens}: vLLM holds "
                    f"{limit}, {sampling.max_new_tokens} of them new; lower max_new_tokens, or shorten the prompt"
                )
        parameters = [
            vllm.SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=row_seed(sampling.seed, row),
                stop_token_ids=ends,
                stop=list(sampling.stop) or None,
                include_stop_str_in_output=True,
            )
            for row in range(first_row, first_row + len(prompts))
        ]
        inputs = [vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        outputs = engine.generate(inputs, parameters, use_tqdm=False)
        return [cut_response(tokenizer, list(row.outputs[0].token_ids), ends, sampling.stop) for row in outputs]

    return sample


def folder_digest(name: str) -> str:
    """Identity of a model: a digest of the weights in its folder and its config; the name of a hub id."""
    folder, total = Path(name).expanduser(), hashlib.sha256()
    if not folder.is_dir():
        return f"hub {name}"
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors" or path.name == "config.json":
            total.update(f"{path.name}\0{hash_file(path)}\0".encode())
    return total.hexdigest()


def row_seed(seed: int, row: int) -> int:
    """Seed of one row, in [0, 2^63): a digest of both numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest(), "big") >> 1


def _settings(name: str) -> GenerationConfig | None:
    """Generation settings of a model, None where it has none; for its end tokens."""
    try:
        return GenerationConfig.from_pretrained(name)
    except OSError:
        return None
