"""Supervised fine-tuning: demonstrations, and the mean negative log-likelihood of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.config.sft import SftConfig
from preftree.data.store.store import Examples, TokenExample
from preftree.losses.mean import weigh
from preftree.losses.sft import sft
from preftree.run_folder.writer import claim_folder, find_start
from preftree.runtime.ranks import open_ranks
from preftree.train import open_run as run
from preftree.train.loop import Outcome
from preftree.train.step.scores import Scores
from preftree.train.step.task import Task, Values


def demonstration_task(examples: Examples) -> Task:
    """Demonstrations under `sft`; a step's loss is divided by its scored tokens, each times its example's weight."""

    def value(scores: Scores, some: Sequence[TokenExample]) -> Values:
        policy = scores.responses()
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


def run_sft(config: SftConfig) -> Outcome:
    """Everything `preftree sft` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    with open_ranks() as ranks, claim_folder(config, ranks):
        setup = run.prepare(config, ranks, find_start(config, ranks))
        path = run.trajectory(setup, {"recipe": "sft"})
        return run.admit(setup, path) or run.execute(setup, lambda store, _: demonstration_task(store), path)
