"""Sampling with vLLM, an optional extra, behind the protocol of protocol.py.

Every row has a seed of its own, made of the job's seed and the row's number, so that a row's random numbers do not
depend on how rows are cut into calls. They are vLLM's own numbers: the same seed draws another text than hf.py does,
and vLLM does not promise the same text for every batch, since its batches change how sums are rounded.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedTokenizerBase

from preftree.errors import ConfigError, ModelError
from preftree.generate.hf import ends_of
from preftree.generate.protocol import Generation, Sampler, Sampling, finish
from preftree.storage.manifest import hash_file


def vllm_sampler(name: str, tokenizer: PreTrainedTokenizerBase, *, precision: Literal["fp32", "bf16"]) -> Sampler:
    """A model in vLLM as a sampler.

    Args:
      name: A model's folder or hub id; no adapter folder.
      tokenizer: Says which token ends a response, and turns ids into text.
      precision: Of the weights.
    Raises:
      ConfigError: vLLM is not installed; later, a prompt leaves no room for max_new_tokens.
      ModelError: the folder holds an adapter.
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
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    engine = vllm.LLM(model=name, dtype=dtype, generation_config="vllm")  # sets the model's own settings aside
    ends = ends_of(_settings(name), tokenizer)
    limit = int(engine.llm_engine.model_config.max_model_len)

    def sample(prompts: Sequence[Sequence[int]], sampling: Sampling, *, first_row: int = 0) -> list[Generation]:
        for row, prompt in enumerate(prompts, first_row):
            if not 0 < len(prompt) <= limit - sampling.max_new_tokens:
                raise ConfigError(
                    f"prompt {row} has {len(prompt)} tokens, wanted 1 to {limit - sampling.max_new_tokens}: vLLM holds "
                    f"{limit}, {sampling.max_new_tokens} of them new; lower max_new_tokens, or shorten the prompt"
                )
        ways = [
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
        asked = [vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        answered = engine.generate(asked, ways, use_tqdm=False)
        return [finish(tokenizer, list(one.outputs[0].token_ids), ends, sampling.stop) for one in answered]

    return sample


def folder_digest(name: str) -> str:
    """What tells a model from others: a digest of the weights in its folder and its config; of a hub id its name."""
    folder, total = Path(name).expanduser(), hashlib.sha256()
    if not folder.is_dir():
        return f"hub {name}"
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors" or path.name == "config.json":
            total.update(f"{path.name}\0{hash_file(path)}\0".encode())
    return total.hexdigest()


def row_seed(seed: int, row: int) -> int:
    """A seed for one row, in [0, 2^63): a digest of both numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest(), "big") >> 1


def _settings(name: str) -> GenerationConfig | None:
    """The generation settings that come with a model, for its end tokens."""
    try:
        return GenerationConfig.from_pretrained(name)
    except OSError:  # it has none
        return None
