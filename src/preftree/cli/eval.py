"""`preftree eval`: questions to a run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.frontier import frontier
from preftree.cli.rewards import rewards
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


@app.command("diagnose")
def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say what looks wrong with a run, by which figures, and what to try."""
    import json
    from dataclasses import asdict

    from preftree.evaluate.checks.diagnose import examine_run, found_in, title_of
    from preftree.run_folder.reader import read_run

    verdicts = examine_run(read_run(run))
    found = found_in(verdicts)
    if as_json:
        said = {
            "found": [asdict(diagnosis) for diagnosis in found],
            "clear": [verdict.check.name for verdict in verdicts if not verdict.diagnosis and not verdict.missing],
            "not_possible": {verdict.check.name: verdict.missing for verdict in verdicts if verdict.missing},
        }
        typer.echo(json.dumps(said))
        return
    for diagnosis in found:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in diagnosis.figures.items())
        typer.echo(f"{diagnosis.severity}: {title_of(diagnosis)}\n  {diagnosis.message}\n  Try: {diagnosis.advice}")
        typer.echo(f"  Rule: {diagnosis.threshold}; figures: {figures}\n")
    clear = [verdict.check.title.lower() for verdict in verdicts if not verdict.diagnosis and not verdict.missing]
    if clear:
        typer.echo(f"clear: {', '.join(clear)}")
    for verdict in verdicts:
        if verdict.missing:
            typer.echo(f"not possible: {verdict.check.title.lower()}, for want of {verdict.missing}")
