"""`preftree demo`: the embedded world, end to end, with its true reward before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preftree.cli.shared import reserve

if TYPE_CHECKING:
    from preftree.demo.compare import Ended
    from preftree.demo.plan import DemoPlan
    from preftree.demo.stages import SeedStart
    from preftree.run_folder.reader import Run

FULL = "All methods, three seeds: DPO, PPO, RLOO, Unlikelihood, Preferred-FT, Best-of-N; about an hour on two cores."
MOST_AT_ONCE = 16


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, results.json and report.html.")] = Path("demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A smaller world, in seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help=FULL)] = False,
) -> None:
    """Fine-tune a small model, collect preferences, run DPO, and compare with the exact optimum.

    As many runs at a time as there are cores. After Ctrl-C, the same command continues where it stopped.
    """
    import json
    import os
    import time

    from preftree.errors import ConfigError

    if fast and full:
        raise ConfigError("--fast and --full exclude each other; give one")
    import torch

    from preftree.demo.plan import PLANS
    from preftree.demo.runs import DemoRun, run_demo
    from preftree.demo.stages import AGAIN, claim, prepare_seed, quiet
    from preftree.report.demo.comparison import comparison_page
    from preftree.report.demo.page import budget_lines, demo_page
    from preftree.report.page import write_page
    from preftree.runtime.logs import quiet_transformers
    from preftree.runtime.process_pool import run_in_pool
    from preftree.runtime.signals import Stopped
    from preftree.storage.atomic import write_result
    from preftree.worlds.bandit import check_bandit

    quiet_transformers()
    torch.set_num_threads(1)  # the model is so small that threads would only wait for one another
    began = time.perf_counter()

    def say(sentence: str) -> None:
        typer.echo(f"{time.perf_counter() - began:5.0f} s  {sentence}")

    plan = PLANS["fast" if fast else "full" if full else "demo"]
    reserve(out)
    claim(out, plan)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(cores, MOST_AT_ONCE)
    alone = len(plan.seeds) == 1
    tasks = [(plan, seed, out if alone else out / f"seed{seed}") for seed in plan.seeds]
    starts: list[SeedStart] = []
    ended: list[Any] = []
    try:
        for (_, seed, folder), start in run_in_pool(tasks, prepare_seed, at_once=at_once, begin=quiet):
            starts.append(start)
            where = "" if alone else f"seed {seed}: "
            say(f"{where}fine-tuned on {plan.texts} texts, mildly negative: true reward {start.reward:.3f} of 1")
            say(f"{where}{start.counts['pairs']} labelled pairs between its samples in {folder / 'pairs.jsonl'}")
        starts.sort(key=lambda start: start.seed)
        jobs = [
            DemoRun(plan, start, method, value)
            for start in starts
            for method in plan.methods
            for value in method.values or (None,)
        ]
        for job, measured in run_in_pool(jobs, run_demo, at_once=at_once, begin=quiet):
            ended.append((job, measured))
            end = measured.points[-1]
            say(
                f"{'' if alone else f'seed {job.start.seed}: '}{job.name}: true reward {job.start.reward:.3f} -> "
                f"{end.reward:.3f} at KL {end.kl:.2f}, where {(end.model_extra or {})['best']:.3f} is the best possible"
            )
    except Stopped as stopped:
        raise typer.Exit(128 + stopped.signum) from None
    order = {job: index for index, job in enumerate((job.start.seed, job.name) for job in jobs)}
    ended.sort(key=lambda pair: order[pair[0].start.seed, pair[0].name])
    results, shown = _together(plan, starts, ended)
    bandit = check_bandit()
    say(f"bandit: every loss within {max(gap for row in bandit.values() for gap in row.values()):.0e} of its optimum")
    results |= {"bandit": bandit, "seconds": _seconds(starts, ended)}
    results["seconds"]["all, as the clock went"] = round(time.perf_counter() - began, 1)
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_result(out / "results.json", text, advice=AGAIN)
    page = comparison_page(results) if plan.reward_steps else demo_page(results, shown)
    write_page(out / "report.html", page, advice=AGAIN)
    for line in budget_lines(results):
        typer.echo(line)
    say(f"see {out / 'report.html'} and {out / 'results.json'}")


def _together(plan: DemoPlan, starts: list[SeedStart], ended: Ended) -> tuple[dict[str, Any], list[Run]]:
    """One results.json of all seeds, and the runs of the first seed that the page shows."""
    from dataclasses import asdict

    from preftree.demo.compare import (
        best_of_n,
        budgets_of,
        chosen_runs,
        costs,
        optimal_points,
        rewards_in_and_out,
        texts_of,
        win_rates,
    )
    from preftree.demo.plan import LABELLER
    from preftree.run_folder.measured_file import Point
    from preftree.run_folder.reader import read_run
    from preftree.worlds.sentiment import WORLDS

    world, first = WORLDS[plan.world], starts[0]
    points: dict[str, list[Point]] = {}
    for job, measured in ended:
        points.setdefault(job.method.name, []).extend(measured.points)
    points["best_of_n"] = [point for start in starts for point in best_of_n(start, plan)]
    chosen = chosen_runs(ended)
    few = [job for job, _ in ended if job.start is first]
    if len(starts) > 1:  # all runs of all methods would be a wall
        few = [values[first.seed] for values in chosen.values()]
    shown = [job.folder for job in few]
    results = {
        "world": dict(first.counts)
        | {
            "start_reward": sum(start.reward for start in starts) / len(starts),
            "name": world.name,
            "prompts": list(world.prompts),
            "words_per_response": world.max_words,
            "outcomes_per_prompt": world.num_outcomes,
            "labels": LABELLER.kind,
            "label_scale": LABELLER.scale,
            "plan": asdict(plan),
        },
        "optimum": [point for start in starts for point in optimal_points(start, plan)],
        "methods": {name: [point.model_dump(exclude_none=True) for point in values] for name, values in points.items()},
        "budgets": [row for start in starts for row in budgets_of(start, plan, points)],
        **win_rates(plan, starts, chosen),
        "rewards": rewards_in_and_out(plan, starts, ended) if plan.reward_steps else [],
        "costs": costs(plan, starts, ended),
        "texts": texts_of(
            plan, first, {"reference": first.model} | {folder.name: folder / "model" for folder in shown}
        ),
        "recommended": _recommend(ended),
    }
    return results, [read_run(folder) for folder in shown]


def _seconds(starts: list[SeedStart], ended: Ended) -> dict[str, float]:
    """CPU seconds of the parts."""
    seconds = {"sft": sum(start.sft_seconds for start in starts)}
    if any(start.reward_seconds for start in starts):
        seconds["reward_model"] = sum(start.reward_seconds for start in starts)
    for job, measured in ended:
        seconds[job.method.name] = seconds.get(job.method.name, 0.0) + measured.seconds
    return {name: round(value, 1) for name, value in seconds.items()}


def _recommend(ended: Ended) -> dict[str, Any]:
    """The setting of DPO to use, by the exact rewards; Preferred-FT, which costs the same, is included."""
    from dataclasses import asdict, replace

    from preftree.evaluate.recommend import recommend, settings_of
    from preftree.run_folder.reader import read_run

    every = {}
    for job, _ in ended:
        if job.method.name.startswith(("dpo", "preferred")):
            values = {"method": job.method.name.replace("_", "-")}
            values |= {} if job.value is None else {job.option: f"{job.value:g}"}
            name = f"{job.name} seed {job.start.seed}"
            every[name] = values, replace(read_run(job.folder), name=name)
    return asdict(recommend(settings_of(every)))
