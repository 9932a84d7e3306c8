"""Lines and points as drawings: numbers in, paths, ticks and labels out, all in shares of the plot's box.

A drawing is stretched to its box by the browser while its texts are HTML laid over it, so the same one is sharp and
legible at any width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from preftree.report.numbers import Axis, Kind, Tick, fit_axis, show

MAX_POINTS = 60
"""Number of points above which means over equal stretches are drawn; the band keeps the extremes."""

_BOX = 1000
"""Units of a drawing's side."""

Form: TypeAlias = Literal["line", "dots", "both"]
"""`line`, `dots` (points without a line) or `both`."""

Points: TypeAlias = list[tuple[float, float]]
"""(x, y) of each point, or (low, high)."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve or cloud of points.

    Attributes:
      name: Name in the legend.
      points: (x, y) in the order they are joined.
      tone: The colour's name in the style sheet.
      form: Whether a line, points or both are drawn.
      band: (low, high) of each point, or empty.
      about: Text for hovering over each point; empty for its name and values.
      listed: Whether the legend names it.
      bars: (lowest x, highest x, lowest y, highest y) of each point: its intervals; or empty.
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: str
    form: Form = "line"
    band: Sequence[tuple[float, float]] = ()
    about: Sequence[str] = ()
    listed: bool = True
    bars: Sequence[tuple[float, float, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line with its label."""

    value: float
    name: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart to draw.

    Attributes:
      title, caption: Above the drawing.
      lines: Drawn in this order.
      x_name, y_name: Names of the axes.
      x_kind, y_kind: Scales of the axes.
      levels: Horizontal lines; they are drawn where they fit without squeezing the lines.
      hover: `x` shows all lines at one x, `point` the nearest point.
      large: Whether it takes the full width.
      include_x, include_y: Values that the axes must show.
      legend: Whether it has its own legend.
    """

    title: str
    lines: Sequence[Line]
    caption: str = ""
    x_name: str = "step"
    y_name: str = ""
    x_kind: Kind = "linear"
    y_kind: Kind = "linear"
    levels: Sequence[Level] = ()
    hover: Literal["x", "point"] = "x"
    large: bool = False
    include_x: Sequence[float] = ()
    include_y: Sequence[float] = ()
    legend: bool = True


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line as SVG paths: `dots` of points without length, which round caps make visible, `bars` of crosses."""

    name: str
    tone: str
    form: Form
    path: str
    dots: str
    band: str
    bars: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart laid out; heights count from the top, as a browser does.

    Attributes:
      chart: The chart.
      strokes: Lines of the chart.
      x_ticks, y_ticks: Ticks; `at` in shares of the box.
      levels: Horizontal lines inside the box.
      legend: (name, tone, form) of each line, once.
      data: Data for hovering, plain JSON.
    """

    chart: Chart
    strokes: Sequence[Stroke]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    levels: Sequence[Tick]
    legend: Sequence[tuple[str, str, str]]
    data: Mapping[str, Any]


def draw_chart(chart: Chart) -> Drawing | None:
    """Lay a chart out; None where it has no point that can be shown."""
    shown = [(line, _visible(line, chart)) for line in chart.lines]
    shown = [(line, keep) for line, keep in shown if keep]
    if not shown:
        return None
    xs = [*chart.include_x, *(line.points[index][0] for line, keep in shown for index in keep)]
    ys = [line.points[index][1] for line, keep in shown for index in keep]
    ys += [edge for line, keep in shown if line.band for index in keep for edge in line.band[index]]
    xs += [edge for line, keep in shown if line.bars for index in keep for edge in line.bars[index][:2]]
    ys += [edge for line, keep in shown if line.bars for index in keep for edge in line.bars[index][2:]]
    x = fit_axis(xs, chart.x_kind)
    if chart.x_kind == "linear" and min(xs) < max(xs):
        x = type(x)(min(xs), max(xs))
    y = fit_axis(ys, chart.y_kind, include=[*chart.include_y, *_near(chart.levels, ys)])

    strokes, series = [], []
    for line, keep in shown:
        across = [x.place(line.points[index][0]) for index in keep]
        places = [(a, 1 - y.place(line.points[index][1])) for a, index in zip(across, keep, strict=True)]
        band = ""
        if line.band and chart.y_kind == "linear":
            lower, upper = (
                [(a, 1 - y.place(line.band[index][end])) for a, index in zip(across, keep, strict=True)]
                for end in (0, 1)
            )
            band = f"{_path([*upper, *reversed(lower)])}Z"
        path = _path(places) if line.form != "dots" else ""
        dots = "".join(f"M{_units(a)} {_units(b)}h0" for a, b in places) if line.form != "line" else ""
        bars = "".join(_cross(line.points[index], line.bars[index], x, y) for index in keep) if line.bars else ""
        strokes.append(Stroke(line.name, line.tone, line.form, path, dots, band, bars))
        series.append(_hover_data(line, keep, places))
    legend = list(dict.fromkeys((line.name, line.tone, line.form) for line, _ in shown if line.listed))
    inside = [level for level in chart.levels if y.low <= level.value <= y.high]
    return Drawing(
        chart,
        strokes,
        x.ticks(8 if chart.large else 5),
        [Tick(1 - tick.at, tick.text) for tick in y.ticks(6 if chart.large else 5)],
        [Tick(1 - y.place(level.value), level.name) for level in inside],
        legend,
        {"hover": chart.hover, "x": chart.x_name, "series": series},
    )


def thin(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> tuple[Points, Points, int]:
    """Means over equal stretches of points, the smallest and the largest value of each, and the stretch's length.

    Values that are not finite are left out of the means; a stretch of nothing else has no point.
    """
    stretch = max(1, math.ceil(len(points) / most))
    means, bands = [], []
    for start in range(0, len(points), stretch):
        part = [point for point in points[start : start + stretch] if math.isfinite(point[1])]
        if part:
            values = [value for _, value in part]
            means.append((sum(x for x, _ in part) / len(part), sum(values) / len(values)))
            bands.append((min(values), max(values)))
    return means, bands, stretch


def _visible(line: Line, chart: Chart) -> list[int]:
    """Indices of the points that the scales can show."""

    def fits(value: float, kind: Kind) -> bool:
        return math.isfinite(value) and (kind != "log" or value > 0) and (kind != "sqrt" or value >= 0)

    return [index for index, (x, y) in enumerate(line.points) if fits(x, chart.x_kind) and fits(y, chart.y_kind)]


def _near(levels: Sequence[Level], ys: Sequence[float]) -> list[float]:
    """Levels that would not stretch the axis to more than twice the lines' own range."""
    low, high = min(ys), max(ys)
    return [level.value for level in levels if max(high, level.value) - min(low, level.value) <= 2 * (high - low)]


def _hover_data(line: Line, keep: Sequence[int], places: Sequence[tuple[float, float]]) -> dict[str, Any]:
    points = []
    for index, (a, b) in zip(keep, places, strict=True):
        x, y = line.points[index]
        text = line.about[index] if line.about else show(float(y))
        if line.band and not line.about and line.band[index][0] < line.band[index][1]:
            text += f"  ({show(float(line.band[index][0]))} to {show(float(line.band[index][1]))})"
        points.append([round(a, 4), round(b, 4), show(round(x, 2) if x != int(x) else int(x)), text])
    return {"name": line.name, "tone": line.tone, "points": points}


def _cross(point: tuple[float, float], ends: tuple[float, float, float, float], x: Axis, y: Axis) -> str:
    """Both intervals of a point, as lines through it."""
    across, up = _units(x.place(point[0])), _units(1 - y.place(point[1]))
    left, right = (_units(x.place(end)) for end in ends[:2])
    low, high = (_units(1 - y.place(end)) for end in ends[2:])
    return f"M{left} {up}H{right}M{across} {low}V{high}"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_units(a)} {_units(b)}" for a, b in places)


def _units(share: float) -> str:
    return f"{share * _BOX:.1f}".removesuffix(".0")
