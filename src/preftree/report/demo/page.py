"""The page of a demo: each method's share of the reward that the world's known optimum allows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preftree.config.yaml import flatten
from preftree.report import numbers, tables
from preftree.report.curves import compared_curves, learning_curves, mean_stretch, tone_of
from preftree.report.demo.results import NAMES, ResponsesOf, TextAndReward, parse_results, shown_name
from preftree.report.first_screen import Answer, Conclusion, Figure, conclusion, in_words, plain
from preftree.report.frontier import exact_budgets, optimum_at, paths
from preftree.report.numbers import percent, show
from preftree.report.page import Page, drawn, examine_all, measured_parts, render_page
from preftree.run_folder.measured_file import Measured, Point
from preftree.run_folder.reader import Run

REACHED = 0.8
"""Share of the possible gain in reward, at the KL of the policy, that counts as success."""

OUTSIDE = 0.02
"""Share of responses outside the world above which a note says so."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """End of a training run: its last point, the best reward at that KL, and its share of the possible gain."""

    name: str
    point: Point
    limit: float
    share: float


def demo_page(results: Mapping[str, Any], runs: Sequence[Run] = ()) -> str:
    """The page of a world, as HTML.

    Args:
      results: Content of results.json (report/demo/results.py); its budgets take the place of the table made from the
        points.
      runs: Training runs behind it, whose curves and checks the page shows.
    Raises:
      DataError: a part of the results has another form.
    """
    parsed = parse_results(results)
    optimum, facts = parsed.optimum, parsed.facts
    start = facts.get("start_reward", min((point.reward for point in optimum), default=None))
    if start is not None and optimum:
        optimum = [Point(kl=0.0, reward=start, seed=optimum[0].seed), *optimum]  # the reference itself
    methods = {shown_name(name): _from_start(points, start) for name, points in parsed.methods.items()}
    of_runs = next((run.measured.token_rewards for run in runs if run.measured.token_rewards), ())
    measured = Measured(
        temperature=parsed.named_temperatures(),
        samples=parsed.samples,
        token_rewards=parsed.token_rewards or of_runs,
    )
    ends = run_ends(methods, optimum, start)
    extra: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    if parsed.bandit:
        betas = list(dict.fromkeys(beta for row in parsed.bandit.values() for beta in row))
        heads = ("total variation at", *(f"beta {beta}" for beta in betas))
        gaps = [
            (loss, *(show(float(f"{row[beta]:.0e}")) if beta in row else "" for beta in betas))
            for loss, row in parsed.bandit.items()
        ]
        extra.append(("A bandit against its closed form", heads, gaps))
    if parsed.seconds:
        timed = [(name, numbers.duration(value)) for name, value in parsed.seconds.items()]
        extra.append(("Time", ("part", "took"), timed))
    alike = [run for run in runs if run.recipe == runs[0].recipe]  # losses of another recipe have another unit
    parts = measured_parts(measured, methods, [point for point in optimum if point.seed in (None, optimum[0].seed)])
    if parsed.budgets:
        parts["budgets"] = exact_budgets(parsed.budgets, NAMES)
    return render_page(
        Page(
            title=f"The {plain(facts.get('name', 'unnamed'))} world",
            kind="Demo",
            lede=_describe(list(methods), len(ends), start),
            outcome=_with_choice(conclude_world(ends, start), parsed.recommended),
            figures=_figures(ends, start),
            runs=examine_all(runs),
            curves=drawn(
                compared_curves({run.name: [run] for run in alike})
                if len(alike) > 1
                else [chart for run in alike for chart in learning_curves(run)]
            ),
            legend=[(run.name, tone_of(index)) for index, run in enumerate(alike)],
            stretch=mean_stretch(runs),
            differing=tables.differing(runs) if len(runs) > 1 else (),
            texts=text_table(parsed.texts),
            extra=extra,
            notes=_notes(ends),
            facts=[(name, plain(value)) for name, value in flatten(facts).items()],
            world=True,
            **parts,
        )
    )


def budget_lines(results: Mapping[str, Any]) -> list[str]:
    """The best rewards within KL budgets as a Markdown table, regret in brackets; nothing where not measured."""
    rows = parse_results(results).budgets
    if not rows:
        return []
    heads, table = exact_budgets(rows, NAMES)
    lines = [f"| best true reward at | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, cells in table:
        shown = [value + (f" ({note.splitlines()[0]})" if note else "") for value, note in cells]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def run_ends(methods: Mapping[str, Sequence[Point]], optimum: Sequence[Point], start: float | None) -> list[RunEnd]:
    """The last point of every training run: of every path whose points have steps."""
    ends = []
    for name, points in methods.items():
        for path in paths([point for point in points if point.step is not None]):
            last = path[-1]
            limit = optimum_at(optimum, last.kl)
            if limit is None or start is None or limit <= start:
                continue
            labels = [last.setting] if last.setting else [f"beta {show(last.beta)}"] if last.beta is not None else []
            labels += [f"seed {last.seed}"] if last.seed else []
            share = (last.reward - start) / (limit - start)
            ends.append(RunEnd(", ".join([name, *labels]), last, limit, share))
    return ends


def conclude_world(ends: Sequence[RunEnd], start: float | None) -> Conclusion:
    """Whether the runs reached the reward that their KL allows: by the median run; the best one is shown."""
    if not ends or start is None:
        return conclusion("unclear", "No training run was measured against the optimum.", "")
    shares = [end.share for end in ends]
    middle = statistics.median(shares)
    verdict: Answer = "yes" if middle >= REACHED else "unclear" if middle >= REACHED / 2 else "no"
    best = max(ends, key=lambda end: end.point.reward)
    sentence = (
        f"{best.name} raises the expected reward from {start:.3f} to {best.point.reward:.3f} at KL "
        f"{best.point.kl:.2f}, where no policy can reach more than {best.limit:.3f}: {percent(best.share)} of the "
        "possible gain."
    )
    if len(ends) > 1:
        sentence += f" Over all {len(ends)} runs it is {percent(min(shares))} to {percent(max(shares))}."
    return conclusion(verdict, sentence, "Reward, KL and the optimum of this world are computed exactly.")


def _with_choice(outcome: Conclusion, recommended: Any) -> Conclusion:
    """The outcome, and which of the runs' settings to use where that was worked out."""
    if not isinstance(recommended, Mapping) or not recommended.get("setting"):
        return outcome
    return replace(outcome, caveat=f"{outcome.caveat} To use: {plain(recommended.get('reason', ''))}")


