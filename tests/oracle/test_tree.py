"""Scoring on packed trees equals each architecture's own forward on each sequence alone."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from preftree.losses.quantities import sum_responses
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from support.models import ARCHITECTURES, MIXTURES, ROWS, plain_all, random_sequences, tiny
from support.precision import TrulyFloat64

EVERY = [*ARCHITECTURES, *ROWS]


def forest(num_trees: int, longest_prompt: int, seed: int = 0) -> list[list[TokenSequence]]:
    """Trees of 1 to 5 responses; every second one over a small alphabet, so that responses share beginnings."""
    rng = np.random.default_rng(seed)
    return [
        random_sequences(
            rng,
            responses=int(rng.integers(1, 6)),
            prompt=int(rng.integers(1, longest_prompt + 1)),
            alphabet=6 if index % 2 else 101,
        )
        for index in range(num_trees)
    ]


def with_oracle(name: str, dtype: torch.dtype = torch.float32, **options: object):
    model = tiny(name, dtype=dtype)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    return Scorer(model, **options), plain


def tree_logps(scorer: Scorer, groups: list[list[TokenSequence]]) -> torch.Tensor:
    batch = scorer.lay_out(groups)
    return sum_responses(scorer(batch), batch.count_R).values


def relative_gradient_difference(scorer: Scorer, plain: torch.nn.Module) -> float:
    difference = size = 0.0
    for (name, ours), theirs in zip(scorer.model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None and theirs.grad is not None:
            difference += float((ours.grad.double() - theirs.grad.double()).square().sum())
            size += float(theirs.grad.double().square().sum())
    assert size > 0
    return (difference / size) ** 0.5


def fp32_bound(name: str) -> float:
    """Nats a response. Mamba's recurrence multiplies rounding; float64 holds it as closely as the others."""
    return 2e-3 if name == "mamba" else 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_summed_logps_in_fp32(name: str) -> None:
    scorer, plain = with_oracle(name)
    groups = forest(64 if name == "llama" else 16, 200 if name == "llama" else 60)
    with torch.no_grad():
        difference = (tree_logps(scorer, groups) - plain_all(plain, groups)).abs()
    assert float(difference.max()) <= fp32_bound(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_summed_logps_of_64_trees(name: str) -> None:
    scorer, plain = with_oracle(name)
    groups = forest(64, 200)
    with torch.no_grad():
        difference = (tree_logps(scorer, groups) - plain_all(plain, groups)).abs()
    assert float(difference.max()) <= fp32_bound(name)


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name: str) -> None:
    # A router that flips under the last bit of fp32 makes the gradient jump, and mamba's recurrence multiplies
    # rounding: these are compared in float64.
    scorer, plain = with_oracle(name, torch.float64 if name in (*MIXTURES, "mamba") else torch.float32)
    groups = forest(6, 40, seed=1)
    coefficients = torch.linspace(-1, 1, sum(map(len, groups)), dtype=torch.float64)
    (tree_logps(scorer, groups) * coefficients).sum().backward()
    (plain_all(plain, groups) * coefficients).sum().backward()
    assert relative_gradient_difference(scorer, plain) <= 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_float64(name: str) -> None:
    with TrulyFloat64():
        scorer, plain = with_oracle(name, torch.float64)
        for model in (scorer.model, plain):
            recompute_buffers(model)
        groups = forest(6, 40, seed=2)
        with torch.no_grad():
            difference = (tree_logps(scorer, groups) - plain_all(plain, groups)).abs()
    assert float(difference.max()) <= 1e-10


def recompute_buffers(model: torch.nn.Module) -> None:
    for buffer in model.buffers():
        if buffer.dtype == torch.float32:
            buffer.data = buffer.data.double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2", "gemma3", "gpt_oss", "qwen2"])
def test_blocks_mask_as_branches_do(name: str) -> None:
    """The CUDA path, run uncompiled where its kernel has a forward: the mask, the cap, the window and the sinks."""
    scorer, plain = with_oracle(name, attention="flex")
    groups = forest(6, 40, seed=3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*flex_attention called without torch.compile")
        difference = (tree_logps(scorer, groups) - plain_all(plain, groups)).abs()
    assert float(difference.max()) <= 1e-4


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_packing_changes_nothing(name: str) -> None:
    scorer, _ = with_oracle(name, torch.float64)
    groups = forest(8, 60, seed=4)
    with torch.no_grad():
        together = tree_logps(scorer, groups)
        alone = torch.cat([tree_logps(scorer, [group]) for group in groups])
        reverse = tree_logps(scorer, groups[::-1])
        apart = tree_logps(scorer, [[sequence] for group in groups for sequence in group])
    ends = np.cumsum([len(group) for group in groups])[::-1]
    reverse = torch.cat(
        [reverse[sum(map(len, groups)) - end :][: len(group)] for end, group in zip(ends, groups[::-1])][::-1]
    )
    for other in (alone, reverse, apart):
        torch.testing.assert_close(together, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_gradient_checkpointing_recomputes_with_its_own_tree(name: str) -> None:
    """Two forwards before the backwards: a tree kept as state would by then be the wrong one."""
    scorer, plain = with_oracle(name)
    scorer.checkpoint_gradients()
    first, second = forest(3, 30, seed=5), forest(4, 20, seed=6)
    total = tree_logps(scorer, first).sum() + tree_logps(scorer, second).sum()
    total.backward()
    (plain_all(plain, first).sum() + plain_all(plain, second).sum()).backward()
    assert relative_gradient_difference(scorer, plain) <= 1e-5


def test_bf16_stays_within_its_rounding() -> None:
    scorer, plain = with_oracle("llama", precision="bf16")
    groups = forest(8, 40, seed=7)
    with torch.no_grad():
        difference = (tree_logps(scorer, groups) - plain_all(plain, groups)).abs()
    assert 1e-5 < float(difference.max()) < 2.0


CUDA = [
    (name, attention, precision)
    for name in ("llama", "gpt2", "mistral", "gemma2", "gpt_oss")
    for attention in ("sdpa", "flex", "varlen")
    for precision in ("fp32", "bf16")
    if attention != "varlen" or (precision == "bf16" and name in ("llama", "gpt2", "mistral"))
]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "attention", "precision"), CUDA)
def test_cuda(name: str, attention: str, precision: str) -> None:
    tolerance = 1e-3 if precision == "fp32" else 2.0
    model = tiny(name)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    scorer = Scorer(model.cuda(), attention=attention, precision=precision)
    groups = forest(16, 100, seed=8)
    coefficients = torch.linspace(-1, 1, sum(map(len, groups)), dtype=torch.float64)
    logps = tree_logps(scorer, groups)
    expected = plain_all(plain, groups)
    assert float((logps.cpu() - expected).abs().max()) <= tolerance
    (logps * coefficients.cuda()).sum().backward()
    (expected * coefficients).sum().backward()
    assert relative_gradient_difference_devices(scorer, plain) <= (1e-3 if precision == "fp32" else 0.1)


def relative_gradient_difference_devices(scorer: Scorer, plain: torch.nn.Module) -> float:
    scorer.model.cpu()
    return relative_gradient_difference(scorer, plain)
