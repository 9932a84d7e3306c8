"""What each loss is where policy and reference agree, from its options alone."""

from __future__ import annotations

import math


def ln_2(**_: object) -> float:
    """A logistic loss of a gap of 0."""
    return math.log(2)


def two_ln_2(**_: object) -> float:
    """Two logistic losses, or one and two halves."""
    return 2 * math.log(2)


def half(**_: object) -> float:
    """The sigmoid of 0."""
    return 0.5


def one(**_: object) -> float:
    """Two sigmoids of 0, or a hinge at its margin."""
    return 1.0


def ipo(*, beta: float) -> float:
    """The target, squared."""
    target = 1 / (2 * beta)
    return target * target


def sppo(*, beta: float) -> float:
    """Two targets, squared."""
    return 2 * ipo(beta=beta)


def cal_dpo(*, beta: float) -> float:
    """A logistic loss and two targets."""
    return math.log(2) + sppo(beta=beta)


def kto(*, desirable_weight: float, undesirable_weight: float, **_: float) -> float | None:
    """Half a weight, where both kinds of response have the same."""
    return desirable_weight / 2 if desirable_weight == undesirable_weight else None


def exo(*, label_smoothing: float, **_: float) -> float:
    """The divergence of an even pair from the smoothed label."""
    return -math.log(2) - math.log(label_smoothing * (1 - label_smoothing)) / 2


def gpo(*, f: str, **_: float) -> float:
    """f(0)."""
    return {"logistic": math.log(2), "savage": 0.25}.get(f, 1.0)


def discopop(**_: object) -> float:
    """Half a logistic and half an exponential loss of a gap of 0."""
    return (math.log(2) + 1) / 2
