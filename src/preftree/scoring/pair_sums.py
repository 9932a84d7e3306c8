"""One figure for each response of stored pairs: log-probs, or rewards, whichever the scorer gives."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from preftree.data.store.store import Examples
from preftree.scoring.scorer import Scorer
from preftree.tree.pack import plan_step
from preftree.tree.sums import sum_responses

BLOCK = 512
"""Pairs that are read at a time."""


def response_values(
    scorer: Scorer, examples: Examples, rows: Int[np.ndarray, " N"], *, budget: int
) -> Float[np.ndarray, "N 2"]:
    """What a model says of both responses of pairs, summed over their scored tokens; by this process alone.

    Args:
      scorer: Gives log-probs, nats; or rewards of responses whose ends are marked.
      examples: Pairs, the chosen response first.
      rows: Which of them.
      budget: Most tokens of a forward; more where a pair alone has more.
    """
    values = np.zeros((len(rows), 2))
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        pairs = [examples[int(row)].sequences for row in some]
        room = max(budget, *(2 * len(sequence.ids) for pair in pairs for sequence in pair))
        prompts = examples.prompts[some].tolist()
        (plan,) = plan_step(pairs, prompts, budget=room, share=scorer.shares_prefixes)
        for micro in plan:
            with torch.no_grad():
                batch = micro.batch.to(scorer.device)
                sums = sum_responses(scorer(batch), batch.count_R).logps
            values[start + np.array(micro.examples)] = sums.view(-1, 2).cpu().numpy()
    return values
