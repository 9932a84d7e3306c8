"""The kernel itself: how it aligns, and that it computes what the other two paths do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from preftree.scoring.attention.dispatch import tree_attention
from preftree.scoring.attention.types import AttentionPath, TreeMask
from preftree.scoring.attention.varlen import Segments, _flash
from preftree.scoring.attention.varlen_check import verify_kernel
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import batch_trees, grow_tree
from support.models import random_sequences, tiny

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("window", "sums"), [((-1, 0), [3, 4, 5]), ((1, 0), [2, 2, 2]), ((2, 0), [3, 3, 3])])
def test_queries_are_the_last_of_their_keys(window: tuple[int, int], sums: list[int]) -> None:
    """Three queries and five keys, all scores equal: a value of 1 at each key in turn shows who sees it."""
    starts = torch.tensor([[0, 3], [0, 5]], dtype=torch.int32, device=GPU)
    segments = Segments(None, starts[0], starts[1], 3, 5)
    query, key = torch.zeros(3, 1, 8), torch.zeros(5, 1, 8)
    value = torch.eye(5, 8)[:, None]
    out = _flash(*(each.to(GPU, torch.bfloat16) for each in (query, key, value)), segments, 1.0, window)
    sees = (out[:, 0, :5] > 0).cpu()
    expected = torch.tensor(
        [[c <= r + 2 and (window[0] < 0 or c >= r + 2 - window[0]) for c in range(5)] for r in range(3)]
    )
    assert sees.tolist() == expected.tolist()
    assert sees.sum(1).tolist() == sums


@pytest.mark.parametrize(
    ("heads", "key_heads", "width"), [(4, 4, 64), (8, 2, 64), (6, 1, 128), (4, 4, 40), (2, 2, 256)]
)
def test_the_kernel_is_its_definition(heads: int, key_heads: int, width: int) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert verify_kernel(heads, key_heads, width, window=True, device=GPU, dtype=dtype) > 0


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("other", ["sdpa", "flex"])
def test_it_agrees_with_the_other_paths_in_bf16(other: AttentionPath, window: int | None) -> None:
    """Values and gradients of random trees, against the definition in fp32; each path may err by rounding alone."""
    for seed in range(4):
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        groups = [random_sequences(rng, responses=n, prompt=50, alphabet=a) for n, a in ((1, 5), (3, 5), (5, 101))]
        batch = batch_trees([grow_tree(group) for group in groups]).to(GPU)
        found = {}
        rows = [
            torch.randn(1, n, len(batch.input_T), 64, generator=generator).to(GPU, torch.bfloat16) for n in (4, 2, 2)
        ]
        for path in ("varlen", other):
            leaves = [row.clone().requires_grad_() for row in rows]
            tree = TreeMask(batch, path)
            out, _ = tree_attention(nn.Identity(), *leaves, tree=tree, sliding_window=window)
            found[path] = [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]
        for one, two in zip(found["varlen"], found[other]):
            assert float((one.double() - two.double()).norm() / two.double().norm()) < 0.01


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")  # of the compiler, about its own insides
def test_it_goes_with_checkpointing_and_compiled_layers(share: float, compiled: bool) -> None:
    groups = [random_sequences(np.random.default_rng(n), responses=n, prompt=20) for n in (1, 3, 5)]
    plain = Scorer(tiny("llama").cuda(), precision="bf16", attention="varlen")
    scorer = Scorer(copy.deepcopy(plain.model), precision="bf16", attention="varlen")
    if share:
        scorer.checkpoint_gradients(share)
    if compiled:
        scorer.compile_layers()
    for each in (plain, scorer):
        each(each.lay_out(groups)).sum().backward()
    difference = size = 0.0
    for one, two in zip(plain.parameters(), scorer.parameters()):
        assert one.grad is not None and two.grad is not None
        difference += float((one.grad - two.grad).square().sum())
        size += float(one.grad.square().sum())
    assert (difference / size) ** 0.5 < 0.1


def test_the_path_runs_in_half_precision_weights() -> None:
    groups = [random_sequences(np.random.default_rng(7), responses=3, prompt=20)]
    scores = {}
    for path in ("varlen", "sdpa"):
        scorer = Scorer(tiny("llama", dtype=torch.bfloat16).cuda(), attention=path)
        with torch.no_grad():
            scores[path] = scorer(scorer.lay_out(groups)).cpu()
    torch.testing.assert_close(scores["varlen"], scores["sdpa"], rtol=0, atol=1.0)
