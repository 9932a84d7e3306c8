"""DPO and its family: pairs, a loss from the table, and a reference that is a table of log-probs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store import TokenExample
from preftree.losses.mean import weigh
from preftree.losses.metrics import pair_metrics
from preftree.losses.pairs import pair_up
from preftree.losses.table import BoundLoss
from preftree.reference.store import ReferenceTable
from preftree.train.step import Examples, Task, Values
from preftree.tree.segment import ResponseLogps, sum_responses

COLUMNS = (
    "loss",
    "accuracy",
    "margin",
    "chosen_rewards",
    "rejected_rewards",
    "chosen_logps",
    "rejected_logps",
    "chosen_logratio",
    "rejected_logratio",
    "grad_weight",
    "chosen_tokens",
    "rejected_tokens",
)


def pair_task(examples: Examples, loss: BoundLoss, table: ReferenceTable) -> Task:
    """Pairs under a loss, against the reference log-probs of a table; nothing here can compute one."""

    def value(policy: ResponseLogps, some: Sequence[TokenExample]) -> Values:
        sequences = [sequence for example in some for sequence in example.sequences]
        # Summed by the same function, in the same order and on the same device as the policy's.
        tokens = torch.from_numpy(table.gather(sequences)).to(policy.logps.device)
        ref = sum_responses(tokens, policy.num_tokens)
        chosen = torch.arange(0, len(sequences), 2, device=policy.logps.device)
        given = {
            "policy": pair_up(policy.logps, policy.num_tokens, chosen, chosen + 1),
            "ref": pair_up(ref.logps, ref.num_tokens, chosen, chosen + 1),
        }
        return Values(loss(**{name: given[name] for name in loss.inputs}), pair_metrics(loss, **given))

    def divisor(rows: Int[np.ndarray, " B"]) -> float:
        return float(examples.weights[rows].sum())

    def figures(columns: Mapping[str, Float[Tensor, " B"]], rows: Int[np.ndarray, " B"]) -> dict[str, float]:
        return weigh(columns, torch.from_numpy(examples.weights[rows])).mean(divisor(rows))

    return Task("pairs", examples, COLUMNS, value, divisor, figures)
