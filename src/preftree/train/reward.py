"""Recipe of reward models: preferences under a loss of rewards, each read at the last token of a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.config.read_with import require_read
from preftree.config.reward import RewardConfig
from preftree.data.store.end_marked import EndMarkedStore
from preftree.data.store.example import Examples, TokenExample
from preftree.data.store.token_store import TokenStore
from preftree.losses.reward_model import win_chance
from preftree.models.load import load_tokenizer
from preftree.models.reward_model import grow_reward_model, is_reward_model, load_reward_model, padding_of
from preftree.runtime.ranks import Ranks
from preftree.scoring.pair_sums import response_values
from preftree.scoring.reward_scorer import RewardScorer
from preftree.scoring.verify import verify_rewards
from preftree.stats.calibration import Calibration, calibration
from preftree.train.dataset import Subset
from preftree.train.loop import Measure, Outcome, train
from preftree.train.objective import Objective, bind_reward
from preftree.train.open_run import OpenRun, admit, open_run
from preftree.train.policy import Policy, digest_base
from preftree.train.preference_task import PreferenceTask
from preftree.train.run_examples import RunExamples, open_examples, trajectory_of
from preftree.train.step.scores import Scores
from preftree.train.step.supervised import SupervisedSteps
from preftree.tree.to_device import send

LENGTHS = ("max_length", "max_prompt_length", "max_response_length", "truncation")
"""Options of trimming in training; stored with the model, so that its later inputs are trimmed in the same way."""


class RewardTask:
    """Pairs (the chosen response first) or rankings, with marked ends, under a loss of rewards.

    Figures of pairs come with `brier`, the mean of (1 - the model's probability of the label)^2 without ties, and held
    out with `calibration_error`.
    """

    def __init__(self, objective: Objective) -> None:
        """Task of a loss of rewards."""
        self.objective = objective
        self.preferences = PreferenceTask(objective)
        self.unit, self.state, self.extras = self.preferences.unit, self.preferences.state, self.preferences.extras
        self.scope: Literal["example", "step"] = self.preferences.scope
        self.reference = self.preferences.reference
        self._is_of_pairs = objective.kind == "pair"
        self.columns = (*objective.columns, *(("brier", "decided") if self._is_of_pairs else ()))

    def loss(self, scores: Scores, examples: Sequence[TokenExample]) -> tuple[Float[Tensor, " P"], dict[str, Tensor]]:
        """Loss of each example, and its metrics."""
        loss, columns = self.preferences.loss(scores, examples)
        if self._is_of_pairs:
            decided = send(np.array([not example.tie for example in examples]), loss.device)
            columns["brier"] = (1 - win_chance(self.objective.lead, columns["margin"])).square().where(decided, 0.0)
            columns["decided"] = decided.to(loss.dtype)
        return loss, columns

    def advance(self, scores: Scores, examples: Sequence[TokenExample]) -> Mapping[str, float]:
        """The running state after a step."""
        return self.preferences.advance(scores, examples)

    def divisor(self, examples: Examples, rows: Int[np.ndarray, " B"]) -> float:
        """Sum of the examples' weights."""
        return self.preferences.divisor(examples, rows)

    def figures(
        self,
        columns: Mapping[str, Float[Tensor, " B"]],
        examples: Examples,
        rows: Int[np.ndarray, " B"],
        *,
        held_out: bool = False,
    ) -> dict[str, float]:
        """Weighted means; held out, with 95 % intervals by prompt and the calibration."""
        means = self.preferences.figures(columns, examples, rows, held_out=held_out)
        if not self._is_of_pairs:
            return means
        share = means.pop("decided")
        means["brier"] = means["brier"] / share if share else 0.0
        if "ties" in self.objective.inputs:
            means["ties"] = 1 - share
        if held_out and share:
            decided = columns["decided"].numpy() > 0  # a tie has no label to predict
            chances = win_chance(self.objective.lead, columns["margin"]).numpy()
            means["calibration_error"] = calibration(chances[decided], examples.weights[rows][decided]).error
        return means


def run_reward(config: RewardConfig, measure: Measure | None = None) -> Outcome:
    """Train as `preftree reward`, from the options to RUN/model.

    Args:
      config: The options.
      measure: As of `train`.
    Raises:
      UserError: a mistake or a failure outside the program; the message names the remedy.
    """
    objective = bind_reward(config)
    own_head = is_reward_model(config.model)
    words = f"a language model, and {config.model} is a reward model with a head of its own"
    require_read("head", config.head != "random", not own_head, words)
    with open_run(config, load_reward_policy) as run:
        data = _with_marked_ends(run, open_examples(run, objective))
        head = "of the model" if own_head else config.head
        trajectory = trajectory_of(run, data, **objective.identity, head=head)
        if finished := admit(run, data, trajectory, verify_rewards):
            return Outcome(finished)
        steps = SupervisedSteps(run, data, RewardTask(objective))
        return train(run, steps, trajectory, measure, reference="none")


def load_reward_policy(config: RewardConfig, ranks: Ranks) -> Policy:
    """The reward model of a folder, or a language model with a new head."""
    if is_reward_model(config.model):
        model = load_reward_model(config.model, device=ranks.device)
    else:
        seed = config.seed if config.head == "random" else None
        model = grow_reward_model(config.model, load_tokenizer(config.model), seed=seed, device=ranks.device)
    model.config.preftree_lengths = {name: getattr(config, name) for name in LENGTHS}
    scorer = RewardScorer(model, precision=config.precision)
    weights = digest_base(config.model, model, config)
    return Policy(scorer, weights, config.model, weights, lora=None, incoming=None, merged=False)


def _with_marked_ends(run: OpenRun[RewardConfig], data: RunExamples) -> RunExamples:
    """The examples as a reward model reads them: one scored position per response, at its end."""
    padding = padding_of(run.scorer.model)
    if padding is not None:
        run.tokenizer.pad_token_id = padding

    def marked(part: Subset) -> Subset:
        assert isinstance(part.store, TokenStore)
        return replace(part, store=EndMarkedStore(part.store, padding))

    return replace(data, train=marked(data.train), held_out=data.held_out and marked(data.held_out))


def reliability_of(steps: SupervisedSteps, task: RewardTask) -> Calibration | None:
    """Calibration of the model over its held-out pairs, ties left out; None where there are none."""
    part = steps.data.held_out
    rows = [] if part is None else [row for row in part.rows.tolist() if not part.store[row].tie]
    if part is None or not rows:
        return None
    index = np.array(rows, np.int64)
    sides = response_values(steps.run.scorer, part.store, index, budget=steps.run.config.micro_batch_tokens)
    chances = win_chance(task.objective.lead, torch.from_numpy(sides[:, 0] - sides[:, 1])).numpy()
    return calibration(chances, part.store.weights[index])
