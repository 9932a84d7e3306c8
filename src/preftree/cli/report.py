"""`preftree report RUN [RUN ...] -o FILE.html`, and what a run says of itself when it ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

log = logging.getLogger("preftree")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="The page to write.")],
) -> None:
    """Write one self-contained page on a run, or on several compared."""
    from preftree.report.page import write_report

    write_report(runs, out)
    typer.echo(f"{out}: {len(runs)} run{'' if len(runs) == 1 else 's'}, {out.stat().st_size / 1024:.0f} KiB", err=True)


def conclude(run: Path) -> None:
    """Write RUN/report.html and say what looks wrong; a page that cannot be written is no reason for a run to fail."""
    from preftree.errors import UserError
    from preftree.evaluate.checks.diagnose import examine_run, found_in, title_of
    from preftree.report.page import write_report
    from preftree.run_folder.reader import read_run

    try:
        for diagnosis in found_in(examine_run(read_run(run))):
            log.warning("%s: %s %s", title_of(diagnosis).lower(), diagnosis.message, diagnosis.advice)
        write_report([run], run / "report.html")
    except UserError as error:
        log.warning("no report: %s", error)
    else:
        log.info("report in %s", run / "report.html")
