"""Command line of Preftree: its verbs, its log on stderr, and its exit codes.

0: done. 2: an error that the user can fix, in one sentence on stderr. 130: Ctrl-C. 143: SIGTERM. 1: a bug, with a
traceback.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Annotated, NoReturn

import typer

from preftree import __version__
from preftree.cli import (
    chat,
    collect,
    completion,
    data,
    demo,
    eval,
    export,
    generate,
    losses,
    options,
    ref,
    report,
    sweep,
    train,
)
from preftree.cli.shared import reservations
from preftree.errors import UserError, out_of_memory
from preftree.runtime.logs import StderrHandler
from preftree.storage.atomic import disk_faults

app = typer.Typer(
    name="preftree",
    help="Turn preferences into an aligned language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data", help="Look at data files, convert them, cut prompts, rank samples.")
train.add_verbs(app)
app.command("sweep", context_settings=train.OPEN)(sweep.sweep)
app.add_typer(ref.app, name="ref", help="Reference log-probs, computed once.")
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.add_typer(collect.app, name="collect", help="People compare responses; votes become training data.")
app.add_typer(eval.app, name="eval", help="Measure a run.")
app.command("report")(report.report)
app.command("export")(export.export)
app.command("losses")(losses.losses)
app.command("options")(options.options)
app.command("completion")(completion.completion)


@app.command("commands", hidden=True)
def commands() -> None:
    """Print docs/commands.md."""
    from preftree.cli.commands_page import commands_page

    typer.echo(commands_page(app), nl=False)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"preftree {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn preferences into an aligned language model."""


def main() -> NoReturn:
    """Run the command line and exit."""
    log = logging.getLogger("preftree")
    log.handlers = [StderrHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        with disk_faults(), reservations():
            app()
    except MemoryError:
        print("error: this computer ran out of memory; use less data at once, or a smaller model", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # never imported here: commands without a model start faster
        if torch is None or not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        print(f"error: {out_of_memory(error)}; use smaller batches, or a smaller model", file=sys.stderr)
        sys.exit(2)
    raise AssertionError("typer always exits")


def _terminate(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)
