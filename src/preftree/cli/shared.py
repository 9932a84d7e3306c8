"""Options, tables and progress bars that several verbs share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from preftree import __version__

if TYPE_CHECKING:
    from rich.table import Column

    from preftree.evaluate.answers import SampleFiles
    from preftree.judges.llm.bill import Asking

REWARD = (
    "world:NAME, rm:FOLDER of a reward model, rm:FOLDER:LABEL of a classifier, llm:FILE.yaml, openai:MODEL@URL or "
    "hf:PATH of a language model, FILE.py:FUNCTION or MODULE:FUNCTION of (prompt, response)."
)
JUDGE = f"A reward model's folder, {REWARD} Where pairs are compared, several as one: panel:A,B,C."
SIDE = "A model's or a run's folder, RUN@STEP, a GGUF file, a hub id, or a file that `preftree generate` wrote"


STOPPING = "the responses under way end and are kept, and the command stops"

log = logging.getLogger("preftree")

_reserved: ExitStack | None = None  # the folders of the running command


def _in_64_bits(value: Any) -> Any:
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, int) and abs(number) >= 2**63:
            raise typer.BadParameter("must be a number below 2^63")
    return value


def whole_number(**settings: Any) -> Any:
    """A typer.Option of a whole number, refused where no tensor and no generator of random numbers can take it."""
    return typer.Option(callback=_in_64_bits, **settings)


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model folder, the folder of a run or RUN@STEP, a GGUF file, or a hub id."),
]
Step = Annotated[
    str | None,
    typer.Option(metavar="N|best", help="Step of a run whose weights are on disk, as RUN@N.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Judge = Annotated[str, typer.Option(help=JUDGE)]
Prompts = Annotated[str, typer.Option(help="A data file with a `prompt` in each row, or a .txt file.")]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, help="Most that a language model may cost as judge, in the currency of its price."),
]
NumPrompts = Annotated[
    int | None,
    whole_number(min=2, help="Maximum number of prompts, chosen by seed.  [default: all]", show_default=False),
]
Samples = Annotated[int, whole_number(min=1, help="Responses to each prompt.")]
MaxNewTokens = Annotated[
    int | None,
    whole_number(min=1, help="Maximum tokens of a response.  [default: 256, or the world's]", show_default=False),
]
SamplingTemperature = Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option(help="Sample from the fewest tokens with this total probability.")]
Seed = Annotated[int, whole_number(min=0, help="Seed of the samples.")]
BatchSize = Annotated[int, whole_number(min=1, help="Number of responses generated at once.")]
Precision = Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of the weights.")]


def announce(text: str) -> None:
    """Say what a command begins with, before torch and transformers are imported, which takes seconds."""
    sayable = text.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
    log.info("preftree %s: %s", __version__, sayable)


def print_table(
    heads: Iterable[str | Column], rows: Iterable[Sequence[str]], *, soft_wrap: bool = False, **look: Any
) -> None:
    """Print a table on stdout; `look` are options of rich's Table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, title_justify="left", **look)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False, soft_wrap=soft_wrap).print(table)


def with_interval(value: float, low: float | None, high: float | None, form: str = ".3f") -> str:
    """A figure as text, with the ends of its interval where it has one."""
    ends = "" if low is None or high is None else f"  [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"


def reserve(out: Path, option: str = "--out") -> None:
    """Reserve a folder of results until the command ends.

    Raises:
      ConfigError: it holds files of something else.
      TrainingError: another process works in it.
      WriteError: it cannot be made or marked.
    """
    from preftree.storage.own_folder import own_folder

    if _reserved is not None:
        _reserved.enter_context(own_folder(out, option))
        return
    with own_folder(out, option):  # called from Python: marked, and not held
        pass


@contextmanager
def reservations() -> Iterator[None]:
    """Hold what `reserve` reserves until the command within ends."""
    global _reserved
    try:
        with ExitStack() as _reserved:
            yield
    finally:
        _reserved = None


@contextmanager
def progress_bar(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function that takes what is done."""
    with _bars() as show:
        show(name, 0, total)
        yield lambda done: show(name, done, total)


@contextmanager
def sample_files(out: Path, samples: int, batch_size: int, precision: Literal["fp32", "bf16"]) -> Iterator[SampleFiles]:
    """Settings for sampling into OUT/responses, with a progress bar for each file; Ctrl-C ends the command."""
    from preftree.evaluate.answers import Interrupted, SampleFiles
    from preftree.runtime.signals import stop_on_signals

    with _bars() as show, stop_on_signals(STOPPING) as request:
        try:
            yield SampleFiles(out / "responses", samples, batch_size, precision, lambda: request.signum, show)
        except Interrupted:
            log.info("stopped; what was drawn is in %s: the same command goes on from there", out / "responses")
            raise typer.Exit(128 + request.signum) from None


@contextmanager
def judging(how: Asking) -> Iterator[None]:
    """Show the progress of a language model that judges, and its bill so far at the end, also after an error."""
    from preftree.judges.llm.bill import no_progress

    with _bars() as how.progress:
        try:
            yield
        finally:
            how.progress = no_progress
            if how.bill.asked or how.bill.cached:
                typer.echo(f"judge: {how.bill}", err=True)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=log.level > logging.INFO) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield show
