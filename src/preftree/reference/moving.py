"""A reference model that follows the policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from preftree.reference.protocol import LiveReference


@dataclass(frozen=True, eq=False, slots=True)
class MovingReference(LiveReference):
    """A model of the policy's kind that follows it: TR-DPO (Gorbatovski et al. 2024, arXiv:2404.09656).

    Attributes:
      model: The reference model.
      every: Optimiser steps from one update to the next.
      mixup: Share of the policy: model <- mixup * policy + (1 - mixup) * model; 1 is a copy.
    """

    model: nn.Module
    every: int
    mixup: float

    def follow(self, policy: nn.Module, step: int) -> None:
        """Update after step number `step` (from 1), if one is due."""
        if step % self.every:
            return
        with torch.no_grad():
            for value, new in zip(self.model.parameters(), policy.parameters(), strict=True):
                value.copy_(new if self.mixup == 1 else self.mixup * new + (1 - self.mixup) * value)
