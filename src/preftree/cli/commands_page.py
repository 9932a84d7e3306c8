"""docs/commands.md: every verb with its arguments and options, from the command line itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from preftree.config.recipes import RECIPES

_HEAD = """# Commands

Every verb takes `--help`. An error that can be corrected is one sentence on standard error and the exit code 2; Ctrl-C
is 130, SIGTERM 143. Figures go to standard output, all else to standard error. Recipes take `key=value` options:
[options](options.md).
"""


def commands_page(app: typer.Typer) -> str:
    """The page, as Markdown."""
    root = typer.main.get_command(app)
    return "\n".join([_HEAD, *(_section(words, command) for words, command in _verbs(["preftree"], root))])


def _verbs(words: list[str], command: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _verbs([*words, name], inner)
    if not hasattr(command, "commands"):
        yield " ".join(words), command


def _section(words: str, command: Any) -> str:
    about = " ".join(inspect.cleandoc(command.help or "").partition("\f")[0].split())
    verb = words.partition(" ")[2]
    if verb in RECIPES:
        usage, rows = f"{words} [CONFIG.yaml] [key=value ...]", []
        about = f"{about} Its options: [{verb}](options.md)."
    else:
        arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        shown = [option for option in options if not option.hidden and option.name != "help"]
        usage = " ".join([words, *map(_argument, arguments), *(["[OPTIONS]"] if shown else [])])
        rows = [(_cell(f"`{_argument(item)}`"), item.help) for item in arguments if item.help]
        rows += [(_option(option), option.help) for option in shown]
    parts = [f"## {words}", "", f"```text\n{usage}\n```", "", about]
    if rows:
        parts += ["", "| | |", "|---|---|", *(f"| {name} | {_cell(text or '')} |" for name, text in rows)]
    return "\n".join([*parts, ""])


def _argument(parameter: Any) -> str:
    name = parameter.metavar or (parameter.name or "").upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else f" `{parameter.metavar or parameter.name.upper()}`"
    has_default = isinstance(parameter.default, str | int | float) and parameter.default is not False
    return f"{flags}{metavar}" + (f" ({_cell(str(parameter.default))})" if has_default else "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
