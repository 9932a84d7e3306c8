"""The page of win rates over sampling temperatures."""

from __future__ import annotations

from dataclasses import replace

from preftree.evaluate.temperature import Curves, Robustness, lead
from preftree.report.charts import Level, draw_chart
from preftree.report.first_screen import Conclusion, in_words
from preftree.report.frontier import temperature_chart
from preftree.report.numbers import percent, show
from preftree.report.page import Page, render_page


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
    return render_page(
        Page(
            title="Win rate by temperature",
            kind="Evaluation",
            lede=_describe(curves),
            outcome=conclude_curves(curves),
            temperature=draw_chart(chart),
            extra=[("Figures", *figures_table(curves))],
        )
    )


def figures_table(curves: Curves) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, a column a policy: the win rate at each temperature, the mean over them, and the drop."""
    temperatures = list(dict.fromkeys(point.temperature for point in curves.points))
    rows = []
    for temperature in temperatures:
        at_value = [point for point in curves.points if point.temperature == temperature]
        rows.append([f"T {show(temperature)}", *(with_ends(point.value, point.low, point.high) for point in at_value)])
    rows.append(["area", *(with_ends(*curve.area) for curve in curves.robustness)])
    rows.append(["best at", *(f"T {show(curve.best_at)}" for curve in curves.robustness)])
    rows.append(["drop", *(with_ends(*curve.drop) for curve in curves.robustness)])
    return ["", *(curve.name for curve in curves.robustness)], rows


def conclude_curves(curves: Curves) -> Conclusion:
    """Which policy has the largest area, and whether that is beyond chance."""
    ranked = sorted(curves.robustness, key=lambda curve: -curve.area.value)
    best, others = ranked[0], ranked[1:]
    sentence = f"{best.name} wins {_share(best)} on average over the temperatures"
    last = curves.points[-1].temperature
    lost = f"Its win rate falls by {best.drop.value:.3f} from its best, at T {show(best.best_at)}, to T {show(last)}."
    if best.best_at == last:
        lost = f"Its win rate is at its best at the last, T {show(last)}."
    if not others:
        answer = "yes" if best.area.low > 0.5 else "no" if best.area.high < 0.5 else "unclear"
        word = {"yes": "Yes", "no": "No", "unclear": "Too close to call"}[answer]
        return Conclusion(answer, word, f"{sentence}. {lost}", "", f"Does it beat {curves.baseline}?")
    question = "Which does best over temperatures?"
    leads = {curve.name: lead(best, curve) for curve in others}
    close = [name for name, gap in leads.items() if gap.low <= 0]
    compared = f"{sentence}; next is {others[0].name} with {_share(others[0])}. {lost}"
    if close:
        caveat = f"Its lead over {in_words(close)} is within chance: {with_ends(*leads[close[0]])}, by prompt."
        return Conclusion("unclear", "Too close to call", compared, caveat, question)
    return Conclusion("yes", best.name, compared, "", question)


def with_ends(value: float, low: float | None, high: float | None) -> str:
    """A figure with the ends of its interval, where it has a width."""
    ends = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None and low < high else ""
    return f"{value:.3f}{ends}"


def _describe(curves: Curves) -> str:
    names = ", ".join(curve.name for curve in curves.robustness)
    how = "exact figures" if curves.pairs is None else f"{curves.pairs:,} pairs at each temperature"
    return f"{names} against {curves.baseline}, judged by {curves.judge}: {curves.prompts:,} prompts, {how}."


def _share(curve: Robustness) -> str:
    ends = f" ({percent(curve.area.low)} to {percent(curve.area.high)})" if curve.area.low < curve.area.high else ""
    return f"{percent(curve.area.value)}{ends}"
