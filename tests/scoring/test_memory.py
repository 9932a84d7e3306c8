"""Memory as docs/design.md derives it: what a step keeps for its backward, counted on a small Llama."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
import transformers

from preftree.config.base import Optimisation
from preftree.scoring import bf16_on_cpu
from preftree.scoring.bf16_on_cpu import emulated
from preftree.scoring.scorer import Scorer
from preftree.train.step.optimizer import build_optimizer, optimizer_tensors
from preftree.tree.layout import TreeBatch
from support.memory import saved_bytes
from support.models import random_sequences

WIDTH, INNER, LAYERS, HEADS, VOCAB = 96, 256, 4, 6, 101
GROUPS = [random_sequences(np.random.default_rng(seed), responses=3, prompt=60) for seed in range(6)]


def llama(key_heads: int = HEADS) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=key_heads,
    )
    return transformers.LlamaForCausalLM(config).eval()


def expected_bytes(
    batch: TreeBatch, precision: Literal["fp32", "bf16"], again: int, model_weights: int, key_heads: int
) -> float:
    """The formulas of the page: layers, what is once, and with bf16 the cast weights."""
    tokens, scored, grouped = len(batch.input_T), len(batch.source_S), key_heads / HEADS
    a_token = (32 + 8 * grouped) * WIDTH + 16 * INNER if precision == "fp32" else (30 + 4 * grouped) * WIDTH + 8 * INNER
    if precision == "bf16" and emulated(torch.device("cpu")):  # attention is in fp32, and no cast of a weight is kept
        a_token, model_weights = (36 + 8 * grouped) * WIDTH + 8 * INNER, 0
    layers = (LAYERS - again) * (a_token + 4 * HEADS) * tokens + again * 4 * WIDTH * tokens
    once = 8 * WIDTH * tokens + 4 * WIDTH * scored + 4 * VOCAB * scored
    return layers + once + (2 * model_weights * (LAYERS - again) / LAYERS if precision == "bf16" else 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("again", [0, 2, 4])
@pytest.mark.parametrize("instructions", [True, False])
def test_activations(
    monkeypatch: pytest.MonkeyPatch,
    precision: Literal["fp32", "bf16"],
    key_heads: int,
    again: int,
    instructions: bool,
) -> None:
    """With bf16 instructions and without; where this CPU has none, torch computes them all the same."""
    monkeypatch.setattr(bf16_on_cpu, "_has_kernels", lambda: instructions)
    scorer = Scorer(llama(key_heads), precision=precision)
    if again:
        scorer.checkpoint_gradients(again / LAYERS)
    batch = scorer.lay_out(GROUPS)
    matrices = sum(p.numel() for name, p in scorer.named_parameters() if p.ndim == 2 and "layers" in name)
    _, measured = saved_bytes(scorer, lambda: scorer(batch))
    assert measured == pytest.approx(expected_bytes(batch, precision, again, matrices, key_heads), rel=0.02)


@pytest.mark.parametrize(("optimizer", "a_weight"), [("adamw", 8), ("rmsprop", 4)])
def test_bytes_of_a_weight(optimizer: Literal["adamw", "rmsprop"], a_weight: int) -> None:
    scorer = Scorer(llama(), precision="bf16")
    options = Optimisation(lr=1e-6, optimizer=optimizer, max_grad_norm=None, schedule="constant", warmup_steps=0)
    update = build_optimizer(scorer, options)
    scorer(scorer.lay_out(GROUPS)).sum().backward()
    update.step()
    number = sum(parameter.numel() for parameter in scorer.parameters())
    assert {parameter.dtype for parameter in scorer.parameters()} == {torch.float32}
    assert sum(parameter.grad.nbytes for parameter in scorer.parameters() if parameter.grad is not None) == 4 * number
    state = [value.nbytes for value in optimizer_tensors(scorer, update).values() if value.ndim]
    assert sum(state) == a_weight * number
