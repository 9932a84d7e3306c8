"""Exponentials and logarithms with finite values and nonzero gradients for all log-probs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

KNEE = 40.0
"""Point from which `tangent_exp` is linear: e^40 = 2.4e17."""


def tangent_exp(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """e^x up to x = KNEE, and its tangent at KNEE beyond.

    fp32 overflows at e^89, and a clamp would stop the gradient of exactly the most extreme examples. The tangent keeps
    value and gradient finite, rising and continuous; a sound run never reaches KNEE.
    """
    return torch.where(x < KNEE, x.clamp(max=KNEE).exp(), math.exp(KNEE) * (1 + x - KNEE))


def log1mexp(x: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """log(1 - e^x) for x < 0, precise at both ends."""
    near, far = x.clamp(min=-math.log(2)), x.clamp(max=-math.log(2))
    return torch.where(x > -math.log(2), (-near.expm1()).log(), torch.log1p(-far.exp()))
