"""One step of a run as a model folder: `RUN@40`, `RUN@best`, or a run with --step, wherever a model is taken."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch

from preftree.config.load import AnyConfig, check_config
from preftree.config.reward import RewardConfig
from preftree.errors import ModelError
from preftree.models.load import model_in
from preftree.run_folder.reader import Run, read_run
from preftree.run_folder.steps import find_step, split_step
from preftree.run_folder.summary_file import verify_model
from preftree.runtime.ranks import open_ranks
from preftree.storage.atomic import disk_faults
from preftree.storage.checkpoint import load_checkpoint
from preftree.train.open_run import OpenRun, load_run, write_model_of
from preftree.train.reward import load_reward_policy
from preftree.train.state import copy_weights

log = logging.getLogger("preftree")

FOLDER = "steps"
"""Folder in a run's folder that holds the model folders."""


def model_at(name: str, step: str | None = None) -> str:
    """The model folder, or the hub id, that a name means.

    Args:
      name: A model folder, a GGUF file or a hub id, which stay as they are; the folder of a run, which is its model; or
        RUN@40 and RUN@best.
      step: A step of a run that is named without one.
    Raises:
      ConfigError: two steps are named.
      DataError: the run has no weights of this step on disk; the sentence lists the steps that it has.
      ModelError: they cannot be made a model folder.
    """
    run, wanted = split_step(name, step)
    return model_in(run) if wanted is None else str(step_folder(Path(run).expanduser(), wanted))


def step_folder(run: Path, step: str) -> Path:
    """A step of a run as a model folder: RUN/model for the end, else RUN/steps/step-NNNNNN, made at first.

    Raises:
      DataError, ModelError: as `model_at`.
    """
    number, saved = find_step(run, step)
    if saved == run / "model":
        return saved
    folder = run / FOLDER / f"step-{number:06d}"
    if folder.is_dir():
        try:
            verify_model(folder)
            return folder
        except ModelError as error:
            log.warning("%s; it is made again from %s", str(error).partition("; ")[0], saved)
    opened = read_run(run)
    _write(opened, number, saved, folder)
    log.info("%s: the model of step %d, from %s", folder, number, saved)
    return folder


def summary_at(run: Run, step: int) -> dict[str, Any]:
    """What is known of a run at a step: its summary with the figures of that step, and without those of the end."""
    rows = [row for row in run.rows if row["step"] == step]
    held_out = next((row for row in rows if row.get("split") == "eval"), {})
    counts = next((row for row in rows if "split" not in row), {})
    known = {name: value for name, value in run.summary.items() if name in ("recipe", "trajectory", "environment")}
    figures = {name: value for name, value in held_out.items() if name not in ("split", "step", "epoch")}
    counted = {name: counts[name] for name in ("examples", "tokens") if name in counts}
    return {"recipe": run.recipe.name, "steps": step, **counted, "held_out": figures, **known}


def _write(run: Run, step: int, saved: Path, folder: Path) -> None:
    """Write a model folder from the weights of a checkpoint or a snapshot."""
    config = check_config(run.recipe.config, dict(run.config))
    own = {"compile": False, "gradient_checkpointing": False, "threads": torch.get_num_threads(), "out": str(run.path)}
    config = cast(AnyConfig, config.model_copy(update=own))
    with open_ranks() as ranks:
        opened: OpenRun[Any]
        if isinstance(config, RewardConfig):
            opened = load_run(config, ranks, None, load_reward_policy)
        else:
            opened = load_run(config, ranks, None)
        checkpoint = load_checkpoint(saved.parent, saved)
        assert checkpoint is not None  # a named checkpoint is there, or loading it raises
        copy_weights(opened.scorer.model, checkpoint)
        with disk_faults():
            write_model_of(opened, summary_at(run, step), folder)
