"""Supervised fine-tuning: demonstrations, and the mean negative log-likelihood of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.data.store import TokenExample
from preftree.losses.likelihood import sft
from preftree.losses.mean import weigh
from preftree.train.step import Examples, Task, Values
from preftree.tree.segment import ResponseLogps


def demonstration_task(examples: Examples) -> Task:
    """Demonstrations under `sft`; the loss of a step is divided by its scored tokens, each times its example's weight."""

    def value(policy: ResponseLogps, some: Sequence[TokenExample]) -> Values:
        loss = sft(policy.logps)
        return Values(loss, {"loss": loss, "response_tokens": policy.num_tokens})

    def divisor(rows: Int[np.ndarray, " B"]) -> float:
        return float((examples.weights[rows] * examples.num_scored[rows]).sum())

    def figures(columns: Mapping[str, Float[Tensor, " B"]], rows: Int[np.ndarray, " B"]) -> dict[str, float]:
        weights = torch.from_numpy(examples.weights[rows])
        per_token = weigh({"loss": columns["loss"]}, weights).mean(divisor(rows))
        lengths = weigh({"response_tokens": columns["response_tokens"]}, weights)
        return per_token | lengths.mean(float(examples.weights[rows].sum()))

    return Task("examples", examples, ("loss", "response_tokens"), value, divisor, figures)
