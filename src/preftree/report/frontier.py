"""Charts and tables of reward over KL: points of many runs against the best possible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel

from preftree.report.charts import Chart, Line
from preftree.report.curves import tone_of
from preftree.report.numbers import show
from preftree.run_folder.measured_file import Point, Temperature

BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Nats of KL at which methods are compared."""

Budgets: TypeAlias = tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]
"""Heads of the columns; for each row its name and, a column, the figure and a note."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best reward of one method within a KL budget: the mean over seeds, and the extremes."""

    mean: float
    low: float
    high: float
    num_seeds: int


def frontier_chart(methods: Mapping[str, Sequence[Point]], optimum: Sequence[Point] = ()) -> Chart:
    """Reward over KL: each run a path of points, the optimum a line above them."""
    lines: list[Line] = []
    farthest = max((point.kl for points in methods.values() for point in points), default=0.0)
    if optimum:
        kept = within(sorted(optimum, key=lambda point: point.kl), farthest)
        about = [_about("optimum", point) for point in kept]
        lines.append(Line("optimum", [(point.kl, point.reward) for point in kept], "ink", "line", about=about))
    for index, (name, points) in enumerate(methods.items()):
        for path in paths(points):
            about = [_about(name, point) for point in path]
            form = "both" if len(path) > 1 else "dots"
            ends = [_intervals(point) for point in path]
            bars = [end for end in ends if end is not None]
            places = [(point.kl, point.reward) for point in path]
            whole = bars if len(bars) == len(path) else ()
            lines.append(Line(name, places, tone_of(index), form, about=about, bars=whole))
    return Chart(
        "Reward against KL to the reference",
        lines,
        "Every point is a policy: higher is better, further left is closer to the reference. The horizontal scale is a "
        "square root." + (" Crosses are 95 % intervals." if any(line.bars for line in lines) else ""),
        x_name="KL(policy || reference), nats",
        y_name="expected reward",
        x_kind="sqrt",
        hover="point",
        large=True,
    )


def paths(points: Sequence[Point]) -> list[list[Point]]:
    """Points of one training run each, by step; points of a seed without a step are one path by KL."""
    groups: dict[tuple[float | None, str | None, int | None], list[Point]] = {}
    loose: dict[int | None, list[Point]] = {}
    for point in points:
        if point.step is None:
            loose.setdefault(point.seed, []).append(point)
        else:
            groups.setdefault((point.beta, point.setting, point.seed), []).append(point)
    ordered = [sorted(group, key=lambda point: point.step or 0) for group in groups.values()]
    return [*ordered, *(sorted(group, key=lambda point: point.kl) for group in loose.values())]


def within(optimum: Sequence[Point], farthest: float) -> list[Point]:
    """The optimum's points up to the farthest KL that was reached, and one beyond, so that the line spans the chart."""
    inside = [point for point in optimum if point.kl <= farthest]
    beyond = [point for point in optimum if point.kl > farthest]
    if not inside or not beyond:
        return list(inside or optimum)
    return [*inside, Point(kl=farthest, reward=optimum_at(optimum, farthest) or beyond[0].reward)]


def best_within(points: Sequence[Point], budget: float) -> Best | None:
    """The highest reward at KL <= budget, for every seed; None where no point is that close."""
    by_seed: dict[int | None, float] = {}
    for point in points:
        if point.kl <= budget:
            by_seed[point.seed] = max(point.reward, by_seed.get(point.seed, -math.inf))
    if not by_seed:
        return None
    values = list(by_seed.values())
    return Best(sum(values) / len(values), min(values), max(values), len(values))


def optimum_at(optimum: Sequence[Point], budget: float) -> float | None:
    """The optimum's reward within a KL, along straight lines between its points; None before the first of them."""
    ordered = sorted(optimum, key=lambda point: point.kl)
    if ordered and budget > ordered[-1].kl:
        return ordered[-1].reward
    for before, after in itertools.pairwise(ordered):
        if before.kl <= budget <= after.kl:
            share = (budget - before.kl) / (after.kl - before.kl) if after.kl > before.kl else 0.0
            return before.reward + share * (after.reward - before.reward)
    return None


