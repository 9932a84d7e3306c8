"""Page over all runs of a folder: a row a run, with its figures, its state and its own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from preftree.errors import DataError, UserError
from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run, title_of
from preftree.evaluate.checks.evidence import is_number
from preftree.report.first_screen import beta_of, broken, percent
from preftree.report.numbers import duration, fixed, show
from preftree.report.page import environment, write_page
from preftree.run_folder.reader import Run, last_rows, read_run

HEADS = ("loss", "steps", "accuracy", "margin", "reward", "KL", "training", "state", "problems")


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in the table.

    Attributes:
      name: Its folder, from the folder of all.
      href: Its own page, from the page; empty where there is none.
      recipe: Its recipe; empty where it cannot be read.
      cells: A text for each of `HEADS`.
      fault: Why it cannot be read, or an empty string.
      changed: When its metrics were last written, seconds since 1970.
    """

    name: str
    href: str
    recipe: str
    cells: Sequence[str]
    fault: str
    changed: float


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs below a folder, at any depth; nothing inside a run is looked at.

    Raises:
      DataError: it is no folder, or there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; give the folder of a run (its out=), or one that holds runs")
    runs = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        if "metrics.jsonl" in files:
            runs.append(Path(place))
            folders.clear()
    if not runs:
        raise DataError(
            f"{folder} holds no metrics.jsonl, and no folder in it does; give the folder of a run (its out=)"
        )
    return runs


def write_runs_page(folder: Path, out: Path) -> int:
    """Write the page over all runs of a folder, and return their number; a run that cannot be read is listed so.

    Raises:
      DataError: there is none, or the page cannot be written.
    """
    listed = [_list_run(path, folder, out.resolve().parent) for path in find_runs(folder)]
    by_recipe: dict[str, list[Listed]] = {}
    for run in sorted(listed, key=lambda run: (not run.recipe, -run.changed)):
        by_recipe.setdefault(run.recipe, []).append(run)
    template = environment().get_template("runs.html")
    page = template.render(title=str(folder), number=len(listed), heads=HEADS, recipes=by_recipe, date=_date)
    write_page(out, page, advice="give another -o")
    return len(listed)


def _list_run(path: Path, folder: Path, base: Path) -> Listed:
    own = path / "report.html"
    href = quote(os.path.relpath(own.resolve(), base).replace(os.sep, "/")) if own.is_file() else ""
    changed = (path / "metrics.jsonl").stat().st_mtime
    name = str(path.relative_to(folder)) if path != folder else path.name
    try:
        run = read_run(path)
        return Listed(name, href, run.recipe.name, _cells(run), "", changed)
    except UserError as error:
        return Listed(name, href, "", (), str(error), changed)


def _cells(run: Run) -> list[str]:
    train, held_out = last_rows(run)
    row = held_out or train
    beta = beta_of(run)
    state = "finished" if run.summary else "stopped or under way"
    if broken(run):
        state = "broke off: not finite"
    seconds = run.summary.get("training_seconds", train.get("seconds"))
    accuracy = percent(row["accuracy"]) if is_number(row.get("accuracy")) else ""
    if accuracy and is_number(row.get("accuracy_low")):
        accuracy += f" ({percent(row['accuracy_low'])} to {percent(row['accuracy_high'])})"
    problems = [title_of(diagnosis) for diagnosis in diagnoses_in(examine_run(run))]
    return [
        run.loss + (f", beta {show(beta)}" if beta is not None else ""),
        show(run.steps),
        accuracy,
        fixed(row["margin"], 2) if is_number(row.get("margin")) else "",
        show(row["reward"]) if is_number(row.get("reward")) else "",
        show(row["kl"]) if is_number(row.get("kl")) else "",
        duration(float(seconds)) if is_number(seconds) else "",
        state,
        ", ".join(problems),
    ]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
