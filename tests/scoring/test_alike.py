"""Rows of many prompts that begin alike, on trees across prompts: values and gradients of every row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from preftree.scoring.attention import on_cpu
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import Sharing
from preftree.tree.pack import plan_step
from support.examples import random_pairs
from support.models import TREES, tiny
from support.precision import TrulyFloat64

PAIRS = 6


def values_and_gradients(scorer: Scorer, *, sharing: Sharing, budget: int) -> tuple[Tensor, dict[str, Tensor], int]:
    """Log-probs of all responses in the order of the data, gradients of a weighted sum, and tokens computed."""
    store = random_pairs(PAIRS, seed=5, longest=12, system=80)
    examples = [store[index].sequences for index in range(PAIRS)]
    (plan,) = plan_step(examples, store.prompts.tolist(), budget=budget, sharing=sharing)
    scorer.zero_grad()
    scorer.shares_prefixes = sharing.prefixes
    values: dict[int, Tensor] = {}
    for micro in plan:
        logps = scorer(micro.batch)
        sizes = [sum(int(one.scored.sum()) for one in examples[index]) for index in micro.examples]
        for index, some in zip(micro.examples, logps.split(sizes), strict=True):
            slope = torch.from_numpy(np.random.default_rng(index).normal(size=len(some)))
            (some * slope).sum().backward(retain_graph=True)
            values[index] = some.detach()
    gradients = {name: p.grad.clone() for name, p in scorer.named_parameters() if p.grad is not None}
    tokens = sum(len(micro.batch.input_T) for micro in plan)
    return torch.cat([values[index] for index in range(PAIRS)]), gradients, tokens


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", TREES)
def test_values_and_gradients_are_those_of_rows_alone(name: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wide` reads the beginning in one call for all branches below it; otherwise each branch copies its keys."""
    monkeypatch.setattr(on_cpu, "WIDE_COPIES", 100 if wide else 10**9)
    scorer = Scorer(tiny(name, dtype=torch.float64, scale=2.0))
    with TrulyFloat64():
        shared, gradients, tokens = values_and_gradients(scorer, sharing=Sharing(), budget=2000)
        several, of_several, more = values_and_gradients(scorer, sharing=Sharing(), budget=150)
        alone, of_alone, all_tokens = values_and_gradients(scorer, sharing=Sharing(prefixes=False), budget=2000)
    assert tokens < more < all_tokens
    for values, grads in ((shared, gradients), (several, of_several)):
        torch.testing.assert_close(values, alone, rtol=0, atol=1e-12 * float(alone.abs().max()))
        assert grads.keys() == of_alone.keys()
        for parameter, expected in of_alone.items():
            torch.testing.assert_close(grads[parameter], expected, rtol=0, atol=1e-12 * max(1, expected.abs().max()))
