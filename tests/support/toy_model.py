"""A causal language model of one attention layer in float64, small enough to be scored prefix by prefix."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyModel(nn.Module):
    """Logits from ids, positions and a table of who sees whom: nothing is implied, so anything can be got wrong."""

    def __init__(self, seed: int, vocabulary: int = 11, width: int = 6):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.tokens, self.places = weight(vocabulary, width), weight(32, width)
        self.query, self.key, self.value = weight(width, width), weight(width, width), weight(width, width)
        self.head = weight(width, vocabulary)
        self.dropout = nn.Dropout(0.0)

    def forward(self, ids: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Logits, [T, V], from ids [T], positions [T] and visible [T, T] (query, key)."""
        x = self.tokens[ids] + self.places[positions]
        scores = (x @ self.query) @ (x @ self.key).T
        x = x + scores.masked_fill(~visible, -torch.inf).softmax(-1) @ (x @ self.value)
        return self.dropout(x) @ self.head

    def causal(self, ids: Tensor) -> Tensor:
        """Logits of one plain sequence."""
        length = len(ids)
        return self(ids, torch.arange(length), torch.ones(length, length, dtype=torch.bool).tril())


def response_logp(model: ToyModel, prompt: list[int], response: list[int]) -> Tensor:
    """log pi(response | prompt), by definition: one forward per token, on what stands before it and nothing else."""
    total = torch.zeros((), dtype=torch.float64)
    for index, token in enumerate(response):
        before = torch.tensor(prompt + response[:index])
        total = total + model.causal(before)[-1].log_softmax(-1)[token]
    return total
