"""Figures over all runs of a demo: optimum, budgets, win rates by temperature, rewards in and out, costs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preftree.demo.plan import BEST_OF, FARTHEST, LABELLER, TEMPERATURES, DemoPlan
from preftree.demo.runs import DemoRun, Result
from preftree.demo.stages import SeedStart, draw_of, draw_responses, write_rows
from preftree.evaluate.implicit_rewards import compare_rewards
from preftree.evaluate.reward_by_cost import seconds_to_reach
from preftree.evaluate.temperature import exact_curves, policy_table
from preftree.models.load import load_model, load_tokenizer
from preftree.report.demo.comparison import WITHIN
from preftree.report.demo.page import REACHED
from preftree.report.frontier import BUDGETS
from preftree.run_folder.measured_file import Point
from preftree.run_folder.reader import read_run
from preftree.worlds.exact import best_of, best_reward, optimal_frontier
from preftree.worlds.grammar import World, reward, reward_table
from preftree.worlds.out_of_distribution import shifted_pairs
from preftree.worlds.sentiment import WORLDS

TEXTS = 3
"""Samples of each prompt and policy that are shown."""

NUM_SHIFTED = 300
"""Prompts of each file of pairs out of distribution."""

SHIFTS = {
    "unseen prompts": {"prompts": True, "grammar": False},
    "shifted grammar": {"prompts": False, "grammar": True},
    "both": {"prompts": True, "grammar": True},
}

GOALS = (REACHED, 0.9)
"""Shares of a gain in reward, for the table of costs."""

REWARDS_BETA = 1.0
"""The beta of the DPO runs whose implicit rewards are set beside a reward model: fixed, as that is."""

Ended = Sequence[tuple[DemoRun, Result]]


def optimal_points(start: SeedStart, plan: DemoPlan) -> list[dict[str, float]]:
    """The best that any policy can have, for many strengths of the KL constraint."""
    table = reward_table(WORLDS[plan.world])
    betas = np.geomspace(0.001, 50, 81).tolist()
    edge = optimal_frontier(start.ref_logps, table, [LABELLER.scale / beta for beta in betas])
    return [{"beta": beta, "seed": start.seed, **point._asdict()} for beta, point in zip(betas, edge, strict=True)]


def best_of_n(start: SeedStart, plan: DemoPlan) -> list[Point]:
    """Best-of-N of the fine-tuned model by the true reward; exact."""
    table = reward_table(WORLDS[plan.world])
    points = [{"n": n, "seed": start.seed, **best_of(n, start.ref_logps, table)._asdict()} for n in BEST_OF]
    return [Point.model_validate(point) for point in points]


def budgets_of(start: SeedStart, plan: DemoPlan, points: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """The best reward of each method at KL <= budget, its own start among the candidates, and the optimum there."""
    table = reward_table(WORLDS[plan.world])
    return [
        {
            "method": name,
            "seed": start.seed,
            "kl": budget,
            "start": start.reward,
            "reward": max([start.reward, *(p.reward for p in of_method if p.seed == start.seed and p.kl <= budget)]),
            "optimum": best_reward(start.ref_logps, table, budget),
        }
        for name, of_method in points.items()
        for budget in BUDGETS
    ]


def chosen_runs(ended: Ended) -> dict[str, dict[int, DemoRun]]:
    """The run that represents a method, by seed: the best reward at its end among those that end within FARTHEST nats,
    or the nearest where none does."""
    chosen: dict[str, dict[int, DemoRun]] = {}
    for method in dict.fromkeys(job.method.name for job, _ in ended):
        for seed in dict.fromkeys(job.start.seed for job, _ in ended):
            ends = [(m.points[-1], job) for job, m in ended if (job.method.name, job.start.seed) == (method, seed)]
            near = [end for end in ends if end[0].kl <= FARTHEST]
            _, best = max(near, key=lambda end: end[0].reward) if near else min(ends, key=lambda end: end[0].kl)
            chosen.setdefault(method, {})[seed] = best
    return chosen


def win_rates(
    plan: DemoPlan, starts: Sequence[SeedStart], chosen: Mapping[str, Mapping[int, DemoRun]]
) -> dict[str, Any]:
    """Win rate of a sample at each temperature against one of the fine-tuned model at 1: exact for every seed, then the
    mean over seeds with their extremes, for `temperature` and `robustness` of results.json."""
    world = WORLDS[plan.world]
    rates: dict[str, list[list[float]]] = {}
    sums: dict[str, list[tuple[float, float]]] = {}
    for start in starts:
        tokenizer = load_tokenizer(start.model)
        models = {name: by_seed[start.seed].folder / "model" for name, by_seed in chosen.items()}
        models["fine_tuned"] = start.model
        tables = {
            name: [policy_table(load_model(folder), tokenizer, world, value) for value in TEMPERATURES]
            for name, folder in models.items()
        }
        baseline = ("the fine-tuned model", start.ref_logps)
        curves = exact_curves(world, world.prompts, TEMPERATURES, tables, baseline, judge="the world")
        for curve in curves.robustness:
            rates.setdefault(curve.name, []).append([p.value for p in curves.points if p.name == curve.name])
            sums.setdefault(curve.name, []).append((curve.area.value, curve.drop.value))
    many = len(starts) > 1
    points = [
        {"name": name, "temperature": temperature, "value": statistics.fmean(values)}
        | ({"low": min(values), "high": max(values)} if many else {})
        for name, rows in rates.items()
        for temperature, values in zip(TEMPERATURES, zip(*rows, strict=True), strict=True)
    ]
    robustness = {
        name: dict(zip(("area", "drop"), map(statistics.fmean, zip(*by_seed, strict=True)), strict=True))
        for name, by_seed in sums.items()
    }
    return {"temperature": points, "robustness": robustness}


def rewards_in_and_out(plan: DemoPlan, starts: Sequence[SeedStart], ended: Ended) -> list[dict[str, Any]]:
    """Accuracy of DPO's implicit reward, of the reward model and of the true reward on pairs."""
    world, rows = WORLDS[plan.world], []
    for start in starts:
        files = {"like the training pairs": start.folder / "held_out.jsonl"}
        for name, how in SHIFTS.items():
            files[name] = start.folder / f"{name.replace(' ', '-')}.jsonl"
            pairs = shifted_pairs(world, NUM_SHIFTED, LABELLER, start.seed, **how).preferences
            write_rows(files[name], pairs)
        dpo = (job for job, _ in ended if (job.method.name, job.value) == ("dpo_adamw", REWARDS_BETA))
        run = read_run(next(job for job in dpo if job.start.seed == start.seed).folder)
        compared = compare_rewards(run, [str(path) for path in files.values()], against=f"rm:{start.folder / 'rm'}")
        for (name, path), row in zip(files.items(), compared, strict=True):
            assert row.explicit is not None  # a reward model was named
            figures = {"count": row.num_pairs, "true_reward": _true_accuracy(world, path)}
            accuracies = {"dpo": list(row.implicit.accuracy), "reward_model": list(row.explicit.accuracy)}
            rows.append({"seed": start.seed, "pairs": name} | figures | accuracies)
    return rows


