"""What an option of a loss may be, written into the signature of the loss itself, with its default.

    def dpo(policy: PairLogps, ref: PairLogps, *, beta: Beta = 0.1) -> ...

`table.options_of` reads range and default off the signature, which so is the whole schema of a loss's options.
"""

from __future__ import annotations

import difflib
import math
import sys
from dataclasses import dataclass
from typing import Annotated, TypeAlias


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers between `low` and `high`; the ends themselves only where `closed` and `closed_high`."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    closed_high: bool = False

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any number"
        if math.isinf(self.high):
            return f"{'>=' if self.closed else '>'} {self.low:g}"
        return f"in {'[' if self.closed else '('}{self.low:g}, {self.high:g}{']' if self.closed_high else ')'}"

    def check(self, name: str, value: object) -> float:
        """The value as a float.

        Raises:
          ValueError: it is no number (True and False are none), not finite, or out of the range.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number {self}, got {value!r}")
        if not abs(value) <= sys.float_info.max:  # written so that nan fails too
            raise ValueError(f"{name} must be a finite number {self}, got {value!r}")
        above = value > self.low or (value == self.low and self.closed)
        below = value < self.high or (value == self.high and self.closed_high)
        if not (above and below):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return float(value)


class Choice:
    """One of a few names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)

    def check(self, name: str, value: object) -> str:
        """The value itself.

        Raises:
          ValueError: it is none of the names; the message says which is near.
        """
        if not isinstance(value, str) or value not in self.names:
            close = difflib.get_close_matches(value, self.names, 1) if isinstance(value, str) else []
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name} must be {self}, got {value!r}{hint}")
        return value


@dataclass(frozen=True, slots=True)
class OnlyWith:
    """An option that counts only where another one has this value; elsewhere it may not be set."""

    option: str
    value: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option as a signature has it: what it may be, what it is where nobody says, and when it counts."""

    allowed: Range | Choice
    default: float | str
    only_with: OnlyWith | None = None

    def __str__(self) -> str:
        default = f"{self.default:g}" if isinstance(self.default, float) else self.default
        when = f", with {self.only_with.option} {self.only_with.value}" if self.only_with else ""
        return f"{default} ({self.allowed}{when})"


POSITIVE = Range(0.0)
NOT_NEGATIVE = Range(0.0, closed=True)
BELOW_HALF = Range(0.0, 0.5, closed=True)
SHARE = Range(0.0, 1.0, closed=True, closed_high=True)
NUMBER = Range()

Beta: TypeAlias = Annotated[float, POSITIVE]
Positive: TypeAlias = Annotated[float, POSITIVE]
NotNegative: TypeAlias = Annotated[float, NOT_NEGATIVE]
Share: TypeAlias = Annotated[float, SHARE]
Number: TypeAlias = Annotated[float, NUMBER]
LabelSmoothing: TypeAlias = Annotated[float, BELOW_HALF]
