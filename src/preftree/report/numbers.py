"""Number formats of a page, and the ticks of its axes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "sqrt", "log"]

_BEND: Mapping[Kind, Callable[[float], float]] = {
    "linear": float,
    "sqrt": lambda value: math.sqrt(max(value, 0.0)),
    "log": math.log10,
}
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SQRT_TICKS = (0, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Tick:
    """A position on an axis, from 0 at its low end to 1 at its high end, and its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Map from values to positions: `low` is at 0 and `high` at 1."""

    low: float
    high: float
    kind: Kind = "linear"

    def place(self, value: float) -> float:
        """Position of a value; beyond [0, 1] outside the axis."""
        bend = _BEND[self.kind]
        start, stop = bend(self.low), bend(self.high)
        return (bend(value) - start) / (stop - start)

    def ticks(self, most: int = 5) -> list[Tick]:
        """Round values along the axis, evenly spread on it as far as may be."""
        values = {"linear": _linear_ticks, "sqrt": _sqrt_ticks, "log": _log_ticks}[self.kind](self.low, self.high, most)
        even = self.kind == "linear"  # elsewhere every tick has the digits it needs itself
        gap = min((b - a for a, b in itertools.pairwise(values)), default=0.0) if even else 0.0
        return [Tick(self.place(value), write_tick(value, gap)) for value in values]


def fit_axis(values: Sequence[float], kind: Kind = "linear", *, include: Sequence[float] = ()) -> Axis:
    """An axis that shows all values with a little air; logarithms need values > 0, roots values >= 0."""
    values = [*values, *include]
    if kind == "log":
        values = [value for value in values if value > 0]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if kind == "log":
        return Axis(low / 1.15, high * 1.15, kind) if high > low else Axis(low / 2, high * 2, kind)
    if kind == "sqrt":
        return Axis(0.0, high * 1.04 or 1.0, kind)
    if high == low:
        room = abs(high) * 0.1 or 1.0
        return Axis(low - room, high + room)
    air = 0.06 * (high - low)
    # Figures that cannot be negative keep their zero.
    return Axis(low if low >= 0 > low - air else low - air, high + air)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in _STEPS if size * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _sqrt_ticks(low: float, high: float, most: int) -> list[float]:
    inside = [float(value) for value in _SQRT_TICKS if low <= value <= high] or [low, high]
    kept = [inside[-1]]
    for value in reversed(inside[:-1]):
        if math.sqrt(kept[-1]) - math.sqrt(value) >= math.sqrt(high) / (most + 1):
            kept.append(value)
    return sorted({*kept, *(value for value in inside if value == 0)})


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 1:
        every = max(1, math.ceil((last - first + 1) / most))
        return [10.0**power for power in range(first, last + 1, every)]
    for sizes in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(1 + index / 10 for index in range(90))):
        base = math.floor(math.log10(low))
        values = [size * 10.0**power for power in (base, base + 1) for size in sizes]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 2:
            every = max(1, math.ceil(len(inside) / most))
            return inside[::every]
    return [low, high]


def write_tick(value: float, gap: float = 0.0) -> str:
    """A tick's number with as many digits as distinguish it from its neighbours."""
    size = abs(value)
    if size < 1e-12 or size < 1e-6 * gap:
        return "0"
    if size < 1e-3 or 0 < gap < 1e-3 or size >= 1e5:
        needed = math.ceil(math.log10(size / gap)) + 1 if gap else 2
        digits, _, power = f"{value:.{needed}e}".partition("e")
        return minus(f"{digits.rstrip('0').rstrip('.')}e{int(power)}")
    scale = gap or size
    places = max(0, min(4, -math.floor(math.log10(scale) + 1e-9)))
    while places < 4 and abs(round(scale, places) - scale) > 1e-6 * scale:
        places += 1
    return minus(f"{value + 0.0:,.{places}f}")


def show(value: object) -> str:
    """A figure for a table: whole numbers whole, others to four digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return minus(f"{value:,}")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else minus(f"{'-' if value < 0 else ''}infinite")
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return _power(f"{value:.3g}")
    if abs(value) >= 1000:
        return minus(f"{value:,.0f}")
    return minus(f"{value:.4g}")


def percent(share: float) -> str:
    """A share as a percentage; figure and sign stay on one line."""
    return f"{100 * share:.1f}\u00a0%" if math.isfinite(share) else show(share)


def signed(value: float) -> str:
    """A figure with its sign."""
    text = show(float(value))
    return text if text.startswith("\u2212") or not value else f"+{text}"


def fixed(value: float, places: int, *, sign: bool = True) -> str:
    """A figure with so many places, so that a column of them aligns; with its sign."""
    return minus(f"{value:{'+' if sign else ''},.{places}f}") if math.isfinite(value) else show(float(value))


def duration(seconds: float) -> str:
    """Time in the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(num_bytes: int) -> str:
    """Bytes in a unit that suits them."""
    amount, units = float(num_bytes), ["bytes", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def minus(text: str) -> str:
    """A minus as wide as a plus, so that columns align."""
    return text.replace("-", "\u2212")


def typeset(sentence: str) -> str:
    """A sentence with true minus signs before its numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\u2212", sentence)


def _power(text: str) -> str:
    """1e-06 as 1e−6."""
    digits, _, power = text.partition("e")
    return minus(f"{digits}e{int(power)}") if power else minus(digits)
