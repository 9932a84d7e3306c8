"""Losses that look at their whole step, made so that forgetting any part of it is seen."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses import BoundLoss, LossSpec, PairLogps
from preftree.losses.quantities import delta
from preftree.losses.rewards import plain_logratios
from preftree.train.objective import Objective, Part


def centred(policy: PairLogps, ref: PairLogps) -> Tensor:
    """Logistic loss of delta less half its mean over the step, which carries gradient, and of its soft maximum."""
    gap = delta(policy, ref)
    return -logsigmoid(0.5 * (gap - 0.5 * gap.mean())) + 0.1 * gap.logsumexp(0) - 0.1 * gap


def lagging(policy: PairLogps, ref: PairLogps, state: Mapping[str, float]) -> Tensor:
    """Logistic loss of delta less a moving average of earlier steps: a value of its own example, and of the past."""
    return -logsigmoid(0.5 * (delta(policy, ref) - state["mean"]))


def follow(policy: PairLogps, ref: PairLogps, state: Mapping[str, float]) -> dict[str, float]:
    """The moving average after a step."""
    gap = delta(policy, ref)
    return {"mean": 0.5 * state["mean"] + 0.5 * float(gap.mean()), "steps": state["steps"] + 1}


SPECS = {
    "centred": LossSpec(centred, "step", None, plain_logratios),
    "lagging": LossSpec(lagging, "example", None, plain_logratios, (), {"mean": 0.0, "steps": 0}, follow),
}


def objective(*names: str) -> Objective:
    """The sum of some of these."""
    return Objective(tuple(Part(BoundLoss(name, SPECS[name], {}), 1.0 + index) for index, name in enumerate(names)))
