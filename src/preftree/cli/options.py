"""`preftree options RECIPE`, and the help of the verbs that train: a table of all options."""

from __future__ import annotations

import json
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import preftree
from preftree.config.recipes import RECIPES, Recipe
from preftree.errors import ConfigError

PIPED_WIDTH = 100
NAME_WIDTH = 24


class RecipeCommand(TyperCommand):
    """A verb that trains; its help is the table of its options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the table in place of the usual help."""
        print_options(RECIPES[str(self.name)])


def options(
    recipe: Annotated[str | None, typer.Argument(metavar="|".join(RECIPES), show_default=False)] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Write a commented configuration file.")] = False,
    schema: Annotated[bool, typer.Option("--json-schema", help="Write the JSON schema of that file.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", hidden=True)] = False,
) -> None:
    """Print every option of a recipe; or write a commented configuration file, or its JSON schema."""
    from preftree.config.help import commented_yaml, json_schema

    if markdown:
        typer.echo(page(), nl=False)
        return
    if recipe not in RECIPES:
        raise ConfigError(f"give one of the recipes {', '.join(RECIPES)}" + (f", got {recipe!r}" if recipe else ""))
    if yaml and schema:
        raise ConfigError("--yaml and --json-schema are two files; give one of them")
    row = RECIPES[recipe]
    if yaml:
        typer.echo(commented_yaml(row), nl=False)
    elif schema:
        typer.echo(json.dumps(json_schema(row), indent=2))
    else:
        print_options(row)


def print_options(recipe: Recipe) -> None:
    """Print every option of a recipe by concern, with colours on a terminal, as plain text elsewhere."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from preftree.config.help import OptionHelp, groups_of

    def line(option: OptionHelp) -> tuple[Text, Text]:
        default = "required" if option.default is None else f"default {option.default}" if option.default else ""
        kinds = "; ".join(filter(None, (option.type, default)))
        return Text(option.name, "cyan"), Text.assemble(option.meaning, " ", (f"({kinds})", "dim"))

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PIPED_WIDTH, file=_Stripped())
    options = [option for group in groups_of(recipe) for option in group.options]
    required = " ".join(f"{option.name}={option.name.upper()}" for option in options if option.default is None)
    console.print(f"Usage: preftree {recipe.name} [CONFIG.yaml] {required} [key=value | --key value ...]\n")
    console.print(f"{recipe.help}\n")
    console.print(
        "Options stand on the command line, in a YAML file, or in both; the command line wins.\n"
        f"`preftree options {recipe.name} --yaml` writes a file with all of them."
    )
    for group in groups_of(recipe):
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(min_width=NAME_WIDTH, no_wrap=True)
        table.add_column()
        for option in group.flat():
            table.add_row(*line(option))
            if option.name == "loss":
                table.add_row("", Text(f"Names: {', '.join(loss_names(recipe))}."))
        console.print(Text(f"\n{group.title}", "bold"))
        console.print(table)


class _Stripped(StringIO):
    """Standard output without the blanks that fill the last column of a table."""

    def write(self, text: str) -> int:
        return sys.stdout.write(re.sub(r" +\n", "\n", text))


def loss_names(recipe: Recipe) -> list[str]:
    """Names of the losses of a recipe, from the source of their tables: importing those would import torch."""
    for_rewards = recipe.trains == "reward_model"
    room = Path(preftree.__file__).parent / "losses"
    registry = (room / "registry.py").read_text("utf-8").lower()
    sources = [path for path in room.rglob("*.py") if (path.name == "reward_model.py") == for_rewards]
    sources.sort(key=lambda path: registry.find(f"**{path.stem}"))  # in the order of the table
    return [name for path in sources for name in re.findall(r'"(\w+)": LossSpec\(', path.read_text("utf-8"))]


def page() -> str:
    """docs/options.md: a table for each concern, with the recipes that have it."""
    from preftree.config.help import OptionHelp, groups_of

    concerns: dict[str, dict[str, list[tuple[str, OptionHelp]]]] = {}
    for recipe in RECIPES.values():
        for group in groups_of(recipe):
            title = f"`preftree {recipe.name}` alone" if group.title == "This recipe alone" else group.title
            for option in group.flat():
                concerns.setdefault(title, {}).setdefault(option.name, []).append((recipe.name, option))
    text = (
        "# Options\n\n<!-- from the source: make docs-options -->\n\n"
        "Options stand on the command line (`lr=1e-5`, `--lr 1e-5` or `--lr=1e-5`), in a YAML file, or in both; the\n"
        "command line wins. Dotted names reach inside: `lora.r=16` is `lora: {r: 16}` in a file.\n"
        "`preftree options RECIPE --yaml` writes a file with all options of a recipe, `--json-schema` its schema.\n"
    )
    for title, table in concerns.items():
        recipes = list(dict.fromkeys(name for rows in table.values() for name, _ in rows))
        everybody = "all recipes" if len(recipes) == len(RECIPES) else ", ".join(f"`{name}`" for name in recipes)
        text += f"\n## {title}\n\n"
        text += "" if len(recipes) == 1 and "alone" in title else f"For {everybody}.\n\n"
        text += "| option | values | default | meaning |\n|---|---|---|---|\n"
        for name, rows in table.items():
            cells = (f"`{name}`", f"`{rows[0][1].type}`", _default(rows), rows[0][1].meaning)
            text += f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
    return text


def _default(rows: list[tuple[str, Any]]) -> str:
    """The default of an option, by recipe where it depends on it."""
    recipes: dict[str, list[str]] = {}
    for recipe, option in rows:
        default = "required" if option.default is None else option.default and f"`{option.default}`"
        recipes.setdefault(default, []).append(recipe)
    if len(recipes) == 1:
        return next(iter(recipes))
    return "; ".join(f"{default} ({', '.join(names)})" for default, names in recipes.items())
