"""Digest of this CPU's rounding, for keys of numbers that depend on it."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

_SHAPES = ((3, 64, 48), (16, 64, 101), (61, 512, 96), (40, 4096, 64))
"""Rows, inputs and outputs of products. Libraries have separate kernels for few rows, for rows beyond the last whole
tile, and for sums that do not fit a cache."""


@functools.lru_cache
def rounding_digest(num_threads: int, *, bf16: bool) -> str:
    """16 hex digits, equal where products, attention and softmax of the same numbers have the same bits.

    Two CPUs with the same vector instructions may add in different orders: with another manufacturer, other tile or
    cache sizes, or other settings of the matrix library. The digest takes some milliseconds, once per process.

    Args:
      num_threads: Threads of PyTorch; the digest is cached for this number.
      bf16: Whether products of bfloat16 are included.
    """
    numbers = np.random.default_rng(0)  # uniform numbers have the same bits everywhere, normal ones may not

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(numbers.random(shape, np.float32) - 0.5).clone()

    total = hashlib.sha256()
    dtypes = (torch.float32, torch.float64, *((torch.bfloat16,) if bf16 else ()))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        for rows, inputs, outputs in _SHAPES:
            x, weight = draw(rows, inputs), draw(outputs, inputs)
            for dtype in dtypes:
                product = linear(x.to(dtype), weight.to(dtype))
                total.update(product.view(torch.uint8).numpy().tobytes())
                total.update(product.double().log_softmax(-1).numpy().tobytes())
        query, key, value = draw(1, 2, 33, 16), draw(1, 2, 33, 16), draw(1, 2, 33, 16)
        total.update(scaled_dot_product_attention(query, key, value, is_causal=True).numpy().tobytes())
    return total.hexdigest()[:16]
