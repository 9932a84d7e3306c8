"""Exact figures of a DPO run, along its way and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.models.load import load_model
from preftree.records import Preference
from preftree.storage.checkpoint import load_checkpoint
from preftree.worlds.exact import Table, best_reward, measure
from preftree.worlds.grammar import World
from preftree.worlds.walk import outcome_logps

FIRST_STEP = 10


def trace_run(
    folder: Path,
    last: int,
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    ref_logps: Table,
    reward_table: Table,
    held_out: Sequence[Preference],
) -> list[dict[str, Any]]:
    """Exact figures along a run, at steps that double, and of the model folder that it ended with."""
    model = load_model(folder / "model")
    final = outcome_logps(model, tokenizer, world)
    points = []
    for step in _steps(last):
        if step == last:
            logps = final
        else:
            _put_weights(model, folder / "checkpoints", step)
            logps = outcome_logps(model, tokenizer, world)
        point = measure(logps, ref_logps, reward_table)
        points.append(
            {
                "step": step,
                **point._asdict(),
                "best": best_reward(ref_logps, reward_table, point.kl),
                "outside": float(np.exp(logps[:, -1]).mean()),
                **_on_pairs(logps - ref_logps, world, held_out),
            }
        )
    return points


def _steps(last: int) -> list[int]:
    steps = []
    step = FIRST_STEP
    while step < last:
        steps.append(step)
        step *= 2
    return [*steps, last]


def _put_weights(model: PreTrainedModel, checkpoints: Path, step: int) -> None:
    loaded = load_checkpoint(checkpoints, checkpoints / f"step-{step:06d}")
    assert loaded is not None  # a named checkpoint is there, or loading it raises
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(loaded.state.tensors["model"][name])


def _on_pairs(logratios: Table, world: World, pairs: Sequence[Preference]) -> dict[str, float]:
    """Weighted means over pairs: whether the chosen logratio is the higher one (a tie counts 1/2), and both of them."""
    sides: list[list[float]] = [[], []]
    for pair in pairs:
        row = logratios[world.prompts.index(str(pair.prompt))]
        sides[0].append(row[world.outcome(str(pair.chosen))])
        sides[1].append(row[world.outcome(str(pair.rejected))])
    chosen, rejected = np.array(sides)
    weights = np.array([pair.weight for pair in pairs])
    columns = {
        "accuracy": (1 + np.sign(chosen - rejected)) / 2,
        "chosen_logratio": chosen,
        "rejected_logratio": rejected,
    }
    return {name: float(np.average(values, weights=weights)) for name, values in columns.items()}
