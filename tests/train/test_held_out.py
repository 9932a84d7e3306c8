"""Held-out means come with intervals by prompt, in the rows of every supervised recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.store.example import NO_PROMPT
from preftree.stats.intervals import clustered_mean, clustered_share, wilson
from preftree.train.objective import bind_objective
from preftree.train.preference_task import PreferenceTask
from preftree.train.sft import DemonstrationTask

DIGESTS = np.array([7, 7, 7, 7, -3, -3, 9, 9, 9, 2, 2, 5])
RIGHT = np.array([1.0, 1, 0, 1, 1, 1, 0, 0, 0.5, 1, 1, 0])


class Rows:
    """Examples of which nothing is read but these columns."""

    def __init__(self, prompts: np.ndarray, weights: Any = None, scored: Any = None) -> None:
        self.prompts = prompts
        self.weights = np.ones(len(prompts)) if weights is None else weights
        self.num_scored = np.ones(len(prompts), np.int64) if scored is None else scored

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("no example is read")


def figures(name: str, store: Any, rows: np.ndarray, **columns: np.ndarray) -> dict[str, float]:
    config = check_config(DpoConfig, {"model": "m", "data": "d", "out": "o", "loss": {"name": name}})
    task = PreferenceTask(bind_objective(config)[1])
    given = {key: torch.from_numpy(column) for key, column in columns.items()}
    return task.figures(given, store, rows, held_out=True)


def test_pairs_of_one_prompt_are_no_independent_trials() -> None:
    rows = np.arange(1, 12)
    weights = np.linspace(1, 2, 12)
    found = figures("dpo", Rows(DIGESTS, weights), rows, accuracy=RIGHT[1:], loss=RIGHT[1:] + 1)
    wanted = clustered_share(RIGHT[1:], weights[1:], np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4]))
    assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == pytest.approx(wanted)
    of_loss = clustered_mean(RIGHT[1:] + 1, weights[1:], DIGESTS[1:])
    assert (found["loss"], found["loss_low"], found["loss_high"]) == pytest.approx(of_loss)


def test_pairs_without_a_prompt_are_trials_of_their_own() -> None:
    right = np.array([1.0] * 9 + [0.0] * 3)
    found = figures("dpo", Rows(np.full(12, NO_PROMPT)), np.arange(12), accuracy=right)
    assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == pytest.approx(wilson(9, 12))


def test_one_prompt_gives_a_share_no_interval_and_a_mean_none() -> None:
    found = figures("dpo", Rows(np.full(12, 4)), np.arange(12), accuracy=RIGHT, loss=RIGHT)
    assert (found["accuracy_low"], found["accuracy_high"]) == (0, 1)
    assert not {"loss_low", "loss_high"} & found.keys()


def test_a_loss_of_a_whole_step_is_no_mean_of_examples() -> None:
    found = figures("aot", Rows(DIGESTS), np.arange(12), accuracy=RIGHT, loss=RIGHT)
    assert "accuracy_low" in found and "loss_low" not in found


def test_the_loss_of_a_token_is_by_prompt() -> None:
    """Prompts of one response each: the jackknife of a ratio, by leaving out one after the other."""
    tokens, nats = np.array([4.0, 10, 6, 3]), np.array([2.0, 8, 9, 3])
    columns = {"loss": torch.from_numpy(nats), "response_tokens": torch.from_numpy(tokens)}
    store = Rows(np.arange(1, 5), scored=tokens.astype(np.int64))
    found = DemonstrationTask().figures(columns, store, np.arange(4), held_out=True)
    whole = nats.sum() / tokens.sum()
    without = [np.delete(nats, out).sum() / np.delete(tokens, out).sum() for out in range(4)]
    error = (((np.array(without) - whole) ** 2).sum() * 3 / 4) ** 0.5
    assert found["loss"] == pytest.approx(whole)
    degrees = tokens.sum() ** 2 / (tokens**2).sum() - 1
    assert (found["loss_high"] - found["loss_low"]) / 2 == pytest.approx(stats.t.ppf(0.975, degrees) * error)
    assert "loss_low" not in DemonstrationTask().figures(columns, store, np.arange(4))
