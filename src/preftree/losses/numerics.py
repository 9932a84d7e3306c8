"""Exponentials and logarithms that stay finite, with gradients that stay alive, wherever log-probs may go."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

KNEE = 40.0
"""Where `tangent_exp` leaves the exponential: e^40 = 2.4e17."""


def tangent_exp(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """e^x up to x = KNEE, its tangent there from then on.

    fp32 overflows at e^89, and a clamp would stop the gradient of just those examples that are furthest off. The
    tangent keeps value and gradient finite, rising and continuous; no run that is worth going on with gets there.
    """
    return torch.where(x < KNEE, x.clamp(max=KNEE).exp(), math.exp(KNEE) * (1 + x - KNEE))


def log1mexp(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """log(1 - e^x) for x < 0, precise at both ends."""
    near, far = x.clamp(min=-math.log(2)), x.clamp(max=-math.log(2))
    return torch.where(x > -math.log(2), (-near.expm1()).log(), torch.log1p(-far.exp()))