def budget_table(methods: Mapping[str, Sequence[Point]], optimum: Sequence[Point]) -> Budgets:
    """The best reward of each method at each KL budget.

    Returns:
      Heads of the columns; for each row its name and, a column, the figure and a note: its distance to the optimum at
      the same KL, and the extremes over seeds.
    """
    limits = {budget: optimum_at(optimum, budget) for budget in BUDGETS}
    rows: list[tuple[str, list[tuple[str, str]]]] = []
    if any(limit is not None for limit in limits.values()):
        rows.append(("optimum", [("" if limit is None else f"{limit:.3f}", "") for limit in limits.values()]))
    for name, points in methods.items():
        rows.append((name, [_budget_cell(best_within(points, budget), limit) for budget, limit in limits.items()]))
    return [f"KL \u2264 {budget:g}" for budget in BUDGETS], rows


class BudgetRow(BaseModel):
    """The best reward that a method reached within a KL budget with one seed, beside that seed's start and optimum."""

    method: str
    seed: int
    kl: float
    start: float
    reward: float
    optimum: float


def exact_budgets(rows: Sequence[BudgetRow], names: Mapping[str, str]) -> Budgets:
    """As `budget_table`, from figures of each seed against its own optimum: the note is the mean regret.

    Args:
      rows: Every method at every budget and seed.
      names: Names to show, by the methods' names in the rows.
    """
    budgets = list(dict.fromkeys(row.kl for row in rows))
    optima = [[row.optimum for row in rows if row.kl == budget] for budget in budgets]
    table = [("optimum", [(f"{sum(values) / len(values):.3f}", "") for values in optima])]
    for method in dict.fromkeys(row.method for row in rows):
        cells = []
        for budget in budgets:
            of_method = [row for row in rows if row.method == method and row.kl == budget]
            rewards = [row.reward for row in of_method]
            regret = sum(row.optimum - row.reward for row in of_method) / len(of_method)
            spread = f"\n{min(rewards):.3f} to {max(rewards):.3f}" if len(of_method) > 1 else ""
            cells.append((f"{sum(rewards) / len(rewards):.3f}", f"regret {regret:.3f}{spread}"))
        table.append((names.get(method, method), cells))
    return [f"KL \u2264 {budget:g}" for budget in budgets], table


def _budget_cell(best: Best | None, limit: float | None) -> tuple[str, str]:
    if best is None:
        return "", ""
    notes = []
    if limit is not None:
        gap = limit - best.mean
        notes.append(f"{abs(gap):.3f} {'below' if gap > 0 else 'above'}" if abs(gap) >= 0.0005 else "the optimum")
    if best.num_seeds > 1:
        notes.append(f"{best.low:.3f} to {best.high:.3f}")
    return f"{best.mean:.3f}", "\n".join(notes)


def temperature_chart(points: Sequence[Temperature], figure: str) -> Chart:
    """A figure over sampling temperatures, a line a name."""
    lines = []
    for index, name in enumerate(dict.fromkeys(point.name for point in points)):
        of_name = sorted((point for point in points if point.name == name), key=lambda point: point.temperature)
        whole = all(point.low is not None and point.high is not None for point in of_name)
        band = [(point.low or 0.0, point.high or 0.0) for point in of_name] if whole else []
        lines.append(Line(name, [(p.temperature, p.value) for p in of_name], tone_of(index), "both", band))
    return Chart(
        f"{figure.capitalize()} over sampling temperature",
        lines,
        "Bands are confidence intervals." if any(line.band for line in lines) else "",
        x_name="sampling temperature",
        y_name=figure,
        large=True,
    )


def _intervals(point: Point) -> tuple[float, float, float, float] | None:
    """The ends of a point's intervals of KL and reward; None where it has none."""
    ends = [(point.model_extra or {}).get(name) for name in ("kl_low", "kl_high", "reward_low", "reward_high")]
    if not all(isinstance(end, float | int) for end in ends):
        return None
    low, high, least, most = (float(end) for end in ends if end is not None)
    return max(low, 0.0), high, least, most


def _about(name: str, point: Point) -> str:
    figures = [f"KL {show(point.kl)}", f"reward {show(point.reward)}"]
    if point.setting is not None:
        figures.append(point.setting)
    labels = ("seed", "step") if point.setting is not None else ("beta", "seed", "step")
    more = {label: getattr(point, label) for label in labels} | (point.model_extra or {})
    figures += [f"{label} {show(value)}" for label, value in more.items() if value is not None]
    return f"{name}: {', '.join(figures)}"
