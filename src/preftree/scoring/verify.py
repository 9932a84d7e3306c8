"""The gate at every start: the tree path must agree with the model's own plain forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preftree.errors import TrainingError
from preftree.scoring.attention.tree import plain_attention
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from preftree.tree.sums import sum_responses

ABSOLUTE = 1e-3
PER_TOKEN = 5e-5
"""Nats. In fp32, trees and plain rows differ by 1e-6 to 1e-5 a token; an ignored window, sink or scale by 0.1 up."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the gate saw: the largest difference of summed log-probs and what was allowed there, in nats."""

    num_responses: int
    difference: float
    tolerance: float


def verify_scorer(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]]) -> ProbeReport:
    """Score a few prompts with their responses on packed trees, and each sequence alone as transformers does it.

    Both run in the weights' own precision (no autocast), so that rounding cannot hide an error of the layout.

    Args:
      scorer: The model about to be trained.
      groups: A few prompts, each with its responses.
    Raises:
      TrainingError: they differ by more than rounding; both figures are in the message.
    """
    precision = scorer.precision
    scorer.precision = "fp32"
    try:
        with torch.no_grad():
            batch = scorer.lay_out(groups)
            ours = sum_responses(scorer(batch), batch.count_R)
            with plain_attention(scorer.model):
                sequences = [sequence for group in groups for sequence in group]
                plain = torch.stack([_plain(scorer, sequence) for sequence in sequences])
    finally:
        scorer.precision = precision
    excess = (ours.logps - plain).abs() / (ABSOLUTE + PER_TOKEN * ours.num_tokens)
    # nan compares false with everything: look for what is not fine.
    worst = int(torch.where(excess.isnan(), torch.inf, excess).argmax())
    difference = float((ours.logps[worst] - plain[worst]).abs())
    tolerance = ABSOLUTE + PER_TOKEN * int(ours.num_tokens[worst])
    if not difference <= tolerance:
        raise TrainingError(
            f"{type(scorer.model).__name__} scores a response of {int(ours.num_tokens[worst])} tokens as "
            f"{float(ours.logps[worst]):.6f} nats on a packed tree and as {float(plain[worst]):.6f} in its own forward "
            f"(allowed difference {tolerance:.1e}); this architecture is not supported correctly, please report it"
        )
    return ProbeReport(len(sequences), difference, tolerance)


def _plain(scorer: Scorer, sequence: TokenSequence) -> Tensor:
    ids = torch.from_numpy(sequence.trimmed().ids).long().to(scorer.device)
    scored = torch.from_numpy(sequence.trimmed().scored[1:]).to(scorer.device)
    logits = scorer.model(input_ids=ids[None], use_cache=False).logits[0, :-1]
    logps = logits.to(scorer.dtype).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return logps[scored].double().sum()
