"""The page of all methods on one world: rewards beside the optimum, costs, and other sampling temperatures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preftree.config.yaml import flatten
from preftree.evaluate.reward_by_cost import best_so_far, reward_by
from preftree.report import numbers
from preftree.report.charts import Chart, Level, Line, draw_chart
from preftree.report.curves import tone_of
from preftree.report.demo.page import REACHED, text_table
from preftree.report.demo.results import NAMES, Cost, InAndOut, parse_results, shown_name
from preftree.report.first_screen import Conclusion, in_words, plain
from preftree.report.frontier import BudgetRow, exact_budgets, optimum_at, temperature_chart
from preftree.report.numbers import percent
from preftree.report.page import Page, Section, render_page
from preftree.run_folder.measured_file import Point

WITHIN = 2.0
"""Nats of KL at which methods are compared in one figure, and in the chart over compute."""

WIDEST = 5.0
"""Nats of KL up to which the chart of the best rewards goes."""


def comparison_page(results: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
      results: results.json of `preftree demo --full`.
    Raises:
      DataError: a part of the results has another form.
    """
    parsed = parse_results(results)
    facts, budgets = parsed.facts, parsed.budgets
    start = float(facts["start_reward"])
    temperature = temperature_chart(parsed.named_temperatures(), "win rate")
    temperature = replace(
        temperature,
        lines=[replace(line, tone="ink") if line.name == NAMES["fine_tuned"] else line for line in temperature.lines],
        title="Win rate against the fine-tuned model at temperature 1",
        caption="Exact, by the true reward, ties half: means over seeds of each seed's best setting that ends within 4 "
        "nats; bands span the seeds.",
        levels=[Level(0.5, "even")],
        include_y=[0.5],
    )
    seeds = sorted({row.seed for row in budgets})
    return render_page(
        Page(
            title=f"Every method on the {plain(facts['name'])} world",
            kind="Comparison",
            lede=f"A world so small that reward, KL and the best possible policy are known exactly. All methods start "
            f"from the same fine-tuned model, whose expected reward is {start:.3f}, and learn from the same pairs or "
            f"the same reward; {len(seeds)} seeds of everything.",
            outcome=summary(budgets),
            frontier=draw_chart(best_chart(parsed.methods, parsed.optimum, start)),
            budgets=exact_budgets(budgets, NAMES),
            sections=[
                Section(
                    "Where runs end",
                    "A budget leaves out a run that ends just above it. This is each run's own end against the best "
                    "reward at the very KL that it has: means over seeds.",
                    None,
                    *ends_table(parsed.methods),
                ),
                Section(
                    "What it costs",
                    "CPU seconds of one thread; those of a reward model count for the runs that need one. A method may "
                    f"take any of its settings to a share of the gain that {WITHIN:g} nats can buy; never: on some "
                    "seed it does not get there. How long the reward model is trained is a choice, and most of what "
                    "the run on it costs. State: weights, gradients and optimiser states of all models, bytes a "
                    f"parameter. What somebody has to choose: {knobs(parsed.costs)}.",
                    draw_chart(compute_chart(parsed.methods, parsed.costs, start)),
                    *cost_table(parsed.costs),
                ),
                Section(
                    "Rewards, in and out of distribution",
                    "How often a label is what a source of rewards says: DPO's implicit reward, the reward model, and "
                    "the true reward itself, which no source can beat by more than luck since labels are drawn. Means "
                    "over seeds, lowest to highest. DPO with AdamW at beta 1, and one setting of the reward model.",
                    None,
                    *rewards_table(parsed.rewards),
                ),
            ],
            temperature=draw_chart(temperature),
            extra=[("Over temperatures", *robustness_table(parsed.robustness))],
            texts=text_table(parsed.texts),
            facts=[(name, plain(value)) for name, value in flatten(facts).items()],
            world=True,
        )
    )


def summary(budgets: Sequence[BudgetRow]) -> Conclusion:
    """Each method's share of the gain in reward that WITHIN nats can buy, the best first."""
    shares: dict[str, float] = {}
    for name in dict.fromkeys(row.method for row in budgets):
        of_method = [row for row in budgets if row.method == name and row.kl == WITHIN]
        shares[name] = statistics.fmean((row.reward - row.start) / (row.optimum - row.start) for row in of_method)
    ranked = sorted(shares, key=lambda name: -shares[name])
    shares_text = ", ".join(f"{shown_name(name)} {percent(shares[name])}" for name in ranked)
    dpo = max((name for name in shares if name.startswith("dpo")), key=lambda name: shares[name])
    return Conclusion(
        "yes" if shares[dpo] >= REACHED else "unclear" if shares[dpo] >= REACHED / 2 else "no",
        f"{shown_name(dpo)}: {percent(shares[dpo])}",
        f"Of all methods: {shares_text}.",
        "Best-of-N and methods named after the true reward see the true reward of every response they draw; the "
        "others see labels alone.",
        f"Of the gain in reward that {WITHIN:g} nats can buy, how much did each get?",
    )


