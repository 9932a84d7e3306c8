"""Rewards of many responses at once, by name: of a world, of the user's function, or of a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from preftree.data.rows.conversion import plain_text
from preftree.judges.functions import load_reward
from preftree.judges.reward_model import find_reward_model, open_reward_model
from preftree.records import Text

Rewards: TypeAlias = Callable[[Sequence[Text], Sequence[str]], Float[np.ndarray, " N"]]
"""(prompts, responses) -> rewards; prompts as their file has them, responses as text without special tokens."""


def load_rewards(spec: str, *, device: torch.device | str | None = None) -> Rewards:
    """Rewards by name: of a world or a function, as `load_reward` takes them, or of a model.

    `rm:PATH` or the path of a reward model's folder or run is its rewards, `rm:PATH:LABEL` a classifier's probability
    of a label. A function of the user gets a conversation as a list of role and content.

    Args:
      spec: Name of the reward.
      device: Device of a reward model; by default the first GPU, or the CPU.
    Raises:
      ConfigError: there is no such world, file, module, function or folder.
      ModelError: the folder holds no reward model.
    """
    model = find_reward_model(spec)
    if model is not None:
        return open_reward_model(model, device=device)
    reward = load_reward(spec)

    def of_each(prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        pairs = zip(prompts, responses, strict=True)
        return np.array([reward(plain_text(prompt), response) for prompt, response in pairs], np.float64)

    return of_each
