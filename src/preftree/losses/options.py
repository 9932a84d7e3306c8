"""Types of loss options: the range of each, in the signature of a loss with its default.

    @checked
    def dpo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> ...

The signature is the whole schema of a loss's options: `options_in` reads it, `checked` enforces it in every call.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers between `low` and `high`; the ends are included where `closed` and `closed_high` are true."""

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

    def _wanted(self, kind: str) -> str:
        return kind if self == NUMBER else f"{kind} {self}"

    def check(self, name: str, value: object) -> float:
        """The value as a float.

        Raises:
          ValueError: it is not a number (True and False are not), not finite, or out of the range.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be {self._wanted('a number')}, got {value!r}")
        if not abs(value) <= sys.float_info.max:  # written so that nan fails too
            raise ValueError(f"{name} must be {self._wanted('a finite number')}, got {value!r}")
        above = value > self.low or (value == self.low and self.closed)
        below = value < self.high or (value == self.high and self.closed_high)
        if not (above and below):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of names."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)

    def check(self, name: str, value: object) -> str:
        """The value, unchanged.

        Raises:
          ValueError: it is none of the names; the message suggests the nearest.
        """
        if not isinstance(value, str) or value not in self.names:
            close = difflib.get_close_matches(value, self.names, 1) if isinstance(value, str) else []
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name} must be {self}, got {value!r}{hint}")
        return value


@dataclass(frozen=True, slots=True)
class OnlyWith:
    """Condition of an option that may be set only where another option has this value."""

    option: str
    value: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a signature: its range, its default, and its condition."""

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
NOISE = Range(0.0, 0.5)
SHARE = Range(0.0, 1.0, closed=True, closed_high=True)
PART = Range(0.0, 1.0, closed_high=True)
AT_LEAST_ONE = Range(1.0, closed=True)
NUMBER = Range()

Beta: TypeAlias = Annotated[float, POSITIVE]
Positive: TypeAlias = Annotated[float, POSITIVE]
NotNegative: TypeAlias = Annotated[float, NOT_NEGATIVE]
Share: TypeAlias = Annotated[float, SHARE]
Number: TypeAlias = Annotated[float, NUMBER]
Part: TypeAlias = Annotated[float, PART]
AtLeastOne: TypeAlias = Annotated[float, AT_LEAST_ONE]
Noise: TypeAlias = Annotated[float, NOISE]
LabelSmoothing: TypeAlias = Annotated[float, BELOW_HALF]


def options_in(function: Callable[..., Any]) -> dict[str, Option]:
    """The options a function takes: the parameters after the `*` of its signature."""
    hints = get_type_hints(function, include_extras=True)
    options = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            allowed, *rest = hints[parameter.name].__metadata__
            options[parameter.name] = Option(allowed, parameter.default, *rest)
    return options


def check_options(options: Mapping[str, Option], settings: Mapping[str, object]) -> dict[str, float | str]:
    """The values of all applicable options: those that are set, checked, and the defaults of the others.

    Args:
      options: All options, by name.
      settings: Values that are set; every name is in `options`.
    Raises:
      ValueError: a value is not allowed, or is set against its condition.
    """
    values: dict[str, float | str] = {}
    for name, option in options.items():
        rule = option.only_with
        if rule is not None and settings.get(rule.option, options[rule.option].default) != rule.value:
            if name in settings:
                raise ValueError(f"{name} counts only with {rule.option}={rule.value}, leave it out")
            continue
        values[name] = option.allowed.check(name, settings.get(name, option.default))
    return values


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function with checked options: it raises ValueError where its signature does not allow an option."""

    @functools.cache
    def schema() -> dict[str, Option]:
        return options_in(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_options(schema(), {name: value for name, value in kwargs.items() if name in schema()})
        return function(*args, **kwargs)

    return call
