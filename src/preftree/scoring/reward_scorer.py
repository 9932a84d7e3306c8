"""A reward model as a scorer: packed trees in, one reward a response out.

Responses are laid out as data/store/end_marked.py marks them: each has one scored place, whose source is its last
token. So all that asks a Scorer for log-probs (steps, gradients, sums) gets rewards from this one, and a prompt
is computed once here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.errors import TrainingError
from preftree.models.reward_model import reward_head
from preftree.scoring.attention.tree import plain_attention
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import ABSOLUTE, ProbeReport
from preftree.tree.layout import TokenSequence, TreeBatch

RELATIVE = 1e-4
"""Of a reward's size: in fp32, trees and plain rows differ by 1e-6 of it; a mask or a place that is wrong by 0.1 up."""


class RewardScorer(Scorer):
    """Answers one question of a reward model: the reward at each scored place; attributes as of Scorer."""

    def check_head(self) -> None:
        """Refuse a model without a head of one output.

        Raises:
          ModelError: it has none.
        """
        reward_head(self.model)

    def forward(self, batch: TreeBatch) -> Float[Tensor, " I"]:
        """Rewards at the scored places, response after response.

        Returns:
          fp32 (float64 for a float64 model), [I], in the order of `batch.prediction_I`; one a response where its end
          alone is marked.
        Raises:
          ModelError: a sequence is longer than the model has positions for.
        """
        head = reward_head(self.model)
        if len(batch.source_S) == 0:
            self._check_depth(batch)
            # Still part of the graph, so that every rank's backward visits every parameter.
            return head.weight.sum(dtype=self.dtype) * torch.zeros(0, dtype=self.dtype, device=self.device)
        rewards_S = self.hidden(batch).to(self.dtype) @ head.weight[0].to(self.dtype)
        if head.bias is not None:
            rewards_S = rewards_S + head.bias.to(self.dtype)
        return rewards_S.index_select(0, batch.prediction_I)


def verify_rewards(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]]) -> ProbeReport:
    """The gate at every start: rewards on packed trees must be those of transformers' own forward on each text alone.

    A head of zeros, which would agree with anything, is random while it is looked at. No autocast, so that rounding
    cannot hide an error of the layout.

    Args:
      scorer: The reward model about to be trained.
      groups: A few prompts, each with its responses, their ends marked.
    Raises:
      TrainingError: they differ by more than rounding; both figures are in the message.
    """
    precision, scorer.precision = scorer.precision, "fp32"
    sequences = [sequence for group in groups for sequence in group]
    try:
        with torch.no_grad(), _head_that_shows(scorer):
            ours = scorer(scorer.lay_out(groups)).double()
            with plain_attention(scorer.model):
                plain = torch.stack([plain_reward(scorer, sequence) for sequence in sequences]).double()
    finally:
        scorer.precision = precision
    allowed = ABSOLUTE + RELATIVE * plain.abs()
    excess = (ours - plain).abs() / allowed
    worst = int(torch.where(excess.isnan(), torch.inf, excess).argmax())
    difference, tolerance = float((ours - plain).abs()[worst]), float(allowed[worst])
    if not difference <= tolerance:
        raise TrainingError(
            f"{type(scorer.model).__name__} gives a response the reward {float(ours[worst]):.6f} on a packed tree and "
            f"{float(plain[worst]):.6f} in its own forward (allowed difference {tolerance:.1e}); this architecture is "
            "not supported correctly, please report it"
        )
    return ProbeReport(len(sequences), difference, tolerance)


def plain_reward(scorer: Scorer, sequence: TokenSequence) -> Tensor:
    """The reward of a marked sequence by the model's own forward, in plain attention; no padding, so it is one row."""
    ids = torch.from_numpy(sequence.ids[:-1]).long().to(scorer.device)
    return scorer.model(input_ids=ids[None], use_cache=False).logits[0, 0]


@contextmanager
def _head_that_shows(scorer: Scorer) -> Iterator[None]:
    weight = reward_head(scorer.model).weight
    fresh = not bool(weight.any())
    if fresh:
        generator = torch.Generator().manual_seed(0)
        weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
    try:
        yield
    finally:
        if fresh:
            weight.zero_()
