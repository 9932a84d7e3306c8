"""Small reward models: made from tiny language models, and runs that train them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.config.load import load_config
from preftree.config.reward import RewardConfig
from preftree.models.reward_model import grow_reward_model, reward_head
from support.models import tiny
from support.tokenizers import plain_tokenizer


def reward_model(folder: Path, name: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """A reward model of an architecture of support/models.py, its head random."""
    if not folder.exists():
        tiny(name).save_pretrained(folder)
    model = grow_reward_model(folder, plain_tokenizer())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = reward_head(model).weight
        weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    return model


def reward_config(folder: Path, out: str, *words: str) -> RewardConfig:
    """A run of a few steps in `folder`, where small_runs.py has put a model and pairs."""
    given = {word.partition("=")[0] for word in words}
    base = [
        f"model={folder / 'model'}",
        f"data={folder / 'pairs.jsonl'}",
        f"out={folder / out}",
        f"cache={folder / 'cache'}",
        "batch_size=4",
        "micro_batch_tokens=128",
        "lr=3e-3",
        "warmup_steps=2",
        "head=zero",
    ]
    return load_config(RewardConfig, [word for word in base if word.partition("=")[0] not in given] + list(words))


def plain_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> list[int]:
    """A plain prompt and response as training writes them: two texts apart, and the EOS."""
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)]
    return [*parts[0], *parts[1], tokenizer.eos_token_id]
