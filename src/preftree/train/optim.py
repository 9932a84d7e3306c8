"""From a gradient to an update: the optimisers, the learning rate of a step, and their state as plain tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, RMSprop

from preftree.config.schema import Optimisation
from preftree.errors import CheckpointError


def build_optimizer(model: nn.Module, options: Optimisation) -> Optimizer:
    """AdamW (fused) or RMSprop (foreach) over the model's trainable parameters, with PyTorch's own constants.

    Weight decay reaches parameters of two or more dimensions; biases and norm gains are left out of it.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return AdamW(groups, lr=options.lr, fused=True)
    return RMSprop(groups, lr=options.lr, foreach=True)


def warmup_length(options: Optimisation, num_steps: int) -> int:
    """Steps of warm-up in a run of `num_steps`: the count that was asked for, or that share of the run."""
    if isinstance(options.warmup_steps, float):
        return math.floor(options.warmup_steps * num_steps)
    return options.warmup_steps


def learning_rate(step: int, options: Optimisation, num_steps: int) -> float:
    """Learning rate of the update number `step` (from 0): a pure function, so a resumed run cannot drift.

    During a warm-up of W steps it is lr (s+1)/(W+1). From then on it is constant, or falls to 0 at `num_steps`, along a
    line or half a cosine.
    """
    warmup = warmup_length(options, num_steps)
    if step < warmup:
        return options.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, num_steps - warmup)
    match options.schedule:
        case "constant":
            return options.lr
        case "linear":
            return options.lr * (1 - done)
        case "cosine":
            return options.lr * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Use `lr` for the next update of every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `parameter name/quantity`, without copies."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for quantity, value in optimizer.state.get(parameter, {}).items():
            assert isinstance(value, Tensor), f"{quantity} of {name} is no tensor"
            tensors[f"{name}/{quantity}"] = value
    return tensors


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put a state written by `optimizer_tensors` into a fresh optimiser.

    Raises:
      CheckpointError: the state speaks of a parameter that the model does not have, or of another shape.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise CheckpointError(f"the checkpoint's optimiser state {key!r} fits no parameter of this model")
        # PyTorch keeps the step counter where the optimiser wants it: on the CPU unless fused on a device.
        device = parameter.device if value.ndim or isinstance(optimizer, AdamW) else torch.device("cpu")
        optimizer.state[parameter][quantity] = value.to(device, copy=True)
