"""Optimisers, the learning rate of a step, and the state of an optimiser as plain tensors."""

from __future__ import annotations

import importlib.util
import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, RMSprop

from preftree.config.base import Optimisation
from preftree.errors import CheckpointError, ConfigError

_PARTS = ("codes", "scale", "qmap")
"""Parts of a moment in 8 bits: a byte for each value, the scale of each block, and the table of values."""


def build_optimizer(model: nn.Module, options: Optimisation) -> Optimizer:
    """The configured optimiser over the model's trainable parameters, with PyTorch's default constants.

    `adamw` is fused and `rmsprop` foreach. `adamw_8bit` is torchao's: a byte for each value of both moments, and an
    fp32 scale for each block of 256 (Dettmers et al. 2022, arXiv:2110.02861); tensors of fewer than 4,096 values, or of
    no whole number of blocks, keep their moments in fp32.

    Weight decay reaches parameters of two or more dimensions; biases and norm gains are left out of it.

    Raises:
      ConfigError: the optimiser's library is not installed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match options.optimizer:
        case "adamw":
            return AdamW(groups, lr=options.lr, fused=True)
        case "rmsprop":
            return RMSprop(groups, lr=options.lr, foreach=True)
        case "adamw_8bit":
            check_optimizer(options)
            from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]  # an extra

            return AdamW8bit(groups, lr=options.lr)


def check_optimizer(options: Optimisation) -> None:
    """Check that the optimiser can be built.

    Raises:
      ConfigError: its library is not installed.
    """
    if options.optimizer == "adamw_8bit" and importlib.util.find_spec("torchao") is None:
        raise ConfigError("optimizer=adamw_8bit needs torchao, which is not installed; pip install 'preftree[quant]'")


def warmup_length(options: Optimisation, num_steps: int) -> int:
    """Steps of warm-up in a run of `num_steps`: the configured number, or share of the run."""
    if isinstance(options.warmup_steps, float):
        return math.floor(options.warmup_steps * num_steps)
    return options.warmup_steps


def learning_rate(step: int, options: Optimisation, num_steps: int) -> float:
    """Learning rate of update number `step` (from 0): a pure function, so a resumed run cannot differ.

    During a warm-up of W steps it is lr (s+1)/(W+1), or lr s/W from zero. After it, it is constant, or falls to 0 at
    `num_steps`, along a line or half a cosine.
    """
    warmup = warmup_length(options, num_steps)
    if step < warmup and options.warmup_from_zero:
        return options.lr * step / warmup
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
        if isinstance(group["lr"], Tensor):  # torchao's, which compiles one update for all rates
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `parameter name/quantity`, without copies.

    What is stored in 8 bits appears as its parts, `parameter name/quantity.codes` and so on.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for quantity, value in optimizer.state.get(parameter, {}).items():
            assert isinstance(value, Tensor), f"{quantity} of {name} is no tensor"
            if type(value) is Tensor:
                tensors[f"{name}/{quantity}"] = value
            else:
                tensors |= {f"{name}/{quantity}.{part}": getattr(value, part) for part in _PARTS}
    return tensors


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put a state written by `optimizer_tensors` into a fresh optimiser.

    Raises:
      CheckpointError: the state names a parameter that the model does not have, or has another shape.
    """
    parameters = dict(model.named_parameters())
    parts: dict[tuple[nn.Parameter, str], dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        quantity, _, part = quantity.partition(".")
        parameter = parameters.get(name)
        is_value = part in ("", "codes")
        if parameter is None or (is_value and value.ndim and value.shape != parameter.shape):
            raise CheckpointError(f"the checkpoint's optimiser state {key!r} fits no parameter of this model")
        if part:
            parts.setdefault((parameter, quantity), {})[part] = value.to(parameter.device, copy=True)
            continue
        # PyTorch places the step counter where the optimiser needs it: on the CPU unless fused on a device.
        device = parameter.device if value.ndim or isinstance(optimizer, AdamW) else torch.device("cpu")
        optimizer.state[parameter][quantity] = value.to(device, copy=True)
    for (parameter, quantity), stored in parts.items():
        from torchao.optim.subclass_8bit import OptimState8bit  # pyright: ignore[reportMissingImports]  # an extra

        codes, scale, table = (stored[part] for part in _PARTS)
        signed = bool((table < 0).any())
        optimizer.state[parameter][quantity] = OptimState8bit(codes, scale, table, signed, dtype=parameter.dtype)
