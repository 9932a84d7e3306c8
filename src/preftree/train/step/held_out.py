"""Intervals of held-out means, by prompt: pairs of one prompt are no independent examples."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store.example import NO_PROMPT, Examples
from preftree.stats.intervals import Estimate, clustered_mean, clustered_share

SHARES = ("accuracy", "pair_accuracy")
"""Figures in [0, 1] that come with an interval."""

MEANS = ("loss", "chosen_logratio", "rejected_logratio")
"""Figures without such limits that come with one."""


def clusters_of(examples: Examples, rows: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Number of the prompt of each row, [N]; a row without a prompt stands alone."""
    prompts = examples.prompts[rows]
    _, numbers = np.unique(prompts, return_inverse=True)
    return np.where(prompts == NO_PROMPT, len(rows) + np.arange(len(rows)), numbers)


def interval_ends(
    columns: Mapping[str, Float[Tensor, " B"]],
    weights: Float[np.ndarray, " B"],
    clusters: Int[np.ndarray, " B"],
) -> dict[str, float]:
    """`NAME_low` and `NAME_high` of the 95 % intervals of those weighted means that have one.

    Args:
      columns: Name -> one value per example.
      weights: Weight of each in the mean.
      clusters: From `clusters_of`. One prompt alone gives a share the interval from 0 to 1, and other means none.
    """
    ends: dict[str, float] = {}
    for name, column in columns.items():
        values = column.double().numpy()
        if name in SHARES:
            interval = clustered_share(values, weights, clusters)
        elif name in MEANS and len(np.unique(clusters)) > 1:
            interval = clustered_mean(values, weights, clusters)
        else:
            continue
        ends |= _ends(name, interval)
    return ends


def _ends(name: str, interval: Estimate) -> dict[str, float]:
    if not math.isfinite(interval.high):
        return {}  # one prompt has nearly all of the weight
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}
