"""`preftree demo`: the embedded world, end to end, with its true reward before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from preftree.cli.demo_plan import Plan
    from preftree.evaluate.folder import Run


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, results.json and report.html.")] = Path("demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A smaller world, in seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Three seeds, more betas, longer runs: an hour.")] = False,
) -> None:
    """Fine-tune a small model, collect preferences, run DPO, and compare with the exact optimum."""
    import json
    import time

    from preftree.errors import ConfigError

    if fast and full:
        raise ConfigError("--fast and --full exclude each other; give one")
    import torch

    from preftree.cli.demo_plan import PLANS
    from preftree.cli.demo_stages import claim, run_world
    from preftree.cli.train import quiet_transformers
    from preftree.report.world import budget_lines, demo_page
    from preftree.storage.atomic import make_folder, write_atomic
    from preftree.train.sweep import Stopped
    from preftree.worlds.bandit import check_bandit

    quiet_transformers()
    torch.set_num_threads(1)  # the model is so small that threads would only wait for one another
    began = time.perf_counter()

    def say(sentence: str) -> None:
        typer.echo(f"{time.perf_counter() - began:5.0f} s  {sentence}")

    plan = PLANS["fast" if fast else "full" if full else "demo"]
    claim(out, plan)
    parts: list[dict[str, Any]] = []
    try:
        for seed in plan.seeds:
            folder = out if len(plan.seeds) == 1 else out / f"seed{seed}"
            make_folder(folder)
            parts.append(run_world(folder, plan, seed, say))
    except Stopped as stopped:
        raise typer.Exit(128 + stopped.signum) from None
    bandit = check_bandit()
    say(f"bandit: every loss within {max(gap for row in bandit.values() for gap in row.values()):.0e} of its optimum")
    runs = [part.pop("runs") for part in parts]
    recommended, shown = _recommend(plan, runs)
    results: dict[str, Any] = _together(plan, parts) | {"bandit": bandit, "recommended": recommended}
    results["seconds"]["total"] = round(time.perf_counter() - began, 1)
    write_atomic(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_atomic(out / "report.html", demo_page(results, shown))
    for line in budget_lines(results):
        typer.echo(line)
    say(f"see {out / 'report.html'} and {out / 'results.json'}")


def _together(plan: Plan, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One results.json out of those of the seeds."""
    from dataclasses import asdict

    from preftree.cli.demo_plan import LABELLER
    from preftree.worlds.sentiment import WORLDS

    world = WORLDS[plan.world]
    starts = [part["world"]["start_reward"] for part in parts]
    names = parts[0]["methods"]
    return {
        "world": parts[0]["world"]
        | {
            "name": world.name,
            "start_reward": sum(starts) / len(starts),
            "prompts": list(world.prompts),
            "words_per_response": world.max_words,
            "outcomes_per_prompt": world.num_outcomes,
            "labels": LABELLER.kind,
            "label_scale": LABELLER.scale,
            "plan": asdict(plan),
        },
        "optimum": [point for part in parts for point in part["optimum"]],
        "methods": {name: [point for part in parts for point in part["methods"][name]] for name in names},
        "budgets": [row for part in parts for row in part["budgets"]],
        "texts": parts[0]["texts"],
        "temperature": parts[0]["temperature"],
        "seconds": {
            name: round(sum(part["seconds"].get(name, 0.0) for part in parts), 1) for name in parts[0]["seconds"]
        },
    }


def _recommend(plan: Plan, runs: list[dict[str, tuple[dict[str, str], Run]]]) -> tuple[dict[str, Any], list[Run]]:
    """Which setting to use, by the exact rewards; and the runs of the first seed, which the page shows."""
    from dataclasses import replace

    from preftree.evaluate.recommend import recommend, settings_of

    every = {
        f"{name} seed {seed}": (values, replace(run, name=name))
        for seed, own in zip(plan.seeds, runs, strict=True)
        for name, (values, run) in own.items()
    }
    found = recommend(settings_of(every))
    told = {"setting": found.setting, "reason": found.reason, "sure": found.sure, "figures": dict(found.figures)}
    return told, [run for _, run in runs[0].values()]
