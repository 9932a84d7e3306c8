"""A run's folder, from the first look at it to the model it ends with; shared by the recipes.

RUN/config.yaml   RUN/metrics.jsonl   RUN/tensorboard/   RUN/checkpoints/   RUN/model/   RUN/summary.json
"""

from __future__ import annotations

import json
import logging
import platform
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree import __version__
from preftree.config.load import dump_config
from preftree.config.schema import DpoConfig, RunConfig, SftConfig
from preftree.distributed.reduce import max_over_ranks
from preftree.distributed.world import World
from preftree.errors import CheckpointError, ConfigError
from preftree.models.export import save_model
from preftree.models.load import load_model, load_tokenizer
from preftree.reference.key import cache_root
from preftree.scoring.forward import Scorer
from preftree.storage.atomic import write_atomic
from preftree.storage.checkpoint import LoadedCheckpoint, list_checkpoints, load_checkpoint, step_of
from preftree.storage.lock import lock_run
from preftree.train.card import model_card
from preftree.train.loop import Outcome

log = logging.getLogger("preftree")

C = TypeVar("C", SftConfig, DpoConfig)


@contextmanager
def claim_folder(config: RunConfig, world: World) -> Iterator[None]:
    """Keep the run's folder to this run, and warnings of ranks that do not lead to themselves.

    Raises:
      TrainingError: another process trains in this folder.
    """
    if not world.leads:
        log.setLevel(logging.ERROR)
        yield
        return
    with lock_run(Path(config.out)):
        yield


def find_start(config: RunConfig, world: World) -> LoadedCheckpoint | None:
    """The checkpoint to go on from, the same on every rank; None for a fresh run.

    Raises:
      ConfigError: a fresh run was asked for, or is all that could be, in a folder that holds a run.
      CheckpointError: the checkpoint is damaged, or lies before others of this folder.
    """
    out = Path(config.out)
    root = out / "checkpoints"
    held = [path for path in (root, out / "metrics.jsonl", out / "model") if path.exists()]
    if config.resume == "never" and held:
        raise ConfigError(
            f"out={out} holds a run ({held[0].name}); choose another folder, or resume=auto to go on with it"
        )
    if config.resume not in ("auto", "never"):
        path = Path(config.resume)
        later = [other for other in list_checkpoints(root) if step_of(other) > step_of(path)]
        if later:
            raise CheckpointError(
                f"{out} holds checkpoints after {path.name}, up to {later[-1].name}; to go back, choose another out="
            )
        return load_checkpoint(root, path)
    if world.leads:
        start = load_checkpoint(root) if config.resume == "auto" else None
        step = max_over_ranks(-1 if start is None else start.step, world)
    else:
        step = max_over_ranks(-1, world)
        start = load_checkpoint(root, root / f"step-{step:06d}") if step >= 0 else None
    for sentence in start.skipped if start else ():
        log.warning("%s; passed over", sentence)
    if start is None and (out / "model").exists():
        raise ConfigError(f"out={out} holds a model but no checkpoint to go on from; choose another folder")
    return start


def settle(config: C, start: LoadedCheckpoint | None) -> C:
    """Fix what the options left open, pin the CPU threads and seed the random numbers."""
    threads = config.threads or (start.state.meta["threads"] if start else torch.get_num_threads())
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    return config.model_copy(update={"threads": threads, "cache": config.cache or str(cache_root())})


def load_policy(config: RunConfig, world: World) -> tuple[Scorer, PreTrainedTokenizerBase]:
    """The model in fp32 on this rank's device, without dropout, wrapped as a scorer; and its tokenizer."""
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model).to(world.device)  # pyright: ignore[reportArgumentType] (transformers' own stub)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    return Scorer(model, precision=config.precision), tokenizer


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass instead of keeping them.

    Transformers recomputes in training mode only, so the layers that can are put in it, and nothing else is.

    Raises:
      ConfigError: the architecture does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"gradient_checkpointing: {type(model).__name__} does not support it; leave it out")
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # < 5.23
    enable({"use_reentrant": False})
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True


def check_trajectory(start: LoadedCheckpoint | None, trajectory: Mapping[str, object]) -> None:
    """Refuse to go on from a checkpoint of another trajectory.

    Args:
      start: The checkpoint, if there is one.
      trajectory: What decides which weights come after which; compared with what the checkpoint recorded.
    Raises:
      CheckpointError: something differs; each is named with both values.
    """
    if start is None:
        return
    before = start.state.meta["trajectory"]
    names = [name for name in (*before, *trajectory) if before.get(name) != trajectory.get(name)]
    changed = [
        f"{name} was {_short(before.get(name))}, is {_short(trajectory.get(name))}" for name in dict.fromkeys(names)
    ]
    if changed:
        raise CheckpointError(
            f"{start.path} belongs to another run ({'; '.join(changed)}); put that back to go on, or choose another out="
        )


def write_config(config: RunConfig, world: World) -> None:
    """Write the resolved options to RUN/config.yaml."""
    if world.leads:
        write_atomic(Path(config.out) / "config.yaml", dump_config(config))


def is_finished(config: RunConfig, start: LoadedCheckpoint | None, num_steps: int) -> bool:
    """Whether the folder holds the finished run already: its last checkpoint, its model and its summary."""
    out = Path(config.out)
    if start is None or start.step < num_steps or not (out / "model").is_dir() or not (out / "summary.json").exists():
        return False
    return json.loads((out / "summary.json").read_bytes())["steps"] == start.step


def finish(
    config: RunConfig,
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    outcome: Outcome,
    about: Mapping[str, object],
    world: World,
) -> None:
    """Write RUN/model with its card, and RUN/summary.json last: it says that all else is there."""
    if not world.leads:
        return
    out = Path(config.out)
    summary = {
        "recipe": "dpo" if isinstance(config, DpoConfig) else "sft",
        "steps": outcome.progress.step,
        "examples": outcome.progress.examples,
        "tokens": outcome.progress.tokens,
        "training_seconds": round(outcome.progress.seconds, 3),
        "peak_memory_bytes": peak_memory(world),
        "held_out": dict(outcome.figures),
        **about,
    }
    model = scorer.model
    assert isinstance(model, PreTrainedModel)
    save_model(model, tokenizer, out / "model", card=model_card(config, summary))
    write_atomic(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    log.info("model in %s", out / "model")


def environment(world: World) -> dict[str, str | int]:
    """What the figures of a run may depend on beside its options."""
    device = torch.cuda.get_device_name() if world.device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "preftree": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{world.device.type} ({device})",
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def peak_memory(world: World) -> int:
    """The most memory this process has held, in bytes: on the GPU where there is one, else resident."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:8]}.." if len(text) >= 32 and " " not in text else text
