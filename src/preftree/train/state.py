"""State of a run as tensors and plain JSON, and its restoration."""

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
    """Progress of a run; the step is its position in the data and in the schedule.

    Attributes:
      step: Updates so far.
      examples: Examples trained on.
      tokens: Tokens computed in training.
      tokens_alone: Tokens that would have been computed with each response in a separate row, without padding.
      seconds: Time spent in training steps, including those before a resumption.
      rows: Rows of metrics.jsonl.
      rows_sha256: Their digest in hex; empty in checkpoints of earlier versions.
      state: Running state of the loss, by name.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    tokens_alone: int = 0
    seconds: float = 0.0
    rows: int = 0
    rows_sha256: str = ""
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
    """The state from which a run resumes.

    Args:
      model: The policy.
      optimizer: Its optimiser.
      progress: Progress of the run.
      about: Description of the run as plain JSON.
      companions: Modules that change beside the policy, by the name of their file.
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
    """Refuse to write weights from which no run can continue.

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
    """Restore model, optimiser, companions and random number generators from a checkpoint.

    The checkpoint's tensors are released, since the run needs the memory.

    Raises:
      CheckpointError: the checkpoint is of another model.
    """
    copy_weights(model, checkpoint)
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


def copy_weights(model: nn.Module, checkpoint: LoadedCheckpoint) -> None:
    """Copy the trained weights of a checkpoint or a snapshot into a model.

    Raises:
      CheckpointError: they are of another model.
    """
    _copy_into(trained_parameters(model), checkpoint, "model")


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
