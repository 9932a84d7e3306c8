"""Verbs that train, one for each recipe: a configuration file, options, or both."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from preftree.cli.options import RecipeCommand
from preftree.cli.shared import announce
from preftree.config.recipes import RECIPES, Recipe
from preftree.runtime.logs import quiet_transformers

OPEN = {"ignore_unknown_options": True}  # --lr 1e-6 is read by config/command_line.py

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|key=value",
        help="At most one file, and any number of options; dotted keys reach inside.",
        show_default=False,
    ),
]


def add_verbs(app: typer.Typer) -> None:
    """Add a verb for each recipe to the command line."""
    for recipe in RECIPES.values():
        app.command(recipe.name, cls=RecipeCommand, help=recipe.help, context_settings=OPEN)(_verb(recipe))


def _verb(recipe: Recipe) -> Callable[..., None]:
    def train(words: Words = None) -> None:
        from preftree.config.load import load_config

        config = load_config(recipe.config, words or [])
        leads = os.environ.get("RANK", "0") == "0"
        if leads:
            announce(f"{recipe.name} of {config.model} on {config.data.path}, into {config.out}")
        from preftree.evaluate.in_memory.after_training import run_recipe
        from preftree.report.end_of_run import conclude

        quiet_transformers()
        signum = run_recipe(config).signum
        if signum:
            raise typer.Exit(128 + signum)
        if leads:
            conclude(Path(config.out))

    return train
