"""Asynchronous transfer from host to device."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


def send(values: Shaped[np.ndarray, ...] | Tensor, device: torch.device | str) -> Tensor:
    """The same values on `device`.

    A copy from pageable memory, or a blocking one, makes the host wait until the device has finished all earlier work.
    Pinned memory returns to the allocator only after the copy.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
