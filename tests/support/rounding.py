"""What packing may change: the rounding of matrix products, and on some CPUs not even that.

A product's row is a sum. In which order it is added up may depend on how many rows are computed together, and on where
among them the row lies: libraries have one kernel for whole tiles and others for what is left over. On some CPUs all of
them add in one order, and then a response has the same log-probs, to the last bit, in every packing. The product
promises that nowhere. What it promises everywhere: equal batches give equal bits, and other packings move rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

PER_TOKEN = 2e-5
"""Nats that packing may move a token's log-prob by, in fp32: several times what the models of these tests show.

A neighbour that is seen, or a position that is off by one, moves it by .01 and more.
"""


def assert_equal_but_rounding(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    """Token log-probs, nats, of the same responses in two packings."""
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=PER_TOKEN)


def rows_round_alone(model: nn.Module, *, least: int, most: int) -> bool:
    """Whether on this CPU a row of the model's products has the same bits whatever rows are computed beside it.

    Args:
      model: Its linear layers, the head among them, are the products that are looked at.
      least, most: Rows of the forwards that are to agree.
    """
    generator = torch.Generator().manual_seed(0)
    shapes: set[tuple[type, torch.Size]] = set()
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, nn.Linear | Conv1D) or (type(module), module.weight.shape) in shapes:
                continue
            shapes.add((type(module), module.weight.shape))
            width = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
            rows = torch.randn(most, width, generator=generator, dtype=module.weight.dtype)
            together = module(rows)
            for number in (*range(least, min(least + 64, most)), *range(least + 64, most, 7)):
                for start in {0, most - number}:
                    few = slice(start, start + number)
                    if not torch.equal(module(rows[few]), together[few]):
                        return False
    return bool(shapes)
