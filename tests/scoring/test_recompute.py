"""Layers that compute their activations again: a share of them, the same numbers, less to keep."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from preftree.config.load import load_config
from preftree.config.online import PpoConfig
from preftree.errors import ModelError
from preftree.generate.hf import Sampling, generate
from preftree.models.load import load_model, load_tokenizer
from preftree.scoring import compile as compiled
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.scorer import Scorer, spread
from preftree.train.dpo import run_dpo
from preftree.train.ppo import run_ppo
from preftree.train.reward import run_reward
from preftree.train.sft import run_sft
from support.memory import saved_bytes
from support.models import random_sequences, tiny
from support.rewards import reward_config
from support.small_runs import dpo_config, make_model, make_pairs, rows_of, sft_config

REWARD = """def vowels(prompt, response):
    return sum(letter in "aeiou" for letter in response) / 4
"""
GROUPS = [random_sequences(np.random.default_rng(seed), responses=3, prompt=20) for seed in range(4)]


@pytest.mark.parametrize(
    ("number", "share", "taken"),
    [
        (4, 1.0, [0, 1, 2, 3]),
        (4, 0.5, [1, 3]),
        (12, 0.25, [3, 7, 11]),
        (5, 0.5, [1, 3, 4]),  # two and a half are three
        (30, 0.1, [9, 19, 29]),
        (3, 0.01, [2]),
        (20, 0.55, [1, 3, 5, 7, 9, 10, 12, 14, 16, 18, 19]),
    ],
)
def test_the_layers_are_spread_evenly(number: int, share: float, taken: list[int]) -> None:
    assert spread(number, share) == taken


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gptj"])
def test_memory_falls_with_the_share_and_no_bit_moves(name: str) -> None:
    gradients, kept, logps = [], [], []
    layers = tiny(name).config.num_hidden_layers
    for number in range(layers + 1):
        scorer = Scorer(tiny(name))
        if number:
            scorer.checkpoint_gradients(number / layers)
        batch = scorer.lay_out(GROUPS)
        out, size = saved_bytes(scorer, lambda: scorer(batch))  # noqa: B023  # called at once
        out.sum().backward()
        kept.append(size)
        logps.append(out.detach())
        gradients.append([parameter.grad for parameter in scorer.parameters()])
    saved = [more - less for more, less in pairwise(kept)]
    assert min(saved) > 0.9 * max(saved) > 0.2 * kept[0]  # every layer that is computed again saves the same
    assert kept[-1] < 0.4 * kept[0]
    for one in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], one, strict=True))
    assert all(torch.equal(logps[0], one) for one in logps)


def test_a_model_without_such_layers_is_refused() -> None:
    scorer = Scorer(tiny("llama"))
    scorer.model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="LlamaForCausalLM does not support gradient checkpointing"):
        scorer.checkpoint_gradients(0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recompute")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    return folder


def ppo_config(folder: Path, out: str, *words: str) -> PpoConfig:
    """Iterations that sample, score and train."""
    (folder / "vowels.py").write_text(REWARD)
    place = [f"model={folder / 'model'}", f"data={folder / 'pairs.jsonl'}", f"out={folder / out}"]
    more = [f"reward={folder / 'vowels.py'}:vowels", "batch_size=8", "samples_per_prompt=2", "max_new_tokens=6"]
    return load_config(PpoConfig, [*place, *more, "warmup_steps=0", *words])


@pytest.mark.parametrize(
    ("run", "config"),
    [(run_sft, sft_config), (run_dpo, dpo_config), (run_reward, reward_config), (run_ppo, ppo_config)],
    ids=["sft", "dpo", "reward", "ppo"],
)
def test_a_run_goes_the_same_way(place: Path, run, config) -> None:
    for out, share in (("all", "false"), ("some", ".5")):
        run(config(place, f"{config.__name__}-{out}", "max_steps=2", "lr=1e-3", f"gradient_checkpointing={share}"))
    ours, plain = (place / f"{config.__name__}-{out}" for out in ("some", "all"))
    assert len(rows_of(plain)) >= 2 and rows_of(ours) == rows_of(plain)
    file = Path("model") / "model.safetensors"
    assert (ours / file).read_bytes() == (plain / file).read_bytes()


def test_sampling_keeps_its_cache(place: Path) -> None:
    """transformers takes the cache away from a layer that is computed again."""
    tokenizer = load_tokenizer(place / "model")
    prompts = [tokenizer(text)["input_ids"] for text in ("good plot ->", "very", "1: bad")]
    drawn = []
    for again in (False, True):
        model = load_model(place / "model")
        scorer = Scorer(model)
        if again:
            scorer.checkpoint_gradients()
        drawn.append([one.ids for one in generate(model, tokenizer, prompts, Sampling(8, seed=1))])
    assert drawn[0] == drawn[1]
    with plain_attention(model):
        pass
    assert all(layer.training for layer in model.model.layers)  # training goes on as before


def test_what_older_transformers_hand_over_is_fused_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.17 binds the layer's own call, newer versions the forward of its class: both are the forward of the class."""
    asked = []
    monkeypatch.setattr(compiled, "_fused", lambda function: asked.append(function) or function)
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    x = torch.ones(2, 3, requires_grad=True)
    for layer in (first, second):
        old = compiled.recompute_fused(functools.partial(layer.__call__), x)
        new = compiled.recompute_fused(functools.partial(nn.Linear.forward, layer), x)
        assert torch.equal(old, layer(x)) and torch.equal(new, old)
    assert asked == [nn.Linear.forward] * 4
