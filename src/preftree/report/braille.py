"""Curves in a terminal, in the dots of braille characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Bit of each dot of a braille character, row by row from above, left and right.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EMPTY = 0x2800


def draw_curve(values: Sequence[float], *, title: str, ends: tuple[float, float], height: int = 7) -> str:
    """One curve, two points a column, between its lowest and its highest value.

    Args:
      values: Finite values at equal distances, from left to right.
      title: Text above the curve.
      ends: Values at the left and the right edge, written below.
      height: Lines of the curve itself.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-300):
        low, high = low - 1, high + 1  # a flat line runs through the middle
    width, dots = math.ceil(len(values) / 2), 4 * height
    cells = [[_EMPTY] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(values):
        y = round((high - value) / (high - low) * (dots - 1))
        # A steep curve stays one line: fill up to where the last point was.
        for dot in range(min(y, before + 1), max(y, before - 1) + 1) if before is not None else (y,):
            cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
        before = y
    labels = [f"{high:.3g}", *[""] * (height - 2), f"{low:.3g}"]
    lines = [f"{label:>9} {''.join(map(chr, row))}" for label, row in zip(labels, cells, strict=True)]
    edge = f"{ends[0]:g}".ljust(width // 2) + "0" + f"{ends[1]:g}".rjust(width - width // 2 - 1)
    return "\n".join([" " * 10 + title, *lines, " " * 10 + edge])
