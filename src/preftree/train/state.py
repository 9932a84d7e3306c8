"""What a run is at one moment, as tensors and plain JSON, and the way back from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from preftree.errors import CheckpointError, TrainingError
from preftree.models.adapters import trained_parameters
from preftree.storage.checkpoint import CheckpointState, LoadedCheckpoint
from preftree.train.step.optimizer import optimizer_tensors, restore_optimizer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the step is its position in the data and in the schedule.

    Attributes:
      step: Updates made.
      examples: Examples trained on.
      tokens: Tokens computed in training.
      tokens_alone: Tokens that would have been computed with every response in a row of its own, without padding.
      seconds: Time spent in training steps, over all sittings.
      rows: Rows of metrics.jsonl.
      state: Running state of the loss, by name.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    tokens_alone: int = 0
    seconds: float = 0.0
    rows: int = 0
    state: Mapping[str, float] = field(default_factory=dict)


class Companion(NamedTuple):
    """A module that changes beside the policy, with its optimiser where it is trained: a critic, a moving reference."""

    module: nn.Module
    optimizer: Optimizer | None = None


def capture(
    model: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    about: Mapping[str, object],
    companions: Mapping[str, Companion],
) -> CheckpointState:
    """Everything that a resumed run needs.

    Args:
      model: The policy.
      optimizer: Its optimiser.
      progress: How far the run is.
      about: Plain JSON on what run this is.
      companions: What changes beside the policy, by the name of its file.
    """
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng |= {f"cuda-{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": trained_parameters(model),
        "optimizer": optimizer_tensors(model, optimizer),
        "rng": rng,
    }
    for name, companion in companions.items():
        tensors[name] = _parameters(companion)
        if companion.optimizer is not None:
            tensors[f"{name}_optimizer"] = optimizer_tensors(companion.module, companion.optimizer)
    return CheckpointState(tensors, {"progress": asdict(progress), **about})


def require_finite(model: nn.Module, step: int) -> None:
    """Refuse to keep weights that no run can go on from.

    Raises:
      TrainingError: a weight is nan or infinite.
    """
    bad = [name for name, value in trained_parameters(model).items() if not bool(value.isfinite().all())]
    if bad:
        raise TrainingError(
            f"after step {step} {len(bad)} of the model's tensors are not finite, first {bad[0]}; these weights were "
            "not written: start again from the checkpoint before, or in another out= with a lower lr"
        )


def restore(
    model: nn.Module, optimizer: Optimizer, checkpoint: LoadedCheckpoint, companions: Mapping[str, Companion]
) -> Progress:
    """Put model, optimiser, companions and random numbers back to where a checkpoint was taken.

    The checkpoint's tensors are let go: a run needs its memory for other things, and only once.

    Raises:
      CheckpointError: the checkpoint is of another model.
    """
    _copy_into(trained_parameters(model), checkpoint, "model")
    for name, companion in companions.items():
        _copy_into(_parameters(companion), checkpoint, name)
        if companion.optimizer is not None:
            tensors = dict(checkpoint.state.tensors[f"{name}_optimizer"])
            restore_optimizer(companion.module, companion.optimizer, tensors)
    restore_optimizer(model, optimizer, dict(checkpoint.state.tensors["optimizer"]))
    for name, state in checkpoint.state.tensors["rng"].items():
        if name == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available() and int(name.removeprefix("cuda-")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda-")))
    checkpoint.state.tensors.clear()
    return Progress(**checkpoint.state.meta["progress"])


def _parameters(companion: Companion) -> dict[str, nn.Parameter]:
    module = companion.module
    return dict(module.named_parameters()) if companion.optimizer is None else trained_parameters(module)


def _copy_into(parameters: Mapping[str, nn.Parameter], checkpoint: LoadedCheckpoint, file: str) -> None:
    stored = checkpoint.state.tensors.get(file, {})
    if stored.keys() != parameters.keys():
        odd = sorted(stored.keys() ^ parameters.keys())
        raise CheckpointError(f"{checkpoint.path} is of another model: {odd[0]!r} is in one of them only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if stored[name].shape != parameter.shape or stored[name].dtype != parameter.dtype:
                raise CheckpointError(f"{checkpoint.path} is of another model: {name!r} has another shape or dtype")
            parameter.copy_(stored[name])
