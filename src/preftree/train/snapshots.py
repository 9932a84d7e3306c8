"""The weights of a policy after some steps, and after its best evaluation, for use and measurements after training.

RUN/snapshots/step-NNNNNN/ and RUN/checkpoints/best/step-NNNNNN/ are written like checkpoints, complete or absent, but
no run resumes from them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from preftree.config.base import HeldOutFigure
from preftree.errors import ConfigError
from preftree.models.adapters import trained_parameters
from preftree.storage.checkpoint import CheckpointState, save_checkpoint
from preftree.train.state import require_finite

log = logging.getLogger("preftree")

FOLDER = "snapshots"
BEST_FOLDER = "checkpoints/best"

DOUBLING = 2.0
MOST_BYTES = 2**30
"""Bytes that the snapshots of a run may take together where the options say nothing."""


def snapshot_factor(wanted: float | Literal["auto"] | None, model: nn.Module, num_steps: int) -> float | None:
    """Factor between the steps of snapshots; None where none are kept.

    `auto` is 2 where the trained weights of steps 1, 2, 4, 8, ... take at most MOST_BYTES together.
    """
    if wanted != "auto":
        return wanted
    each = sum(weight.numel() * weight.element_size() for weight in trained_parameters(model).values())
    together = each * num_steps.bit_length()
    if together <= MOST_BYTES:
        return DOUBLING
    log.info(
        "weights along training are not kept, since they would take %.1f GiB; snapshots=2 keeps them", together / 2**30
    )
    return None


def is_snapshot_step(step: int, factor: float) -> bool:
    """Whether `step` is a power of `factor`, rounded to a whole step; a pure function, so a resumed run agrees.

    Powers, since a policy moves fast at first: evenly spaced steps would miss its departure from the reference at a
    small beta.
    """
    if step < 1:
        return False
    power = round(math.log(step) / math.log(factor))
    return any(round(factor**near) == step for near in range(max(0, power - 1), power + 2))


def save_snapshot(folder: Path, model: nn.Module, step: int, trajectory: object, *, keep: int | None = None) -> None:
    """Write the weights after `step`, with the trajectory of their run as plain JSON.

    Args:
      folder: The folder of such steps.
      model: The policy.
      step: Its step.
      trajectory: Everything that determined its weights.
      keep: Number of steps that stay in the folder, this one included; None keeps all.
    Raises:
      TrainingError: a weight is not finite.
      CheckpointError: the files cannot be written.
    """
    require_finite(model, step)
    state = CheckpointState({"model": trained_parameters(model)}, {"trajectory": trajectory})
    save_checkpoint(folder, step, state, keep=keep)


@dataclass(slots=True)
class BestSoFar:
    """The best evaluation of a run, and the number of evaluations since; a function of the rows of metrics.jsonl.

    Attributes:
      wanted: The figure of `keep_best`; None takes the loss, or the reward where there is no loss.
      value: The best value.
      step: Its step; -1 before the first evaluation.
      without_gain: Evaluations since then.
      last: Step of the last evaluation; one that a resumed run repeats counts once.
    """

    wanted: HeldOutFigure | None
    value: float = math.inf
    step: int = -1
    without_gain: int = 0
    last: int = -1

    def add(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Add an evaluation; returns whether it is the best so far.

        Raises:
          ConfigError: it has no such figure.
        """
        figure = self.wanted or ("loss" if "loss" in figures else "reward")
        if figure not in figures:
            has = ", ".join(name for name in ("loss", "accuracy", "reward") if name in figures)
            raise ConfigError(f"keep_best={figure}: evaluations of this run have no {figure}; they have {has}")
        if step == self.last:
            return False
        self.last = step
        value = figures[figure] if figure == "loss" else -figures[figure]
        if value < self.value:
            self.value, self.step, self.without_gain = value, step, 0
            return True
        self.without_gain += 1
        return False
