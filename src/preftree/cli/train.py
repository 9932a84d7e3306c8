"""`preftree sft` and `preftree dpo`: `[CONFIG.yaml] [key=value ...]`."""

from __future__ import annotations

from typing import Annotated

import typer

OPEN = {"ignore_unknown_options": True}  # so that eval_data=-1 or --lr meets our own sentence

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [key=value ...]", help="A file of defaults, and options.", show_default=False
    ),
]


def sft(words: Words = None) -> None:
    """Fine-tune on demonstrations: model=... data=... out=..."""
    from preftree.config.load import load_config
    from preftree.config.schema import SftConfig

    config = load_config(SftConfig, words or [])
    from preftree.train.sft import run_sft

    quiet_transformers()
    _end(run_sft(config).signum)


def dpo(words: Words = None) -> None:
    """Optimise a policy on preferences: model=... data=... out=... [loss=dpo] [beta=.1]"""
    from preftree.config.load import load_config
    from preftree.config.schema import DpoConfig

    config = load_config(DpoConfig, words or [])
    from preftree.train.dpo import run_dpo

    quiet_transformers()
    _end(run_dpo(config).signum)


def quiet_transformers() -> None:
    """No bars for loading and saving weights between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _end(signum: int) -> None:
    if signum:
        raise typer.Exit(128 + signum)
