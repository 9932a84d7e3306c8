"""Command line of Preftree: its verbs, its log on stderr, and its exit codes.

0: done. 2: an error that the user can fix, in one sentence on stderr. 130: Ctrl-C. 143: SIGTERM. 1: a bug, with a
traceback.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from preftree import __version__
from preftree.cli import (
    cache,
    chat,
    collect,
    completion,
    configs,
    data,
    demo,
    doctor,
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
from preftree.errors import ConfigError, UserError, out_of_memory
from preftree.runtime.logs import StderrHandler
from preftree.storage.atomic import disk_faults

AGAIN = "the same command starts again from what is complete"
QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")


class _Root(TyperGroup):
    """The command line; -q and -v stand anywhere on it, since the options of a verb are also the words of its YAML."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set how much is said, and pass the other words on."""
        level = logging.INFO
        if any(word in QUIET for word in args):
            level = logging.WARNING
        if any(word in VERBOSE for word in args):
            if level == logging.WARNING:
                raise ConfigError("-q says less and -v says more; give one of them")
            level = logging.DEBUG
        logging.getLogger("preftree").setLevel(level)
        return super().parse_args(ctx, [word for word in args if word not in (*QUIET, *VERBOSE)])

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; Ctrl-C where nothing waits for it, such as while a model is loaded, ends it with 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print(f"\nstopped; no file is left half-written, and {AGAIN}", file=sys.stderr)
            raise typer.Exit(128 + signal.SIGINT) from None


app = typer.Typer(
    cls=_Root,
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
app.add_typer(configs.app, name="configs", help="Configurations that come with the package.")
app.add_typer(cache.app, name="cache", help="Tokenised data and reference tables: list and prune.")
app.command("doctor")(doctor.doctor)
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
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say only warnings and results; anywhere on the line.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Say more: times, transformers' messages, where an error came from.")
    ] = False,
) -> None:
    """Turn preferences into an aligned language model."""


def main() -> NoReturn:
    """Run the command line and exit."""
    log = logging.getLogger("preftree")
    log.handlers = [StderrHandler()]
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
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
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
