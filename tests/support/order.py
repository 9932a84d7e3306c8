"""The examples of one step, by sorting its whole epoch: the slow form of `iterate_steps`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from preftree.data.order import epoch_order, steps_per_epoch


def step_indices(
    step: int, *, num_examples: int, batch_size: int, seed: int, groups: Int[np.ndarray, " N"] | None = None
) -> Int[np.ndarray, " B"]:
    epoch, within = divmod(step, steps_per_epoch(num_examples, batch_size))
    order = epoch_order(num_examples, seed=seed, epoch=epoch, groups=groups)
    return order[within * batch_size : (within + 1) * batch_size]
