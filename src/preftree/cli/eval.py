"""`preftree eval`: measuring and checking finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.frontier import frontier
from preftree.cli.judges import judges
from preftree.cli.leaderboard import leaderboard
from preftree.cli.rewards import rewards
from preftree.cli.shared import AsJson
from preftree.cli.temperature import temperature
from preftree.cli.winrate import winrate

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Measure a run, and look for what is wrong with it."""


app.command("frontier")(frontier)
app.command("rewards")(rewards)
app.command("winrate")(winrate)
app.command("temperature")(temperature)
app.command("judges")(judges)
app.command("leaderboard")(leaderboard)


@app.command("diagnose")
def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: AsJson = False,
) -> None:
    """Say what looks wrong with a run, by which figures, and what to try."""
    import json
    from dataclasses import asdict

    from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run, title_of
    from preftree.run_folder.reader import read_run

    results = examine_run(read_run(run))
    diagnoses = diagnoses_in(results)
    if as_json:
        answer = {
            "found": [asdict(diagnosis) for diagnosis in diagnoses],
            "clear": [result.check.name for result in results if not result.diagnosis and not result.missing],
            "not_possible": {result.check.name: result.missing for result in results if result.missing},
        }
        typer.echo(json.dumps(answer))
        return
    for diagnosis in diagnoses:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in diagnosis.figures.items())
        typer.echo(f"{diagnosis.severity}: {title_of(diagnosis)}\n  {diagnosis.message}\n  Try: {diagnosis.advice}")
        typer.echo(f"  Rule: {diagnosis.threshold}; figures: {figures}\n")
    clear = [result.check.title.lower() for result in results if not result.diagnosis and not result.missing]
    if clear:
        typer.echo(f"clear: {', '.join(clear)}")
    for result in results:
        if result.missing:
            typer.echo(f"not possible: {result.check.title.lower()}: needs {result.missing}")
