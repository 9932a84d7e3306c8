"""The digest of a CPU's rounding: the same in every process, another where a last bit is another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from preftree.runtime import cpu_rounding
from preftree.runtime.cpu_rounding import rounding_digest


def test_it_is_the_same_in_every_process() -> None:
    code = (
        "import torch; torch.set_num_threads(1); from preftree.runtime.cpu_rounding import rounding_digest; "
        "print(rounding_digest(1, bf16=False), rounding_digest(1, bf16=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split() == [rounding_digest(1, bf16=False), rounding_digest(1, bf16=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_last_bit_of_a_product_makes_another(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    before = rounding_digest(1, bf16=True)

    def otherwise(x: Tensor, weight: Tensor) -> Tensor:
        product = torch.nn.functional.linear(x, weight)
        if dtype == x.dtype and len(x) == 3:
            product[1, 1] = product[1, 1] * (1 + torch.finfo(dtype).eps)
        return product

    monkeypatch.setattr(cpu_rounding, "linear", otherwise)
    assert rounding_digest.__wrapped__(1, bf16=True) != before