def best_chart(methods: Mapping[str, Sequence[Point]], optimum: Sequence[Point], start: float) -> Chart:
    """The best reward of every method within a KL, over the KL: mean over seeds of each seed's best policy."""
    kls = (np.linspace(0, np.sqrt(WIDEST), 57) ** 2).tolist()
    seeds = sorted({point.seed or 0 for point in optimum})
    edges = [[Point(kl=0, reward=start), *(point for point in optimum if point.seed == seed)] for seed in seeds]
    edge = [(kl, statistics.fmean(optimum_at(points, kl) or start for points in edges)) for kl in kls]
    lines = [Line("optimum", edge, "ink", "line")]
    for index, (name, points) in enumerate(methods.items()):
        by_seed = [[(point.kl, point.reward) for point in points if point.seed == seed] for seed in seeds]
        means = [
            (kl, statistics.fmean(max([start, *(reward for at, reward in path if at <= kl)]) for path in by_seed))
            for kl in kls
        ]
        lines.append(Line(shown_name(name), means, tone_of(index), "line"))
    return Chart(
        "Best true reward within a KL to the fine-tuned model",
        lines,
        "Of all measured policies of a method; means over seeds. The horizontal scale is a square root.",
        x_name="KL(policy || fine-tuned), nats",
        y_name="expected reward",
        x_kind="sqrt",
        large=True,
    )


def ends_table(methods: Mapping[str, Sequence[Point]]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row a setting of a method: KL and reward at the end, and what is missing to the best at that KL."""
    rows = []
    for name, points in methods.items():
        ends: dict[str, dict[int, Point]] = {}
        for point in points:
            if point.step is not None:
                by_seed = ends.setdefault(point.setting or "", {})
                last = by_seed.get(point.seed or 0)
                by_seed[point.seed or 0] = point if last is None or (last.step or 0) < point.step else last
        for setting, by_seed in ends.items():
            last = list(by_seed.values())
            missing = statistics.fmean(float((point.model_extra or {})["best"]) - point.reward for point in last)
            kl, reward = (statistics.fmean(getattr(point, what) for point in last) for what in ("kl", "reward"))
            rows.append([shown_name(name), setting, f"{kl:.2f}", f"{reward:.3f}", f"{missing:.3f}"])
    return ["method", "setting", "KL", "reward", "missing to the best"], rows


def compute_chart(methods: Mapping[str, Sequence[Point]], all_costs: Mapping[str, Cost], start: float) -> Chart:
    """The best reward within WITHIN nats that a method has by a moment, its settings run beside each other."""
    lines = []
    for index, name in enumerate(methods):
        if name not in all_costs:  # nothing was trained
            continue
        points = methods[name]
        steps = [
            best_so_far([point for point in points if point.seed == seed], kl=WITHIN)
            for seed in sorted({point.seed or 0 for point in points})
        ]
        last = max(float((point.model_extra or {})["seconds"]) for point in points)
        moments = [float(moment) for moment in np.geomspace(0.5, last, 60)]
        means = [(moment, statistics.fmean(reward_by(path, moment, start) for path in steps)) for moment in moments]
        lines.append(Line(shown_name(name), means, tone_of(index), "line"))
    return Chart(
        f"Best true reward within {WITHIN:g} nats by what it cost",
        lines,
        "Means over seeds.",
        x_name="CPU seconds of a run",
        y_name="expected reward",
        x_kind="log",
        large=True,
    )


def cost_table(all_costs: Mapping[str, Cost]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row a method."""
    goals = list(dict.fromkeys(share for cost in all_costs.values() for share in cost.seconds_to))
    heads = ["one run", "CPU time", *(f"to {percent(float(share))}" for share in goals), "responses drawn"]
    heads += ["tokens trained on", "models", "state", "settings tried", "to choose"]
    rows = []
    for name, cost in all_costs.items():
        reward_model = f" + {cost.reward_model_seconds:.0f} s" if cost.reward_model_seconds else ""
        reached = [cost.seconds_to.get(share) for share in goals]
        figures = [f"{cost.seconds:.0f} s{reward_model}", *("never" if s is None else f"{s:.1f} s" for s in reached)]
        figures += [f"{cost.samples:,.0f}", f"{cost.tokens:,.0f}", str(cost.models), str(cost.state)]
        figures += [str(cost.settings), str(len(cost.knobs))]
        rows.append([shown_name(name), *figures])
    return heads, rows


def knobs(all_costs: Mapping[str, Cost]) -> str:
    """The options that have to be chosen for each method; methods with the same options together."""
    alike: dict[str, list[str]] = {}
    for name, cost in all_costs.items():
        alike.setdefault(", ".join(cost.knobs), []).append(shown_name(name))
    return "; ".join(f"{in_words(names)}: {options}" for options, names in alike.items())


def rewards_table(ranked: Sequence[InAndOut]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row a kind of pairs."""
    rows = []
    for kind in dict.fromkeys(row.pairs for row in ranked):
        of_kind = [row for row in ranked if row.pairs == kind]
        dpo, model = [row.dpo[0] for row in of_kind], [row.reward_model[0] for row in of_kind]
        gaps = [accuracy - other for accuracy, other in zip(dpo, model, strict=True)]
        true = [row.true_reward for row in of_kind]
        rows.append([kind, _range(true), _range(model), _range(dpo), _range(gaps, sign=True)])
    return ["pairs", "true reward", "reward model", "DPO's implicit reward", "DPO less reward model"], rows


def robustness_table(figures: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row a policy: the mean win rate over temperatures, and what is lost at the last."""
    rows = [[shown_name(name), f"{row['area']:.3f}", f"{row['drop']:.3f}"] for name, row in figures.items()]
    return ["policy", "mean win rate", "highest less that at 1"], rows


def _range(values: Sequence[float], *, sign: bool = False) -> str:
    mean = numbers.fixed(statistics.fmean(values), 3, sign=sign)
    if len(values) == 1:
        return mean
    return f"{mean} ({numbers.fixed(min(values), 3, sign=sign)} to {numbers.fixed(max(values), 3, sign=sign)})"
