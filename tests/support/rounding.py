"""What packing may change: rounding, and on some CPUs for some models not even that.

A row of a matrix product is a sum. In which order it is added up may depend on how many rows are computed together, and
on where among them the row lies: libraries have one kernel for whole tiles and others for what is left over. An
activation function may be computed one way in whole vectors and another in the last few values. Where neither happens,
a response has the same log-probs, to the last bit, in every packing. The product promises that nowhere. What it
promises everywhere: equal batches give equal bits, and other packings move rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TreeBatch

PER_TOKEN = 2e-5
"""Nats that packing may move a token's log-prob by, in fp32: ten times and more what the models of these tests show.

A neighbour that is seen, or a position that is off by one, moves it by .01 and more.
"""


def assert_equal_but_rounding(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    """Token log-probs, nats, of the same responses in two packings."""
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=PER_TOKEN)


def rows_round_alone(scorer: Scorer, *batches: TreeBatch) -> bool:
    """Whether on this CPU each layer gives a row the same bits whatever rows are computed beside it.

    Args:
      scorer: Its innermost modules are looked at: products, norms, activations.
      *batches: The packings that are to agree; from the fewest rows in one of them to the most.
    """
    rows = [count for batch in batches for count in (len(batch.input_T), len(batch.target_S))]
    least, most = min(rows), max(rows)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module, shape in _layers(scorer, batches[0]):
            x = torch.randn(1, most, *shape, generator=generator)
            together = module(x)
            for number in (*range(least, min(least + 64, most)), *range(least + 64, most, 7)):
                for start in {0, most - number}:
                    few = slice(start, start + number)
                    if not torch.equal(module(x[:, few]), together[:, few]):
                        return False
    return True


def _layers(scorer: Scorer, batch: TreeBatch) -> list[tuple[nn.Module, torch.Size]]:
    """Modules from rows to rows, with the shape of a row; of equal ones the first."""
    found: dict[object, tuple[nn.Module, torch.Size]] = {}

    def look(module: nn.Module, taken: tuple[object, ...], more: dict[str, object]) -> None:
        rows = taken[0] if len(taken) == 1 and not more else None
        if isinstance(rows, Tensor) and rows.is_floating_point() and rows.shape[:2] == (1, len(batch.input_T)):
            shapes = tuple(parameter.shape for parameter in module.parameters())
            found.setdefault((type(module), shapes, rows.shape[2:]), (module, rows.shape[2:]))

    leaves = [module for module in scorer.modules() if not list(module.children())]
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in leaves]
    try:
        with torch.no_grad():
            scorer(batch)
    finally:
        for hook in hooks:
            hook.remove()
    head = scorer.model.get_output_embeddings()  # the scorer multiplies with its weight
    assert found and isinstance(head, nn.Linear)
    return [*found.values(), (head, torch.Size([head.in_features]))]
