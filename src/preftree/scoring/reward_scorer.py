"""Scorer of rewards: packed trees in, one reward per response out.

Responses are laid out as data/store/end_marked.py marks them: each has one scored token, which its last token predicts.
All code that takes log-probs from a Scorer (steps, gradients, sums) therefore accepts rewards from this one, and a
prompt is computed once here too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.models.reward_model import reward_head
from preftree.scoring.head import HeadForm
from preftree.scoring.probe import OwnForward, same_hidden
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TreeBatch


class RewardScorer(Scorer):
    """Scorer of a reward model: the reward at each scored token; attributes as in Scorer."""

    def check_head(self) -> None:
        """Refuse a model without a head of one output.

        Raises:
          ModelError: the model has none.
        """
        reward_head(self.model)

    def _form(self, own: OwnForward) -> HeadForm | None:
        return HeadForm()

    def _agrees(self, own: OwnForward) -> bool:
        """Whether the hidden states are those of the model's own forward: a new head gives the same for all."""
        if own.hidden is None:
            return False
        batch = self.lay_out([own.sequences()])
        try:
            with torch.no_grad():
                ours = self.hidden(batch).index_select(0, batch.prediction_I)
        except Exception:  # a layer that takes no tree, or no padding
            return False
        first, second = own.hidden[:, own.shared - 1 : -1]
        return same_hidden(ours, torch.cat([first, second[:-3]]), self.model.dtype)

    def forward(self, batch: TreeBatch) -> Float[Tensor, " I"]:
        """Rewards at the scored tokens, response after response.

        Returns:
          fp32 (float64 for a float64 model), [I], in the order of `batch.prediction_I`; one a response where only its
          end is marked.
        Raises:
          ModelError: a sequence is longer than the model has positions for.
        """
        head = reward_head(self.model)
        if len(batch.source_S) == 0:
            self._check_depth(batch)
            # Part of the graph, so that every rank's backward visits every parameter.
            return head.weight.sum(dtype=self.dtype) * torch.zeros(0, dtype=self.dtype, device=self.device)
        rewards_S = self.hidden(batch).to(self.dtype) @ head.weight[0].to(self.dtype)
        if head.bias is not None:
            rewards_S = rewards_S + head.bias.to(self.dtype)
        return rewards_S.index_select(0, batch.prediction_I)
