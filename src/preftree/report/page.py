"""The page: one HTML file with its style, script and data inside, which loads nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from preftree import __version__
from preftree.errors import DataError
from preftree.evaluate.checks.all_checks import CHECKS, SEVERITIES, CheckResult, diagnoses_in, examine_run, title_of
from preftree.evaluate.checks.evidence import Diagnosis
from preftree.report import first_screen, numbers, tables
from preftree.report.charts import Chart, Drawing, draw_chart
from preftree.report.curves import compared_curves, learning_curves, mean_stretch, tone_of, without_constants
from preftree.report.frontier import budget_table, frontier_chart, temperature_chart
from preftree.report.next_commands import next_commands
from preftree.report.terms import TERMS, explained
from preftree.run_folder.measured_file import Answered, Measured, PairRewards, Point, Sample
from preftree.run_folder.reader import Run, read_runs
from preftree.storage.atomic import write_result

_MARK = '<meta name="generator" content="Preftree '
_FIRST = 2000
"""Characters among which a page has its mark."""

_TEMPLATES = Path(__file__).parent / "templates"

MAX_SAMPLES = 12
MAX_PAIRS = 8


@dataclass(frozen=True, slots=True)
class Examined:
    """A run with the results of its checks, and its colour among others."""

    run: Run
    results: Sequence[CheckResult]
    tone: str

    @property
    def found(self) -> list[Diagnosis]:
        """The diagnoses, the worst first."""
        return diagnoses_in(self.results)


@dataclass(frozen=True, slots=True)
class Section:
    """A section: a sentence or two, a drawing, a table; empty parts are left out."""

    title: str
    note: str = ""
    drawing: Drawing | None = None
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a page; empty parts are left out.

    Attributes:
      title, kind, lede: The head.
      outcome: The conclusion.
      figures: Headline figures.
      runs: The runs, examined.
      curves: Learning curves.
      legend: Names and tones of the lines in the curves of several runs.
      seeded: Whether lines are means over seeds.
      stretch: Steps that a point of the curves is the mean of.
      constants: Figures that did not change, in words.
      answers: Answers to a few prompts before and after training.
      answers_held_out: Whether these prompts were held out.
      commands: What can be done next: a phrase, and the command.
      frontier: Reward over KL.
      budgets: Heads and rows of the table below it.
      temperature: A figure over sampling temperatures.
      samples, pairs: Texts side by side; tokens with their rewards.
      differing: Options in which the runs differ.
      texts: Responses of several models: heads, and for each prompt a cell (text, note) a model.
      first, extra: Further tables, before all else and after: title, heads, rows.
      sections: Further sections, after reward and KL.
      notes: Further things to look at.
      facts: Further names and values for the record.
      world: Whether the frontier is the main content of the page.
    """

    title: str
    kind: str
    lede: str
    outcome: first_screen.Conclusion
    figures: Sequence[first_screen.Figure] = ()
    runs: Sequence[Examined] = ()
    curves: Sequence[Drawing] = ()
    legend: Sequence[tuple[str, str]] = ()
    seeded: bool = False
    stretch: int = 1
    constants: Sequence[str] = ()
    answers: Sequence[Answered] = ()
    answers_held_out: bool = False
    commands: Sequence[tuple[str, str]] = ()
    frontier: Drawing | None = None
    budgets: tuple[Sequence[str], Sequence[tuple[str, Sequence[tuple[str, str]]]]] = ((), ())
    temperature: Drawing | None = None
    samples: Sequence[Sample] = ()
    pairs: Sequence[PairRewards] = ()
    differing: Sequence[tuple[str, Sequence[str]]] = ()
    first: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    extra: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    sections: Sequence[Section] = ()
    texts: tuple[Sequence[str], Sequence[tuple[str, Sequence[tuple[str, str]]]]] = ((), ())
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    world: bool = False


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Read the folders of runs and write their page.

    Raises:
      DataError: a folder holds no run, or one that cannot be read; or the page cannot be written.
    """
    check_page(out)
    write_page(out, run_page(read_runs(runs)), advice="give another -o")


def run_page(runs: Sequence[Run]) -> str:
    """The page of one run, or of several compared, as HTML."""
    if not runs:
        raise ValueError("a report needs at least one run")
    examined = examine_all(runs)
    if len(runs) == 1:
        run = runs[0]
        charts, constants = without_constants(learning_curves(run))
        return render_page(
            Page(
                title=run.name,
                kind=f"{run.recipe.name.upper()} run",
                lede=first_screen.describe_run(run),
                outcome=first_screen.conclude_run(run),
                figures=first_screen.headline(run),
                runs=examined,
                curves=drawn(charts),
                stretch=mean_stretch(runs),
                constants=constants,
                answers=run.measured.answers,
                answers_held_out=run.measured.answers_held_out,
                commands=next_commands(run),
                **measured_parts(run.measured, {run.name: run.measured.frontier} if run.measured.frontier else {}),
            )
        )
    fronts = {run.name: run.measured.frontier for run in runs if run.measured.frontier}
    charts, constants = without_constants(compared_curves({run.name: [run] for run in runs}))
    return render_page(
        Page(
            title=f"{len(runs)} runs compared",
            kind="Comparison",
            lede=first_screen.describe_runs(runs, [name for name, _ in tables.differing(runs)]),
            outcome=first_screen.conclude_runs(runs),
            runs=examined,
            curves=drawn(charts),
            constants=constants,
            legend=[(run.name, tone_of(index)) for index, run in enumerate(runs)],
            stretch=mean_stretch(runs),
            differing=tables.differing(runs),
            **measured_parts(Measured(), fronts),
        )
    )


def examine_all(runs: Sequence[Run]) -> list[Examined]:
    """Run every check on every run."""
    return [Examined(run, examine_run(run), tone_of(index)) for index, run in enumerate(runs)]


def together(runs: Sequence[Examined]) -> list[tuple[Diagnosis, list[str]]]:
    """Diagnoses of the same check in one, with the names of the runs that have it; the worst first."""
    named: dict[tuple[str, str], tuple[Diagnosis, list[str]]] = {}
    for item in runs:
        for diagnosis in item.found:
            first = named.setdefault((diagnosis.severity, diagnosis.name), (diagnosis, []))
            first[1].append(item.run.name)
    return sorted(named.values(), key=lambda group: SEVERITIES.index(group[0].severity))


def render_page(page: Page) -> str:
    """The page as HTML: every text escaped, the script the only one that may run."""
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template("page.html")
        .render(
            page=page,
            title=page.title,
            script=script,
            script_digest=digest,
            checks=CHECKS,
            title_of=title_of,
            show=numbers.show,
            signed=numbers.signed,
            fixed=numbers.fixed,
            together=together,
            typeset=numbers.typeset,
            size=numbers.size,
            tables=tables,
            first_screen=first_screen,
            max_samples=MAX_SAMPLES,
            max_pairs=MAX_PAIRS,
            longest=_longest,
            largest_reward=_largest_reward,
        )
    )


@functools.cache
def environment() -> Environment:
    """The templates of all pages: text is escaped, and what their head needs of every page is known."""
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["explained"] = explained
    templates.globals |= {"terms": TERMS, "version": __version__, "style": (_TEMPLATES / "page.css").read_text("utf-8")}
    return templates


def measured_parts(
    measured: Measured, methods: Mapping[str, Sequence[Point]], optimum: Sequence[Point] = ()
) -> dict[str, Any]:
    """The parts of a page with figures measured after training."""
    temperature = temperature_chart(measured.temperature, measured.temperature_figure)
    return {
        "frontier": draw_chart(frontier_chart(methods, optimum)),
        "budgets": budget_table(methods, optimum) if methods else ((), ()),
        "temperature": draw_chart(temperature),
        "samples": measured.samples,
        "pairs": measured.token_rewards,
    }


def drawn(charts: Sequence[Chart]) -> list[Drawing]:
    """The charts that have something to show, laid out."""
    return [drawing for drawing in map(draw_chart, charts) if drawing is not None]


def _longest(drawing: Drawing) -> str:
    """The longest label of the vertical axis: it makes room for all."""
    return max((tick.text for tick in drawing.y_ticks), key=len, default="")


def _largest_reward(pair: PairRewards) -> float:
    """The largest absolute reward of a pair's tokens: full colour."""
    rewards = [abs(token.reward) for token in (*pair.chosen, *pair.rejected) if token.reward is not None]
    return max(rewards, default=0.0) or 1.0


def write_page(out: Path, page: str, *, advice: str) -> None:
    """Write a page; the folder is made as needed.

    Args:
      out: The file.
      page: The HTML.
      advice: What to do where it cannot be written.
    Raises:
      DataError: the file holds something else.
      WriteError: it cannot be written.
    """
    check_page(out)
    write_result(out, page, advice=advice)


def check_page(out: Path) -> None:
    """Refuse to replace a file that is no page of Preftree.

    Raises:
      DataError: the file holds something else.
    """
    if out.is_dir():
        raise DataError(f"{out} is a folder; give the name of a file")
    try:
        with out.open(encoding="utf-8", errors="replace") as file:
            is_page = _MARK in file.read(_FIRST)
    except OSError:  # it is not there, or writing it says what is wrong
        return
    if not is_page:
        raise DataError(f"{out} exists and is no page of Preftree; give another name")
