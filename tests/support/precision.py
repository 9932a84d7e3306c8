"""Float64 all the way: transformers computes norms, rotary angles and softmax in fp32 whatever the weights are."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class TrulyFloat64(TorchFunctionMode):
    """While active, every request for fp32 is answered in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)
