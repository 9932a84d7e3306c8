"""Traits of a run's loss that follow from its options: its value untrained, and whether it has a minimum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from preftree.losses.curve import loss_curve
from preftree.losses.registry import bind, find, options_of
from preftree.losses.spec import BoundLoss, unit_of

FAR = (10.0, 20.0, 30.0)
"""Margins beyond the minimum of every loss that has one."""


@dataclass(frozen=True, slots=True)
class Traits:
    """Traits of a loss, or of a weighted sum of losses.

    Attributes:
      untrained: Value where the policy is the reference, which is that of a coin; None where it is not fixed.
      endless: Whether labels that never contradict each other leave a loss of pairs without a minimum.
    """

    untrained: float | None = None
    endless: bool = False


def traits_of(config: Mapping[str, Any]) -> Traits:
    """The traits of the loss in a run's options; no traits where this version does not know the loss."""
    losses = _losses(config)
    values = [loss.value_at_reference for loss, _ in losses]
    known = [weight * value for (_, weight), value in zip(losses, values, strict=True) if value is not None]
    untrained = sum(known) if losses and len(known) == len(losses) else None
    pairs = [loss for loss, _ in losses if unit_of(loss.spec) == "pair"]
    return Traits(untrained, bool(pairs) and all(map(_is_endless, pairs)))


def _losses(config: Mapping[str, Any]) -> list[tuple[BoundLoss, float]]:
    named = config.get("loss")
    parts = named if isinstance(named, list) else [{"name": named} if isinstance(named, str) else named]
    losses = []
    for part in parts:
        options = dict(part or {})
        name, weight = str(options.pop("name", "")), options.pop("weight", 1.0)
        try:
            if config.get("beta") is not None and "beta" in options_of(find(name)):
                options.setdefault("beta", config["beta"])
            losses.append((bind(name, options), float(weight)))
        except ValueError:  # the folder may be older than the table
            return []
    return losses


def _is_endless(loss: BoundLoss) -> bool:
    beta = loss.options.get("beta", 1.0)
    assert isinstance(beta, float)
    values, _ = loss_curve(loss, torch.tensor(FAR, dtype=torch.float64) / beta)
    return bool((values.diff() <= 0).all()) and bool(values[0] > values[-1])  # the last ones may round to 0
