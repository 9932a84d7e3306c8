"""Rewards of many responses at once, by name: of a world, a function, a reward model, or a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from preftree.data.rows.conversion import plain_text
from preftree.judges.functions import load_reward
from preftree.judges.llm.bill import Asking
from preftree.judges.llm.specs import find_llm
from preftree.judges.reward_model import find_reward_model, open_reward_model
from preftree.records import Text

Rewards: TypeAlias = Callable[[Sequence[Text], Sequence[str]], Float[np.ndarray, " N"]]
"""(prompts, responses) -> rewards; prompts as their file has them, responses as text without special tokens."""


def load_rewards(
    spec: str,
    *,
    device: torch.device | str | None = None,
    how: Asking | None = None,
    in_groups: bool = False,
) -> Rewards:
    """Rewards by name: of a world or a function, as `load_reward` takes them, or of a model.

    `rm:PATH` or the path of a reward model's folder or run is its rewards, `rm:PATH:LABEL` a classifier's probability
    of a label. A function of the user gets a conversation as a list of role and content. A language model with a
    pointwise rubric (judges/llm/specs.py) is shown its canaries first, and gives nan where its answer cannot be read.

    Args:
      spec: Name of the reward.
      device: Device of a reward model; by default the first GPU, or the CPU.
      how: Limit of the cost, progress and bill of a language model.
      in_groups: Whether all responses to a prompt come in one call and next to each other, which a ranking
        rubric needs.
    Raises:
      ConfigError: there is no such world, file, module, function or folder, or a rubric does not score.
      JudgeError: a language model fails its canaries.
      ModelError: the folder holds no reward model.
    """
    model = find_reward_model(spec)
    if model is not None:
        return open_reward_model(model, device=device)
    found = find_llm(spec, "pointwise")
    if found is not None:
        from preftree.judges.llm.rewards import rewards_of_model

        return rewards_of_model(spec, found, how or Asking(), in_groups=in_groups)
    reward = load_reward(spec)

    def of_each(prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        pairs = zip(prompts, responses, strict=True)
        return np.array([reward(plain_text(prompt), response) for prompt, response in pairs], np.float64)

    return of_each
