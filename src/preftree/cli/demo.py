"""`preftree demo`: the embedded world, end to end, with its true reward before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs, results.json and report.html.")] = Path("demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A smaller world, in seconds.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Four betas, three seeds, longer runs: half an hour.")] = False,
) -> None:
    """Fine-tune a small model, collect preferences, run DPO, and compare with the exact optimum."""
    import json
    import time

    from preftree.errors import ConfigError

    if fast and full:
        raise ConfigError("--fast and --full exclude each other; give one")
    from transformers.utils.logging import disable_progress_bar

    from preftree.cli.demo_plan import PLANS
    from preftree.cli.demo_stages import run_demo
    from preftree.evaluate.folder import read_run
    from preftree.report.world import demo_page
    from preftree.storage.atomic import write_atomic

    disable_progress_bar()  # a line for every model that is loaded, and many are
    began = time.perf_counter()

    def say(sentence: str) -> None:
        typer.echo(f"{time.perf_counter() - began:5.0f} s  {sentence}")

    plan = PLANS["fast" if fast else "full" if full else "demo"]
    results = run_demo(out, plan, say)
    results["seconds"]["total"] = round(time.perf_counter() - began, 1)
    write_atomic(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_atomic(out / "report.html", demo_page(results, [read_run(out / run.name) for run in plan.runs]))
    say(f"see {out / 'report.html'} and {out / 'results.json'}")