def _describe(names: Sequence[str], num_runs: int, start: float | None) -> str:
    began = f" Before, the expected reward is {start:.3f}." if start is not None else ""
    return (
        "A world so small that reward, KL and the best possible policy are known exactly. "
        f"{in_words(names) or 'No method'} set against that optimum, with {num_runs} training "
        f"run{'' if num_runs == 1 else 's'}.{began}"
    )


def _figures(ends: Sequence[RunEnd], start: float | None) -> list[Figure]:
    before = [Figure("Before", f"{start:.3f}", "expected reward")] if start is not None else []
    best = sorted(ends, key=lambda end: -end.point.reward)[:5]
    return before + [
        Figure(end.name, f"{end.point.reward:.3f}", f"at KL {end.point.kl:.2f}; {end.limit:.3f} possible")
        for end in best
    ]


def _notes(ends: Sequence[RunEnd]) -> list[str]:
    """Notes on figures that only the world itself gives."""
    shares = [(end.name, (end.point.model_extra or {}).get("outside")) for end in ends]
    return [
        f"{name}: {percent(outside)} of its responses are outside this world. No pair showed such a response, so "
        "nothing kept the policy from them."
        for name, outside in shares
        if isinstance(outside, float) and outside > OUTSIDE
    ]


def _from_start(points: Sequence[Point], start: float | None) -> list[Point]:
    """Points with the reference, where every training run begins, in front of each run."""
    if start is None:
        return list(points)
    first = [
        Point(kl=0.0, reward=start, step=0, beta=path[0].beta, setting=path[0].setting, seed=path[0].seed)
        for path in paths([point for point in points if point.step is not None])
        if path[0].step
    ]
    return [*first, *points]


def text_table(rows: Sequence[ResponsesOf]) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """A table of what each model writes: heads, and rows of (prompt, cells of a text and its reward)."""
    names = list(dict.fromkeys(name for row in rows for name in row.responses))
    none = TextAndReward(text="")
    return names, [(row.prompt, [_cell(row.responses.get(name, none)) for name in names]) for row in rows]


def _cell(response: TextAndReward) -> tuple[str, str]:
    return response.text, "" if response.reward is None else f"reward {response.reward:.2f}"
