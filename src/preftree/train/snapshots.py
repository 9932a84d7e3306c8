"""Snapshots: the weights of a policy after some steps, for measurements after training.

RUN/snapshots/step-NNNNNN/ is written like a checkpoint, complete or absent, but no run resumes from it.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from preftree.models.adapters import trained_parameters
from preftree.storage.checkpoint import CheckpointState, save_checkpoint
from preftree.train.state import require_finite

FOLDER = "snapshots"


def is_snapshot_step(step: int, factor: float) -> bool:
    """Whether `step` is a power of `factor`, rounded to a whole step; a pure function, so a resumed run agrees.

    Powers, since a policy moves fast at first: evenly spaced steps would miss its departure from the reference at a
    small beta.
    """
    if step < 1:
        return False
    power = round(math.log(step) / math.log(factor))
    return any(round(factor**near) == step for near in range(max(0, power - 1), power + 2))


def save_snapshot(out: Path, model: nn.Module, step: int, trajectory: object) -> None:
    """Write the weights after `step`, with the trajectory of their run as plain JSON.

    Raises:
      TrainingError: a weight is not finite.
      CheckpointError: the files cannot be written.
    """
    require_finite(model, step)
    state = CheckpointState({"model": trained_parameters(model)}, {"trajectory": trajectory})
    save_checkpoint(out / FOLDER, step, state, keep=None)
