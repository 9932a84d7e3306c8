"""A step asks the device for one copy of its figures, however many micro-batches it is computed in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from preftree.config.base import Optimisation
from preftree.losses.registry import bind
from preftree.reference.protocol import TableReference
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.train.objective import Objective, WeightedLoss
from preftree.train.preference_task import PreferenceTask
from preftree.train.step import update
from preftree.train.step.batch import Batch
from preftree.train.step.optimizer import build_optimizer
from preftree.train.step.update import take_step
from preftree.tree.to_device import send
from support.examples import random_pairs
from support.models import tiny
from support.reference import reference_table
from support.waiting import waits

ADAM = Optimisation(lr=1e-3, optimizer="adamw", max_grad_norm=0.5, schedule="constant")
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(("name", "loss"), [("llama", "dpo"), ("gemma2", "dpo"), ("gptj", "dpo"), ("llama", "aot")])
@pytest.mark.parametrize("budget", [96, 4096])
def test_a_step_waits_once(name: str, loss: str, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "refuse_non_finite", lambda *_: None)  # looks at what has been copied
    store, model = random_pairs(12), tiny(name)
    scorer = Scorer(model)
    table = reference_table(tmp_path, scorer, store)
    task = PreferenceTask(Objective((WeightedLoss(bind(loss, {})),)), TableReference(table))
    optimizer = build_optimizer(model, ADAM)
    with waits() as found:
        take_step(Batch(task, store, np.arange(12)), scorer, optimizer, budget=budget, max_grad_norm=1.0, ranks=ALONE)
    # The norm is read off that copy.
    assert +found == {"cpu": 1, "__float__": 1, "_local_scalar_dense": 1}


def test_what_is_counted() -> None:
    """Each of these waits on a GPU; nothing else here does."""
    numbers = torch.arange(4)
    with waits() as found:
        numbers.sum().item()
        numbers[numbers > 1].add_(1)
        numbers.nonzero()
        torch.tensor([1], device="cpu")
        torch.tensor([1])
        send(np.arange(3), "cpu").index_select(0, numbers[:2]).repeat_interleave(numbers[:2])
    assert +found == {
        "item": 1,
        "_local_scalar_dense": 1,
        "mask as index": 1,
        "nonzero": 1,
        "tensor": 1,
        "repeat_interleave": 1,
    }
