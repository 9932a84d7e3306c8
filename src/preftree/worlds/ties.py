"""Tie models: the probability that one of two responses wins where they may also be found equally good."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.special import expit

Ties: TypeAlias = Literal["none", "rao_kupper", "davidson"]


def win_chances(ties: Ties, strength: Float[np.ndarray, " P"], parameter: float) -> Float[np.ndarray, " P"]:
    """P(the first wins) of pairs of a strength x; that of the second is the same of -x, and the rest is ties.

    none         1 / (1 + exp(-x))
    rao_kupper   1 / (1 + t exp(-x)); t = 1 has no ties
    davidson     P(first) : P(second) : P(tie) = exp(x / 2) : exp(-x / 2) : t; t = 0 has none

    Args:
      ties: The model.
      strength: x, the difference of both rewards times the sharpness of the labels; infinite where it is certain.
      parameter: t.
    Source: Rao and Kupper 1967, JASA 62, p. 194; Davidson 1970, JASA 65, p. 317 (t is 2 of its nu).
    """
    if ties == "davidson":
        with np.errstate(over="ignore"):
            return 1 / (1 + parameter * np.exp(-strength / 2) + np.exp(-strength))
    return expit(strength - np.log(parameter if ties == "rao_kupper" else 1.0))
