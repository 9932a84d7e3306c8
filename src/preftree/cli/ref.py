"""`preftree ref build`: the reference table of a run, computed without training."""

from __future__ import annotations

import typer

from preftree.cli.shared import announce
from preftree.cli.train import OPEN, Words
from preftree.runtime.logs import quiet_transformers

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Reference log-probs, computed once."""


@app.command("build", context_settings=OPEN)
def build(words: Words = None) -> None:
    """Compute the reference log-probs that `preftree dpo` with the same options would need."""
    from preftree.config.dpo import DpoConfig
    from preftree.config.load import load_config

    config = load_config(DpoConfig, words or [])
    announce(f"reference log-probs of {config.model} on {config.data.path}")
    from preftree.train.dpo import build_reference_table

    quiet_transformers()
    build_reference_table(config)