def costs(plan: DemoPlan, starts: Sequence[SeedStart], ended: Ended) -> dict[str, dict[str, Any]]:
    """Cost of a run of each method, means over its runs; and the time until its best setting reaches
    GOALS of the gain in reward that WITHIN nats can buy, on every seed."""
    table = reward_table(WORLDS[plan.world])
    gains = {start.seed: best_reward(start.ref_logps, table, WITHIN) - start.reward for start in starts}
    table_of_costs: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(job.method.name for job, _ in ended):
        results = [(job, measured) for job, measured in ended if job.method.name == name]
        method, runs = results[0][0].method, [measured for _, measured in results]
        goals: dict[str, float | None] = {}
        for share in GOALS:
            reached = [
                seconds_to_reach(
                    [point for job, measured in results if job.start.seed == start.seed for point in measured.points],
                    kl=WITHIN,
                    reward=start.reward + share * gains[start.seed],
                )
                for start in starts
            ]
            known = [seconds for seconds in reached if seconds is not None]
            goals[f"{share:g}"] = statistics.fmean(known) if len(known) == len(starts) else None
        reward_model = statistics.fmean(start.reward_seconds for start in starts) if method.reward == "model" else 0.0
        table_of_costs[name] = {
            "settings": max(1, len(method.values)),
            "seconds": statistics.fmean(run.seconds for run in runs),
            "reward_model_seconds": reward_model,
            "seconds_to": goals,
            "samples": statistics.fmean(run.samples for run in runs),
            "tokens": statistics.fmean(run.tokens for run in runs),
            "models": max(run.models for run in runs),
            "state": max(run.state for run in runs),
            "knobs": list(method.knobs),
        }
    return table_of_costs


def texts_of(plan: DemoPlan, start: SeedStart, models: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Samples of each prompt and policy, drawn with the same random numbers."""
    world, tokenizer = WORLDS[plan.world], load_tokenizer(start.model)
    prompts = [prompt for prompt in world.prompts for _ in range(TEXTS)]
    rows: list[dict[str, Any]] = [{"prompt": prompt, "responses": {}} for prompt in prompts]
    for name, folder in models.items():
        drawn = draw_responses(world, load_model(folder), tokenizer, prompts, draw_of("texts", start.seed))
        for row, generation in zip(rows, drawn, strict=True):
            row["responses"][name] = {"text": generation.text, "reward": reward(world, row["prompt"], generation.text)}
    return rows


def _true_accuracy(world: World, path: Path) -> float:
    """Weighted share of labels that agree with the true reward; equal rewards count half."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    gaps = [reward(world, row["prompt"], row["chosen"]) - reward(world, row["prompt"], row["rejected"]) for row in rows]
    return float(np.average((1 + np.sign(gaps)) / 2, weights=[row.get("weight", 1.0) for row in rows]))
