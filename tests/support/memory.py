"""What a forward keeps for the backward, counted and not timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What `forward` returns, and bytes of the floating-point tensors that its graph keeps beside the module's weights.

    Views of one piece of memory count once. A layer that is computed again keeps its inputs alone.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if tensor.is_floating_point() and place not in weights:
            kept[place] = tensor  # alive, so that nothing else gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
