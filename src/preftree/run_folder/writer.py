"""Writing a run's folder, from its lock to its last figures.

RUN/config.yaml   RUN/metrics.jsonl   RUN/tensorboard/   RUN/checkpoints/   RUN/snapshots/   RUN/steps/
RUN/model/   RUN/summary.json
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ValidationError

from preftree import __version__
from preftree.config.load import AnyConfig, changed_options, dump_config
from preftree.errors import CheckpointError, ConfigError, DataError, ModelError
from preftree.run_folder.measured_file import read_measured
from preftree.run_folder.summary_file import MEASURED, check_beside, lacks_measured, read_summary, verify_model
from preftree.runtime.machine import peak_resident
from preftree.runtime.ranks import Ranks
from preftree.runtime.reduce import lead_first, max_over_ranks
from preftree.storage.atomic import disk_faults, remove_dir, write_atomic
from preftree.storage.checkpoint import LoadedCheckpoint, list_checkpoints, load_checkpoint, step_of
from preftree.storage.json_file import first_fault
from preftree.storage.own_folder import own_folder
from preftree.trackers.guarded import KNOWN_AS

log = logging.getLogger("preftree")


@contextmanager
def claim_folder(config: AnyConfig, ranks: Ranks) -> Iterator[None]:
    """Lock the run's folder for this run, and leave the log to the rank that leads.

    Raises:
      ConfigError: the folder holds files of something else.
      TrainingError: another process trains in this folder.
      WriteError: the folder cannot be made or marked.
    """

    def claim() -> None:
        if not ranks.leads:
            log.setLevel(logging.ERROR)
            return
        stack.enter_context(own_folder(Path(config.out)))

    with ExitStack() as stack:
        lead_first(ranks, claim)
        yield


def find_start(config: AnyConfig, ranks: Ranks) -> LoadedCheckpoint | None:
    """The checkpoint to resume from, the same on every rank; None for a fresh run.

    Raises:
      ConfigError: the folder holds a finished run that cannot or must not be continued.
      CheckpointError: the checkpoint is damaged, or older than others of this folder.
    """
    out = Path(config.out)
    root = out / "checkpoints"
    if config.resume == "never" and (out / "model").exists():
        raise ConfigError(f"out={out} holds a finished run, which resume=never would lose; choose another folder")
    if config.resume not in ("auto", "never"):
        path = Path(config.resume)
        later = [other.name for other in list_checkpoints(root) if step_of(other) > step_of(path)]
        if later:
            raise CheckpointError(f"{out} holds later checkpoints than {path.name} ({later[-1]}); choose another out=")
        return _described(load_checkpoint(root, path))
    start = lead_first(ranks, lambda: load_checkpoint(root) if ranks.leads and config.resume == "auto" else None)
    step = max_over_ranks(-1 if start is None else start.step, ranks)
    if not ranks.leads and step >= 0:
        start = load_checkpoint(root, root / f"step-{step:06d}")
    for sentence in start.skipped if start else ():
        log.warning("%s; passed over", sentence)
    _described(start)
    if start is None and (out / "model").exists():
        raise ConfigError(f"out={out} holds a model but no checkpoint to go on from; choose another folder")
    return start


class _Environment(BaseModel):
    threads: int


class _Description(BaseModel):
    """Schema of a run's description in a checkpoint."""

    progress: dict[str, Any]
    trajectory: dict[str, Any]
    config: dict[str, Any]
    environment: _Environment


def _described(start: LoadedCheckpoint | None) -> LoadedCheckpoint | None:
    """A checkpoint that describes its run; one of an earlier version is said.

    Raises:
      CheckpointError: it does not.
    """
    if start is None:
        return None
    try:
        _Description.model_validate(start.state.meta)
    except ValidationError as error:
        raise CheckpointError(f"{start.path / 'meta.json'} does not describe a run: {first_fault(error)}") from error
    if not start.named:
        log.warning(
            "%s was written by an earlier version: its files do not say which step and run they are of, and "
            "metrics.jsonl has no digest; it is used, and the next one has all",
            start.path,
        )
    return start


