"""A reference that follows the policy: TR-DPO (Gorbatovski et al. 2024, arXiv:2404.09656)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, eq=False, slots=True)
class Follower:
    """A model that takes in a share of the policy now and then.

    Attributes:
      model: The reference; of the policy's kind.
      every: Optimiser steps from one update to the next.
      mixup: Share of the policy: model <- mixup * policy + (1 - mixup) * model; 1 is a copy.
    """

    model: nn.Module
    every: int
    mixup: float

    def follow(self, policy: nn.Module, step: int) -> bool:
        """Update after step number `step` (from 1), if one is due; whether it was."""
        if step % self.every:
            return False
        with torch.no_grad():
            for own, other in zip(self.model.parameters(), policy.parameters(), strict=True):
                own.copy_(other if self.mixup == 1 else self.mixup * other + (1 - self.mixup) * own)
        return True
