"""Features of a project's responses for active picking: hidden states of a model, reduced to a few numbers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from preftree.collect.read import read_items, read_responses
from preftree.collect.store import SqliteStore
from preftree.data.tokens.budgets import UNLIMITED
from preftree.data.tokens.encoder import make_encoder
from preftree.data.tokens.sampled_responses import encode_answers
from preftree.errors import DataError
from preftree.models.load import load_model, load_tokenizer
from preftree.runtime.machine import best_device
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.train.step_model import model_at
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import plan_step

BUDGET = 8192
"""Most tokens of a forward, unless one response has more."""


def add_features(
    store: SqliteStore, name: str, *, size: int, progress: Callable[[int], None] = lambda done: None
) -> tuple[int, float]:
    """Give every response of a project features, in place of earlier ones.

    Features are the mean of the model's last hidden states that predict the response's tokens, reduced by principal
    components over all responses.

    Args:
      store: The project.
      name: Model folder, run or hub id: the policy that the votes are to improve.
      size: Number of features, at most; fewer where there are fewer responses.
      progress: Called with the number of responses so far.
    Returns:
      Number of responses, and the share of the variance that their features hold.
    Raises:
      DataError: the project has fewer than two responses.
      ModelError: the model cannot be loaded.
    """
    responses, items = read_responses(store.reading), read_items(store.reading)
    if len(responses) < 2:
        raise DataError(f"{store.path} has {len(responses)} responses; sample some, or add some, before their features")
    folder = model_at(name)
    tokenizer = load_tokenizer(folder)
    scorer = Scorer(load_model(folder, device=best_device()))
    prompts = [items[response.item].prompt for response in responses.values()]
    texts = [response.text for response in responses.values()]
    shown, answers, _ = encode_answers(
        tokenizer, make_encoder(tokenizer), prompts, texts, budgets=UNLIMITED, truncation="drop"
    )
    sequences = [
        [TokenSequence(np.concatenate([ids, answer]), np.arange(len(ids) + len(answer)) >= len(ids))]
        for ids, answer in zip(shown, answers, strict=True)
    ]
    states = mean_states(scorer, sequences, [response.item for response in responses.values()], progress)
    features, kept = principal_components(states, size)

    def write(project: sqlite3.Connection) -> None:
        rows = zip(features.tolist(), responses, strict=True)
        project.executemany("UPDATE response SET features = ? WHERE id = ?", [(json.dumps(f), r) for f, r in rows])

    store.writer.submit(write).result()
    return len(responses), kept


def mean_states(
    scorer: Scorer,
    sequences: list[list[TokenSequence]],
    prompts: list[int],
    progress: Callable[[int], None] = lambda done: None,
) -> Float[np.ndarray, "N D"]:
    """Mean over each response of the last hidden states that predict its tokens; a prompt is computed once.

    Args:
      scorer: The model.
      sequences: One response each, [N][1].
      prompts: Number of each response's prompt, [N].
      progress: Called with the number of responses so far.
    """
    budget = max(BUDGET, *(len(sequence.ids) for (sequence,) in sequences))
    (plan,) = plan_step(sequences, prompts, budget=budget, sharing=scorer.sharing)
    means: dict[int, np.ndarray] = {}
    with torch.inference_mode(), evaluation_mode(scorer):
        for micro in plan:
            batch = micro.batch.to(scorer.device)
            states = scorer.hidden(batch).float().index_select(0, batch.prediction_I)
            parts = states.split(batch.count_R.tolist())
            means |= {index: part.mean(0).cpu().numpy() for index, part in zip(micro.examples, parts, strict=True)}
            progress(len(means))
    return np.stack([means[index] for index in range(len(sequences))])


def principal_components(states: Float[np.ndarray, "N D"], size: int) -> tuple[Float[np.ndarray, "N K"], float]:
    """Coordinates along the directions of most variance, the largest first, and the share of variance they hold."""
    centred = states.astype(np.float64) - states.mean(0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    number = min(size, int((values > 1e-9 * values[0]).sum()))
    total = float((values**2).sum())
    return left[:, :number] * values[:number], float((values[:number] ** 2).sum()) / total if total else 1.0
