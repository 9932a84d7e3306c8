"""The page of win rates over sampling temperatures."""

from __future__ import annotations

from dataclasses import replace

from preftree.evaluate.temperature import Curves, Robustness
from preftree.report.charts import Level, draw
from preftree.report.frontier import temperature_chart
from preftree.report.page import Page, render
from preftree.report.scale import percent, write
from preftree.report.words import Outcome
from preftree.stats import Estimate


def temperature_page(curves: Curves) -> str:
    """The page as HTML: the curves, and a table of rates, areas and drops."""
    chart = temperature_chart(curves.points, "win rate")
    chart = replace(
        chart,
        title=f"Win rate against {curves.baseline}",
        caption="Ties count half. " + ("Exact." if curves.pairs is None else chart.caption),
        levels=[Level(0.5, "even")],
        include_y=[0.5],
    )
    return render(
        Page(
            title="Win rate by temperature",
            kind="Evaluation",
            lede=_describe(curves),
            outcome=judge_curves(curves),
            temperature=draw(chart),
            extra=[("Figures", *figures_table(curves))],
        )
    )


def figures_table(curves: Curves) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the win rate of each policy at each temperature, its mean over them, and its drop."""
    temperatures = list(dict.fromkeys(point.temperature for point in curves.points))
    heads = ["policy", *(f"T {write(value)}" for value in temperatures), "area", "best at", "drop"]
    rows = []
    for one in curves.robustness:
        mine = [point for point in curves.points if point.name == one.name]
        rates = [with_ends(Estimate(p.value, _or(p.low, p.value), _or(p.high, p.value))) for p in mine]
        rows.append([one.name, *rates, with_ends(one.area), write(one.best_at), with_ends(one.drop)])
    return heads, rows


def judge_curves(curves: Curves) -> Outcome:
    """Which policy has the largest area, and whether that is beyond chance."""
    ranked = sorted(curves.robustness, key=lambda one: -one.area.value)
    best, others = ranked[0], ranked[1:]
    sentence = f"{best.name} wins {_share(best)} on average over the temperatures"
    lost = f"and loses {percent(best.drop.value)} from its best, at T {write(best.best_at)}, to the last."
    if not others:
        answer = "yes" if best.area.low > 0.5 else "no" if best.area.high < 0.5 else "unclear"
        word = {"yes": "Yes", "no": "No", "unclear": "Too close to call"}[answer]
        return Outcome(answer, word, f"{sentence}, {lost}", "", f"Does it beat {curves.baseline}?")
    question = "Which does best over temperatures?"
    close = [one.name for one in others if one.area.high >= best.area.low]
    told = f"{sentence}; next is {others[0].name} with {_share(others[0])}. It {lost.removeprefix('and ')}"
    if close:
        return Outcome("unclear", "Too close to call", told, "Their intervals overlap.", question)
    return Outcome("yes", best.name, told, "", question)


def with_ends(estimate: Estimate) -> str:
    """A figure with the ends of its interval, where it has a width."""
    ends = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.low < estimate.high else ""
    return f"{estimate.value:.3f}{ends}"


def _describe(curves: Curves) -> str:
    names = ", ".join(one.name for one in curves.robustness)
    how = "exact figures" if curves.pairs is None else f"{curves.pairs:,} pairs at each temperature"
    return f"{names} against {curves.baseline}, judged by {curves.judge}: {curves.prompts:,} prompts, {how}."


def _share(one: Robustness) -> str:
    ends = f" ({percent(one.area.low)} to {percent(one.area.high)})" if one.area.low < one.area.high else ""
    return f"{percent(one.area.value)}{ends}"


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
