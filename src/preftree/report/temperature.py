"""The page of win rates over sampling temperatures."""

from __future__ import annotations

from dataclasses import replace

from preftree.evaluate.temperature import Curves, Robustness, lead
from preftree.report.charts import Level, draw
from preftree.report.first_screen import Outcome, in_words
from preftree.report.frontier import temperature_chart
from preftree.report.numbers import percent, write
from preftree.report.page import Page, render
from preftree.stats.intervals import Estimate


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
    """Heads and rows, a column a policy: the win rate at each temperature, the mean over them, and the drop."""
    temperatures = list(dict.fromkeys(point.temperature for point in curves.points))
    rows = []
    for value in temperatures:
        mine = [point for point in curves.points if point.temperature == value]
        rates = [with_ends(Estimate(p.value, _or(p.low, p.value), _or(p.high, p.value))) for p in mine]
        rows.append([f"T {write(value)}", *rates])
    rows.append(["area", *(with_ends(one.area) for one in curves.robustness)])
    rows.append(["best at", *(f"T {write(one.best_at)}" for one in curves.robustness)])
    rows.append(["drop", *(with_ends(one.drop) for one in curves.robustness)])
    return ["", *(one.name for one in curves.robustness)], rows


def judge_curves(curves: Curves) -> Outcome:
    """Which policy has the largest area, and whether that is beyond chance."""
    ranked = sorted(curves.robustness, key=lambda one: -one.area.value)
    best, others = ranked[0], ranked[1:]
    sentence = f"{best.name} wins {_share(best)} on average over the temperatures"
    last = curves.points[-1].temperature
    lost = f"Its win rate falls by {best.drop.value:.3f} from its best, at T {write(best.best_at)}, to T {write(last)}."
    if best.best_at == last:
        lost = f"Its win rate is at its best at the last, T {write(last)}."
    if not others:
        answer = "yes" if best.area.low > 0.5 else "no" if best.area.high < 0.5 else "unclear"
        word = {"yes": "Yes", "no": "No", "unclear": "Too close to call"}[answer]
        return Outcome(answer, word, f"{sentence}. {lost}", "", f"Does it beat {curves.baseline}?")
    question = "Which does best over temperatures?"
    leads = {one.name: lead(best, one, seed=0) for one in others}
    close = [name for name, found in leads.items() if found.low <= 0]
    told = f"{sentence}; next is {others[0].name} with {_share(others[0])}. {lost}"
    if close:
        caveat = f"Its lead over {in_words(close)} is within chance: {with_ends(leads[close[0]])}, by prompt."
        return Outcome("unclear", "Too close to call", told, caveat, question)
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
