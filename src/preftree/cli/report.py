"""`preftree report RUN [RUN ...] -o FILE.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page to write.")],
) -> None:
    """Write one self-contained page on a run, or on several compared."""
    from preftree.errors import ConfigError
    from preftree.report.page import write_report
    from preftree.run_folder.steps import split_step
    from preftree.run_folder.summary_file import verify_model

    for run in runs:
        if split_step(str(run))[1] is not None:
            raise ConfigError(f"{run} names a step, and a report is on a whole run; leave the @ and the step out")
        verify_model(run / "model", card=True)
    write_report(runs, out)
    typer.echo(f"{out}: {len(runs)} run{'' if len(runs) == 1 else 's'}, {out.stat().st_size / 1024:.0f} KiB", err=True)
