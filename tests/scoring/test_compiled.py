"""Compiled layers: the same function, its rounding aside, and packing moves no more than rounding."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.errors import ModelError
from preftree.scoring.attention import flex
from preftree.scoring.attention.types import TreeMask
from preftree.scoring.scorer import Scorer
from preftree.train.dpo import run_dpo
from preftree.tree.layout import batch_trees, grow_tree
from support.memory import saved_bytes
from support.models import random_sequences, tiny
from support.rounding import assert_equal_but_rounding
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

pytestmark = pytest.mark.slow  # the compiler takes a minute

GROUPS = [
    random_sequences(np.random.default_rng(seed), responses=3, prompt=prompt)
    for seed, prompt in enumerate((5, 12, 40, 33))
]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.filterwarnings("ignore")  # of the compiler, about its own insides
def test_it_is_the_same_function(name: str) -> None:
    plain, fused = Scorer(tiny(name)), Scorer(tiny(name))
    fused.compile_layers()
    assert fused.numeric_mode == f"{plain.numeric_mode}/compiled"
    batch = plain.lay_out(GROUPS)
    expected, found = plain(batch), fused(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.equal(found, expected), "nothing was fused"
    expected.sum().backward()
    found.sum().backward()
    for (what, one), other in zip(plain.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-4, msg=what)
    with torch.no_grad():
        alone = torch.cat([fused(fused.lay_out([group])) for group in GROUPS])
        assert torch.equal(fused(batch), found)
    assert_equal_but_rounding(alone, found.detach())


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.filterwarnings("ignore")  # as above
def test_layers_that_are_computed_again_are_fused_as_well(name: str, share: float) -> None:
    plain, fused, again = Scorer(tiny(name)), Scorer(tiny(name)), Scorer(tiny(name))
    fused.compile_layers()
    again.checkpoint_gradients(share)
    again.compile_layers()
    batch = plain.lay_out(GROUPS)
    found = {scorer: saved_bytes(scorer, lambda: scorer(batch)) for scorer in (plain, fused, again)}  # noqa: B023  # called at once
    for logps, _ in found.values():
        logps.sum().backward()
    assert found[again][1] < (0.8 if share < 1 else 0.4) * found[fused][1]
    assert torch.equal(found[again][0], found[fused][0]) and not torch.equal(found[again][0], found[plain][0])
    for (what, one), other in zip(fused.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), what  # pyright: ignore[reportArgumentType]  # it has one
    with torch.no_grad():
        assert torch.equal(again(batch), found[again][0])


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    scorer = Scorer(tiny("llama"))
    scorer.model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="no layers that can be compiled; leave compile out"):
        scorer.compile_layers()


@pytest.mark.filterwarnings("ignore")  # as above
def test_a_run_starts_at_its_reference_and_goes_the_same_way(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    make_pairs(tmp_path / "pairs.jsonl", 40)
    for out, more in (("plain", ()), ("fused", ("compile=true",))):
        run_dpo(dpo_config(tmp_path, out, "max_steps=3", "lr=1e-3", *more))
    plain, fused = (rows_of(tmp_path / out) for out in ("plain", "fused"))
    assert fused[0]["loss"] == plain[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [row["loss"] for row in fused] == pytest.approx([row["loss"] for row in plain], abs=1e-5)
    assert fused[-1]["loss"] != plain[-1]["loss"]


@pytest.mark.filterwarnings("ignore")  # as above
def test_masks_of_many_shapes_take_a_few_compilations(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA masks are compiled, and running out of variants is an error; here the same is compiled for the CPU."""
    plain = flex.create_block_mask
    monkeypatch.setattr(flex, "create_block_mask", lambda *a, **b: plain(*a, **{**b, "_compile": True}))
    rng = np.random.default_rng(0)
    compilations = []
    for _ in range(16):
        groups = [
            random_sequences(rng, responses=int(rng.integers(1, 4)), prompt=int(rng.integers(1, 200)))
            for _ in range(int(rng.integers(1, 12)))
        ]
        mask = TreeMask(batch_trees([grow_tree(group) for group in groups]), "flex")
        for window in (None, 16):
            flex.block_mask(mask, torch.device("cpu"), window)
        compilations.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compilations[0] < compilations[-1] == compilations[4], compilations
