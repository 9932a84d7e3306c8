"""Conclusion of a run for people: its page, and its diagnoses in the log."""

from __future__ import annotations

import logging
from pathlib import Path

from preftree.errors import UserError
from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run, title_of
from preftree.report.page import write_report
from preftree.run_folder.reader import Run, read_run
from preftree.trackers.guarded import open_trackers
from preftree.trackers.protocol import TrackedEnd, TrackedRun

log = logging.getLogger("preftree")


def conclude(run: Path) -> None:
    """Write RUN/report.html and log what looks wrong; a page that cannot be written is no reason for a run to fail."""
    page = run / "report.html"
    try:
        for diagnosis in diagnoses_in(examine_run(read_run(run))):
            log.warning("%s: %s %s", title_of(diagnosis).lower(), diagnosis.message, diagnosis.advice)
        write_report([run], page)
    except UserError as error:
        log.warning("no report: %s", error)
        return
    log.info("report in %s", page)
    _tell_trackers(read_run(run), page)


def _tell_trackers(run: Run, page: Path) -> None:
    """Pass the page, the samples and the place of the model on to the run's trackers."""
    names = run.config.get("track") or []
    if not names:
        return
    samples = [
        {"prompt": answer.prompt, "start": answer.before, "policy": answer.after} for answer in run.measured.answers
    ]
    trackers = open_trackers(names, TrackedRun(run.path, run.config, run.steps))
    trackers.end(TrackedEnd(page, run.path / "model", samples))
    trackers.close()
