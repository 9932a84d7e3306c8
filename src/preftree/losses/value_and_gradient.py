"""Value and gradient of a loss for given inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.losses.types import BoundLoss


class LossValue(NamedTuple):
    """A loss of some examples.

    Attributes:
      value: Loss of each example, [P]; carries the gradient of its inputs.
      gradient: Derivative of the sum of `value` by each input that can be differentiated, by name, in the input's type.
    """

    value: Float[Tensor, " P"]
    gradient: Mapping[str, Any]


def value_and_gradient(loss: BoundLoss, inputs: Mapping[str, Any]) -> LossValue:
    """Compute a loss and its derivative by every input except the reference.

    Args:
      loss: The loss with its options.
      inputs: Its inputs by name.
    """
    value = loss(**inputs)
    leaves = {name: _leaf(item) for name, item in inputs.items() if not name.startswith("ref")}
    with torch.enable_grad():
        total = loss(**(dict(inputs) | leaves)).sum()
    variables = [leaf for item in leaves.values() for leaf in _tensors(item) if leaf.requires_grad]
    slopes = iter(torch.autograd.grad(total, variables, materialize_grads=True) if total.requires_grad else ())
    gradient = {
        name: _replaced(item, slopes)
        for name, item in leaves.items()
        if total.requires_grad and any(leaf.requires_grad for leaf in _tensors(item))
    }
    return LossValue(value, gradient)


def _leaf(item: Any) -> Any:
    """A copy with gradients enabled on its floating-point tensors."""
    if isinstance(item, Tensor):
        return item.detach().clone().requires_grad_() if item.is_floating_point() else item
    return type(item)(*map(_leaf, item)) if isinstance(item, tuple) else item


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple):
        for part in item:
            yield from _tensors(part)


def _replaced(item: Any, slopes: Iterator[Tensor]) -> Any:
    """The item with each variable replaced by its slope."""
    if isinstance(item, Tensor):
        return next(slopes) if item.requires_grad else item
    return type(item)(*(_replaced(part, slopes) for part in item)) if isinstance(item, tuple) else item
