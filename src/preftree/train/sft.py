"""Recipe of supervised fine-tuning: the mean negative log-likelihood of the tokens of demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.config.sft import SftConfig
from preftree.data.store.example import Examples, TokenExample
from preftree.losses.mean import weighted_means
from preftree.losses.sft import sft
from preftree.reference.protocol import NoReference
from preftree.train.loop import Measure, Outcome, train
from preftree.train.open_run import admit, open_run
from preftree.train.run_examples import open_examples, trajectory_of
from preftree.train.step.held_out import clusters_of, interval_ends
from preftree.train.step.scores import Scores
from preftree.train.step.supervised import SupervisedSteps


class DemonstrationTask:
    """Demonstrations under `sft`; a step's loss is divided by its scored tokens, each times its example's weight."""

    unit = "examples"
    columns = ("loss", "response_tokens")
    scope: Literal["example", "step"] = "example"
    state: Mapping[str, float] = {}
    extras: Mapping[str, bool] = {}
    reference = NoReference()

    def loss(self, scores: Scores, examples: Sequence[TokenExample]) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Negative log-likelihood of each response, and its length."""
        policy = scores.responses()
        loss = sft(policy.values)
        return loss, {"loss": loss, "response_tokens": policy.num_tokens}

    def advance(self, scores: Scores, examples: Sequence[TokenExample]) -> Mapping[str, float]:
        """No state."""
        return {}

    def divisor(self, examples: Examples, rows: Int[np.ndarray, " B"]) -> float:
        """Weighted number of scored tokens."""
        return float((examples.weights[rows] * examples.num_scored[rows]).sum())

    def figures(
        self,
        columns: Mapping[str, Float[Tensor, " B"]],
        examples: Examples,
        rows: Int[np.ndarray, " B"],
        *,
        held_out: bool = False,
    ) -> dict[str, float]:
        """Loss per token, held out with its 95 % interval by prompt, and tokens per response."""
        weights = torch.from_numpy(examples.weights[rows])
        loss = weighted_means({"loss": columns["loss"]}, weights, self.divisor(examples, rows))
        lengths = {"response_tokens": columns["response_tokens"]}
        if held_out:  # the loss of a token: that of its response, which counts as often as it has tokens
            tokens = examples.num_scored[rows].astype(np.float64)
            per_token = {"loss": columns["loss"] / torch.from_numpy(tokens)}
            loss |= interval_ends(per_token, examples.weights[rows] * tokens, clusters_of(examples, rows))
        return loss | weighted_means(lengths, weights, float(examples.weights[rows].sum()))


def run_sft(config: SftConfig, measure: Measure | None = None) -> Outcome:
    """Train as `preftree sft`, from the options to RUN/model.

    Args:
      config: The options.
      measure: As of `train`.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy.
    """
    with open_run(config) as run:
        data = open_examples(run)
        trajectory = trajectory_of(run, data)
        if finished := admit(run, data, trajectory):
            return Outcome(finished)
        return train(run, SupervisedSteps(run, data, DemonstrationTask()), trajectory, measure, reference="none")
