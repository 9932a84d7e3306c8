"""What bf16 weights lose at the learning rates of preference training, and fp32 weights under bf16 products do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.config.base import Optimisation
from preftree.losses.registry import bind
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.train.step.batch import Batch
from preftree.train.step.optimizer import build_optimizer
from preftree.train.step.update import take_step
from support.examples import random_pairs
from support.models import tiny
from support.reference import reference_table
from support.tasks import pair_task

ADAM = Optimisation(lr=1e-6, optimizer="adamw", max_grad_norm=None, schedule="constant", warmup_steps=0)
STEPS = 10


def moved(folder: Path, scorer: Scorer) -> tuple[float, float]:
    """After some updates: the share of the matrices' values that are not what they were, and their mean distance."""
    store = random_pairs(8)
    task = pair_task(bind("dpo", {"beta": 0.1}), reference_table(folder, scorer, store))
    matrices = [parameter for parameter in scorer.parameters() if parameter.ndim >= 2]
    before = [matrix.detach().clone() for matrix in matrices]
    optimizer = build_optimizer(scorer, ADAM)
    alone = Ranks(0, 1, torch.device("cpu"))
    for _ in range(STEPS):
        take_step(Batch(task, store, np.arange(8)), scorer, optimizer, budget=4096, max_grad_norm=None, ranks=alone)
    pairs = zip(matrices, before, strict=True)
    distance = torch.cat([(matrix.detach().double() - start.double()).abs().flatten() for matrix, start in pairs])
    return float((distance > 0).double().mean()), float(distance.mean())


def test_plain_bf16_weights_stand_still(tmp_path: Path) -> None:
    ours = moved(tmp_path / "ours", Scorer(tiny("gpt2", scale=1.0), precision="bf16"))
    exact = moved(tmp_path / "exact", Scorer(tiny("gpt2", scale=1.0)))
    plain = moved(tmp_path / "plain", Scorer(tiny("gpt2", scale=1.0, dtype=torch.bfloat16)))
    assert ours[0] > 0.99 * exact[0]
    assert ours[1] == pytest.approx(exact[1], rel=0.2)
    assert plain[0] < 0.05 * ours[0]
