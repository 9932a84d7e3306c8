"""Sums of the responses of stored pairs: log-probs or rewards, depending on the scorer."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from preftree.data.store.example import Examples
from preftree.losses.quantities import sum_responses
from preftree.scoring.scorer import Scorer
from preftree.tree.pack import plan_step

BLOCK = 512
"""Number of pairs that are read at once."""


def response_values(
    scorer: Scorer, examples: Examples, rows: Int[np.ndarray, " N"], *, budget: int
) -> Float[np.ndarray, "N 2"]:
    """Sums over the scored tokens of both responses of pairs, computed by this process alone.

    Args:
      scorer: Scorer of log-probs, nats; or of rewards, for responses with marked ends.
      examples: Pairs, the chosen response first.
      rows: Indices of the pairs to score.
      budget: Most tokens of a forward, unless one pair alone has more.
    """
    values = np.zeros((len(rows), 2))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        pairs = [examples[int(row)].sequences for row in block]
        room = max(budget, *(2 * len(sequence.ids) for pair in pairs for sequence in pair))
        prompts = examples.prompts[block].tolist()
        (plan,) = plan_step(pairs, prompts, budget=room, sharing=scorer.sharing)
        for micro in plan:
            with torch.no_grad():
                batch = micro.batch.to(scorer.device)
                sums = sum_responses(scorer(batch), batch.count_R).values
            values[start + np.array(micro.examples)] = sums.view(-1, 2).cpu().numpy()
    return values
