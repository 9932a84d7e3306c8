"""However a step is cut, packed or dealt to processes, the weights go the same way.

float64 runs use GPT-2: Llama's norms compute in fp32 even in a float64 model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from preftree.config.base import Optimisation
from preftree.losses.registry import bind
from preftree.reference.protocol import TableReference
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.train.preference_task import PreferenceTask
from preftree.train.step.batch import Batch
from preftree.train.step.optimizer import build_optimizer, learning_rate, set_learning_rate
from preftree.train.step.scores import Moment
from preftree.train.step.update import take_step
from support.examples import random_pairs
from support.models import tiny, tiny_llama
from support.ranks import run_ranks
from support.reference import reference_table
from support.step_losses import objective
from support.tasks import pair_task

STEPS, BATCH, PAIRS = 20, 8, 24
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
ALONE = Ranks(0, 1, torch.device("cpu"))
OPTIONS = Optimisation(lr=3e-4, optimizer="rmsprop", max_grad_norm=1.0, schedule="linear", warmup_steps=3)


@dataclass(frozen=True)
class Cut:
    """One way to compute a step."""

    budget: int = 8192
    share: bool = True
    processes: int = 1
    system: int = 0


def follow(dtype: str, cut: Cut, ranks: Ranks, folder: Path, losses: tuple[str, ...]) -> list[list[float]]:
    """Loss, margin, gradient norm and chosen logps of each step, then a fingerprint of the weights and the state."""
    model = tiny("gpt2", dtype=torch.float64, scale=2.0) if dtype == "float64" else tiny_llama()
    store = random_pairs(PAIRS, weighted=True, longest=40, system=cut.system)
    scorer = Scorer(model)
    scorer.shares_prefixes = cut.share
    table = reference_table(folder, scorer, store, budget=8192)
    task = pair_task(bind("dpo", {"beta": 0.1}), table)
    if losses:
        task = PreferenceTask(objective(*losses), TableReference(table))
    moment = Moment(state=task.state)
    optimizer = build_optimizer(model, OPTIONS)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(PAIRS), 1 + STEPS * BATCH // PAIRS))
    path = []
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        set_learning_rate(optimizer, learning_rate(step, OPTIONS, STEPS))
        result = take_step(
            Batch(task, store, rows, moment), scorer, optimizer, budget=cut.budget, max_grad_norm=1.0, ranks=ranks
        )
        moment = Moment(step=step + 1, state=result.state)
        figures = task.figures(result.columns, store, rows)
        path.append([figures["loss"], figures["margin"], result.grad_norm, figures["chosen_logps"]])
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
    weights = [float((p.detach().double() * probe).sum()) for p, probe in zip(model.parameters(), probes, strict=True)]
    return [*path, [*weights, *moment.state.values()]]


def run_cut(dtype: str, cut: Cut, losses: tuple[str, ...] = ()) -> list[list[float]]:
    with TemporaryDirectory() as folder:
        if cut.processes == 1:
            return follow(dtype, cut, ALONE, Path(folder), losses)

        def work(ranks: Ranks, place: Path) -> None:
            path = follow(dtype, cut, ranks, place / f"table-{ranks.rank}", losses)
            (place / f"{ranks.rank}.json").write_text(json.dumps(path))

        run_ranks(cut.processes, work, Path(folder))
        paths = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(cut.processes)]
        assert paths[0] == paths[1]  # to the last bit: every rank made the same updates
        return paths[0]


@cache
def plainest(dtype: str, losses: tuple[str, ...] = (), system: int = 0) -> list[list[float]]:
    return run_cut(dtype, Cut(system=system), losses)


FAST = [
    ("float64", Cut(budget=256, processes=2)),
    ("float32", Cut(budget=256, share=False)),
    ("float32", Cut(budget=1024, processes=2)),
]
EVERY = [
    (dtype, Cut(budget, share, processes))
    for dtype in TOLERANCE
    for budget in (256, 1024, 8192)
    for share in (True, False)
    for processes in (1, 2)
]
CASES = [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id=f"{case}") for case in EVERY]


@pytest.mark.parametrize(("dtype", "cut"), CASES)
def test_one_trajectory(dtype: str, cut: Cut) -> None:
    assert_same_course(dtype, plainest(dtype), run_cut(dtype, cut))


OF_STEP = ("centred", "lagging")
ALIKE = [
    pytest.param("float64", Cut(share=False, system=90), OF_STEP),
    pytest.param("float64", Cut(budget=512, processes=2, system=90), ()),
    pytest.param("float32", Cut(share=False, system=90), ()),
    pytest.param("float64", Cut(share=False, system=90), (), marks=pytest.mark.slow),
    pytest.param("float64", Cut(budget=512, processes=2, system=90), OF_STEP, marks=pytest.mark.slow),
    pytest.param("float32", Cut(share=False, system=90), OF_STEP, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("dtype", "cut", "losses"), ALIKE)
def test_one_trajectory_where_all_prompts_begin_alike(dtype: str, cut: Cut, losses: tuple[str, ...]) -> None:
    """A beginning of 90 tokens, computed once for several prompts, against every row alone and against two ranks."""
    assert_same_course(dtype, plainest(dtype, losses, cut.system), run_cut(dtype, cut, losses))


LOSSES_OF_STEPS = [("centred",), ("lagging",), ("centred", "lagging")]
FEW = [
    ("float64", Cut(budget=256)),
    ("float64", Cut(budget=256, processes=2)),
    ("float64", Cut(processes=2)),
    ("float32", Cut(budget=256, share=False, processes=2)),
]
TIMES = [
    pytest.param(losses, *case, marks=() if losses == ("centred", "lagging") else pytest.mark.slow)
    for losses in LOSSES_OF_STEPS
    for case in FEW
]


@pytest.mark.parametrize(("losses", "dtype", "cut"), TIMES)
def test_one_trajectory_of_a_loss_that_sees_its_step(losses: tuple[str, ...], dtype: str, cut: Cut) -> None:
    assert_same_course(dtype, plainest(dtype, losses), run_cut(dtype, cut, losses))


def assert_same_course(dtype: str, expected: list[list[float]], found: list[list[float]]) -> None:
    tolerance = TOLERANCE[dtype]
    for step, (ours, theirs) in enumerate(zip(found[:-1], expected[:-1], strict=True), start=1):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance), f"loss and figures of step {step}"
    assert found[-1] == pytest.approx(expected[-1], rel=tolerance, abs=tolerance)
    assert abs(expected[STEPS - 1][0] - expected[0][0]) > 0.01  # the run went somewhere
