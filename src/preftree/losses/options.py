"""What an option of a loss may be: a number in a range, written into the signature of the loss itself.

    def dpo(policy: PairLogps, ref: PairLogps, *, beta: Beta) -> ...

`table.options_of` reads the range off the annotation, so the signature is the whole schema of a loss's options.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, TypeAlias


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers from `low` up to, but not including, `high`; `low` itself only where `closed`."""

    low: float
    high: float = math.inf
    closed: bool = False

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'>=' if self.closed else '>'} {self.low:g}"
        return f"in {'[' if self.closed else '('}{self.low:g}, {self.high:g})"

    def check(self, name: str, value: object) -> float:
        """The value as a float.

        Raises:
          ValueError: it is no number (True and False are none), not finite, or out of the range.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number {self}, got {value!r}")
        if not abs(value) <= sys.float_info.max:  # written so that nan fails too
            raise ValueError(f"{name} must be a finite number {self}, got {value!r}")
        if not self.low <= value < self.high or (value == self.low and not self.closed):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return float(value)


POSITIVE = Range(0.0)
BELOW_HALF = Range(0.0, 0.5, closed=True)

Beta: TypeAlias = Annotated[float, POSITIVE]
LabelSmoothing: TypeAlias = Annotated[float, BELOW_HALF]
