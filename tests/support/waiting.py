"""What makes the host wait for the device, counted where there is no device: on the CPU all of it is called as well."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Calls from Python: their results are the host's.
READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
# Operators whose result's shape or value the host must know; also those that autograd calls.
OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts, by name, what would make the host wait while the context lasts."""
    found: Counter[str] = Counter()

    class Calls(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if name in READS:
                found[name] += 1
            if name == "to" and sys._getframe(1).f_globals["__name__"].startswith("preftree"):
                elsewhere = any(isinstance(each, (torch.device, str)) for each in (*args, *(kwargs or {}).values()))
                found["to"] += elsewhere and not (kwargs or {}).get("non_blocking", False)
            if function is torch.tensor:  # its copy to a device is a blocking one
                found["tensor"] += (kwargs or {}).get("device") is not None
            return function(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = operator.overloadpacket.__name__
            if name in OPERATORS:
                found[name] += 1
            indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
            found["mask as index"] += any(i is not None and i.dtype == torch.bool for i in indices)
            if name == "repeat_interleave":
                found[name] += (kwargs or {}).get("output_size") is None
            return operator(*args, **(kwargs or {}))

    with Calls(), Operators():
        yield found
