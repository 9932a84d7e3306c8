"""A reward model: preferences under a loss of rewards, each read at the last token of a response."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from preftree.config.reward import RewardConfig
from preftree.data.store.end_marked import EndStore
from preftree.data.store.store import Examples, TokenExample, TokenStore
from preftree.losses.reward_model import win_chance
from preftree.models.load import load_tokenizer
from preftree.models.reward_model import grow_reward_model, is_reward_model, load_reward_model, padding_of
from preftree.run_folder.measured import Reliability, read_measured, write_measured
from preftree.run_folder.writer import claim_folder, find_start
from preftree.runtime.ranks import Ranks, open_ranks
from preftree.scoring.pair_sums import response_values
from preftree.scoring.reward_scorer import RewardScorer, verify_rewards
from preftree.stats.calibration import Calibration, calibration
from preftree.train import open_run as run
from preftree.train.dataset import Data, Part
from preftree.train.loop import Outcome
from preftree.train.objective import Objective, bind_reward
from preftree.train.policy import Policy, digest_base
from preftree.train.preference import preference_task
from preftree.train.step.scores import Scores
from preftree.train.step.task import Task, Values
from preftree.tree.to_device import send

log = logging.getLogger("preftree")

LENGTHS = ("max_length", "max_prompt_length", "max_response_length", "truncation")
"""Options that say how a text was cut in training; they go with the model, so that it is shown such texts again."""

_RENAMED = {"best_logps": "best_rewards", "worst_logps": "worst_rewards"}
_KEPT = ("loss", "accuracy", "pair_accuracy", "margin", "chosen_rewards", "rejected_rewards", *_RENAMED, "grad_weight")


def reward_task(examples: Examples, objective: Objective, *, held_out: bool = False) -> Task:
    """Examples with marked ends under a loss of rewards.

    Figures of pairs come with `brier`, the mean of (1 - chance that the model gives to the label)^2, ties left out, and
    held out with `calibration_error`.

    Args:
      examples: Pairs, the chosen response first, or rankings; as data/store/end_marked.py marks them.
      objective: A loss of rewards.
      held_out: Whether the accuracy comes with a 95 % Wilson interval, and the figures with the calibration.
    """
    inner = preference_task(examples, objective, None, held_out=held_out)
    names = {name: _RENAMED.get(name, name) for name in inner.columns if name in _KEPT}
    pairs, ties = objective.unit == "pair", "ties" in objective.inputs

    def value(scores: Scores, some: Sequence[TokenExample]) -> Values:
        loss, columns = inner.value(scores, some)
        found: dict[str, Tensor] = {new: columns[name] for name, new in names.items()}
        if pairs:
            decided = send(np.array([not example.tie for example in some]), loss.device)
            found["brier"] = (1 - win_chance(objective.lead, columns["margin"])).square().where(decided, 0.0)
            found["decided"] = decided.to(loss.dtype)
        return Values(loss, found)

    def figures(columns: Mapping[str, Float[Tensor, " B"]], rows: Int[np.ndarray, " B"]) -> dict[str, float]:
        means = inner.figures(columns, rows)
        if not pairs:
            return means
        share = means.pop("decided")
        means["brier"] = means["brier"] / share if share else 0.0
        if ties:
            means["ties"] = 1 - share
        if held_out and share:
            means["calibration_error"] = _calibration(objective, columns, examples.weights[rows]).error
        return means

    columns = (*names.values(), *(("brier", "decided") if pairs else ()))
    return replace(inner, columns=columns, value=value, figures=figures)


def run_reward(config: RewardConfig) -> Outcome:
    """Everything `preftree reward` does, from its options to RUN/model.

    Raises:
      UserError: something outside the program is wrong; the sentence says what to do.
    """
    objective = bind_reward(config)
    with open_ranks() as ranks, claim_folder(config, ranks):
        setup = run.prepare(config, ranks, find_start(config, ranks), _load)
        model = setup.scorer.model
        padding = padding_of(model)
        if padding is not None:
            setup.tokenizer.pad_token_id = padding
        model.config.preftree_lengths = {name: getattr(config, name) for name in LENGTHS}
        setup = replace(setup, data=_marked(setup.data, padding))
        head = "of the model" if is_reward_model(config.model) else config.head
        path = run.trajectory(setup, {"recipe": config.recipe, **objective.identity, "head": head})
        done = run.admit(setup, path, verify_rewards)
        if done is not None:
            return done
        outcome = run.execute(setup, lambda store, held_out: reward_task(store, objective, held_out=held_out), path)
        if not outcome.signum and objective.unit == "pair" and ranks.leads:
            _keep_reliability(setup, objective)
        return outcome


def _load(config: RewardConfig, ranks: Ranks) -> Policy:
    """The reward model of a folder, or a language model with a new head."""
    if is_reward_model(config.model):
        model = load_reward_model(config.model, device=ranks.device)
    else:
        seed = config.seed if config.head == "random" else None
        model = grow_reward_model(config.model, load_tokenizer(config.model), seed=seed, device=ranks.device)
    scorer = RewardScorer(model, precision=config.precision)
    weights = digest_base(config.model, model, config)
    return Policy(scorer, weights, config.model, weights, lora=None, incoming=None, merged=False)


def _marked(data: Data, padding: int | None) -> Data:
    def marked(part: Part) -> Part:
        assert isinstance(part.store, TokenStore)
        return replace(part, store=EndStore(part.store, padding))

    return Data(marked(data.train), data.held_out and marked(data.held_out))


def _calibration(
    objective: Objective, columns: Mapping[str, Float[Tensor, " B"]], weights: Float[np.ndarray, " B"]
) -> Calibration:
    """Of the pairs that are no ties."""
    decided = columns["decided"].numpy() > 0
    chances = win_chance(objective.lead, columns["margin"]).numpy()
    return calibration(chances[decided], weights[decided])


def _keep_reliability(setup: run.Setup[RewardConfig], objective: Objective) -> None:
    """Add the reliability curve of the held-out pairs to RUN/measured.json."""
    part = setup.data.held_out
    if part is None:
        return
    rows = np.array([row for row in part.rows.tolist() if not part.store[row].tie], np.int64)
    if not len(rows):
        return
    sides = response_values(setup.scorer, part.store, rows, budget=setup.config.micro_batch_tokens)
    chances = win_chance(objective.lead, torch.from_numpy(sides[:, 0] - sides[:, 1])).numpy()
    found = calibration(chances, part.store.weights[rows])
    path = Path(setup.config.out) / "measured.json"
    write_measured(path, read_measured(path).model_copy(update={"reliability": tuple(map(Reliability.of, found.bins))}))
