"""Critic of PPO: expected return from the hidden state that predicts the next token.

Shape suffixes as in tree/layout.py. A value is computed at the source of a prediction: it is the value of the state
before the token, so all responses to a prompt share the value of the prompt.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftree.models.reward_model import reward_head
from preftree.scoring.head import head_parameters
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TreeBatch


class Critic(nn.Module):
    """One number for each prediction: a linear head on a trunk.

    Attributes:
      trunk: A separate language model, whose LM head is not used; None where the head reads the policy's hidden states.
      head: Linear layer from the hidden state to the value; initially 0, or the head of a reward model.
    """

    def __init__(self, policy: Scorer, *, shared: bool, start: RewardScorer | None = None) -> None:
        """A critic on the hidden states of the policy, of a copy of its current weights, or of a reward model.

        Args:
          policy: The policy.
          shared: Whether the trunk is the policy's.
          start: Reward model, which becomes the trunk; its head's weights are where the critic's start.
        """
        super().__init__()
        self.trunk = None if shared else start or _copied(policy)
        known = None if start is None else reward_head(start.model)
        width = head_parameters(policy.model)[0].shape[1] if known is None else known.in_features
        self.head = nn.Linear(width, 1, dtype=policy.dtype, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if known is not None:
            known.requires_grad_(False)
            with torch.no_grad():
                self.head.weight.copy_(known.weight)
                if known.bias is not None:
                    self.head.bias.copy_(known.bias)

    def forward(self, batch: TreeBatch, hidden_SD: Float[Tensor, "S D"]) -> Float[Tensor, " I"]:
        """Values of the states before the scored tokens, response after response and in token order, [I].

        Args:
          batch: The trees.
          hidden_SD: The policy's hidden states of the same batch, for a shared trunk.
        """
        if self.trunk is not None:
            hidden_SD = self.trunk.hidden(batch)
        values_S = self.head(hidden_SD.to(self.head.weight.dtype))[:, 0]
        return values_S.index_select(0, batch.prediction_I)


def _copied(policy: Scorer) -> Scorer:
    """A copy of the policy as a trunk: its LM head is frozen, unless it is the input embedding as well."""
    with torch.no_grad():
        model = copy.deepcopy(policy.model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for parameter in [] if head is None else head.parameters():
        if parameter is not getattr(embeddings, "weight", None):
            parameter.requires_grad_(False)
    return Scorer(model, precision=policy.precision)