def start_over(config: AnyConfig, ranks: Ranks) -> None:
    """Leave nothing of an earlier run that a run from step 0 would be taken for.

    Models made of its steps, and the names under which trackers know it, are deleted. With resume=never so are the
    files of an unfinished run, with a warning that names them.

    Raises:
      WriteError: one of them cannot be deleted.
    """
    if not ranks.leads:
        return
    out = Path(config.out)
    with disk_faults():
        (out / KNOWN_AS).unlink(missing_ok=True)
        if (out / "steps").is_dir():
            remove_dir(out / "steps")
    if config.resume != "never":
        return
    earlier = list_checkpoints(out / "checkpoints")
    if earlier:
        log.warning("resume=never: deleting %d checkpoints of an earlier run, up to %s", len(earlier), earlier[-1])
    with disk_faults():
        for path in earlier:
            remove_dir(path)
        for name in ("checkpoints/best", "snapshots", "tensorboard"):
            if (out / name).is_dir():
                number = sum(1 for _ in (out / name).iterdir())
                log.warning("resume=never: deleting %s of an earlier run, with %d entries", out / name, number)
                remove_dir(out / name)


def set_aside_earlier_end(config: AnyConfig, ranks: Ranks) -> None:
    """Rename the summary of a run that goes on, and measured figures that are damaged or of its earlier options.

    Raises:
      WriteError: they cannot be renamed.
    """
    out = Path(config.out)
    if not ranks.leads:
        return
    names = ["summary"] if (out / "summary.json").exists() else []
    try:
        read_measured(out / "measured.json")
    except DataError:
        names.append("measured")
    with disk_faults():
        for name in names:
            aside = out / f"{name}-{secrets.token_hex(4)}.json"
            log.info("the run goes on: %s, of its end before, is now %s", out / f"{name}.json", aside.name)
            os.rename(out / f"{name}.json", aside)


def check_trajectory(config: AnyConfig, start: LoadedCheckpoint | None, trajectory: Mapping[str, object]) -> None:
    """Refuse to resume from a checkpoint of another trajectory.

    Args:
      config: The run's options, to name those that changed the data.
      start: The checkpoint, if there is one.
      trajectory: Everything that decides the sequence of weights; compared with the checkpoint's record.
    Raises:
      CheckpointError: something differs; each is named with both values.
    """
    if start is None:
        return
    before = start.state.meta["trajectory"]
    changed = [name for name in dict.fromkeys((*before, *trajectory)) if before.get(name) != trajectory.get(name)]
    if not changed:
        return
    changes = [f"{name} was {_short(before.get(name))}, is {_short(trajectory.get(name))}" for name in changed]
    if "training data" in changed:
        options = changed_options(start.state.meta["config"], config.model_dump())
        changes += [
            f"{name} was {_short(old)}, is {_short(new)}"
            for name, (old, new) in options.items()
            if name.startswith(("data.", "max_length", "max_prompt", "max_response", "truncation", "side"))
        ]
    raise CheckpointError(
        f"{start.path} is of another run ({'; '.join(changes)}); put that back to resume, or choose another out="
    )


def write_config(config: AnyConfig, ranks: Ranks) -> None:
    """Write the resolved options to RUN/config.yaml.

    Raises:
      WriteError: it cannot be written.
    """
    if ranks.leads:
        with disk_faults():
            write_atomic(Path(config.out) / "config.yaml", dump_config(config))


def is_finished(config: AnyConfig, start: LoadedCheckpoint | None, num_steps: int) -> bool:
    """Whether the folder holds the finished run already: its last checkpoint, its model and its summary.

    Where one of its files is damaged, which is said, the run is finished again from its last checkpoint.
    """
    out = Path(config.out)
    if start is None or not (out / "model").is_dir() or not (out / "summary.json").exists():
        return False
    try:
        summary = read_summary(out)
        assert summary is not None
        has_ended = start.step >= num_steps or (
            summary.ended_early and summary.config.get("stop_after") == config.stop_after
        )
        if not has_ended or summary.steps != start.step:
            return False
        check_beside(out, summary)
        for name in ("model", "base"):
            if (out / name).is_dir():
                verify_model(out / name)
        if lacks_measured(out, summary):
            raise DataError(f"{out / MEASURED} is missing, though {out / 'summary.json'} lists it")
        read_measured(out / MEASURED)
    except (DataError, ModelError) as error:
        log.warning("%s: what belongs to the end of the run is made again from %s", error, start.path)
        return False
    return True


def environment(ranks: Ranks) -> dict[str, str | int]:
    """Versions and hardware, on which the figures of a run may depend beside its options."""
    device = torch.cuda.get_device_name() if ranks.device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "preftree": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{ranks.device.type} ({device})",
        "threads": torch.get_num_threads(),
        "processes": ranks.size,
    }


def peak_memory(ranks: Ranks) -> int:
    """Peak memory of this process in bytes: on the GPU where there is one, else resident."""
    if ranks.device.type == "cuda":
        return torch.cuda.max_memory_allocated(ranks.device)
    return peak_resident()


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:8]}.." if len(text) >= 32 and " " not in text else text
