"""`preftree report RUN [RUN ...] -o FILE.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs, or one that holds runs.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page to write.")],
) -> None:
    """Write one self-contained page: on a run, on several compared, or over all runs of a folder."""
    from preftree.errors import ConfigError
    from preftree.report.page import write_report
    from preftree.report.runs_page import write_runs_page
    from preftree.run_folder.steps import split_step
    from preftree.run_folder.summary_file import verify_model

    if named := [run for run in runs if split_step(str(run))[1] is not None]:
        raise ConfigError(f"{named[0]} names a step, and a report is on a whole run; leave the @ and the step out")
    if len(runs) == 1 and not (runs[0] / "metrics.jsonl").is_file():
        number = write_runs_page(runs[0], out)
        typer.echo(f"{out}: {number} run{'' if number == 1 else 's'} of {runs[0]}", err=True)
        return
    for run in runs:
        verify_model(run / "model", card=True)
    write_report(runs, out)
    typer.echo(f"{out}: {len(runs)} run{'' if len(runs) == 1 else 's'}, {out.stat().st_size / 1024:.0f} KiB", err=True)
