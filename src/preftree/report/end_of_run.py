"""Conclusion of a run for people: its page, and its diagnoses in the log."""

from __future__ import annotations

import logging
from pathlib import Path

from preftree.errors import UserError
from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run, title_of
from preftree.report.page import write_report
from preftree.run_folder.reader import read_run

log = logging.getLogger("preftree")


def conclude(run: Path) -> None:
    """Write RUN/report.html and log what looks wrong; a page that cannot be written is no reason for a run to fail."""
    try:
        for diagnosis in diagnoses_in(examine_run(read_run(run))):
            log.warning("%s: %s %s", title_of(diagnosis).lower(), diagnosis.message, diagnosis.advice)
        write_report([run], run / "report.html")
    except UserError as error:
        log.warning("no report: %s", error)
    else:
        log.info("report in %s", run / "report.html")
