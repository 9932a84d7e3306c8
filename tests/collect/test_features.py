"""Features of responses: against the model's own forward, and as the picks read them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preftree.collect.features import add_features, principal_components
from preftree.collect.propose import open_queue
from preftree.collect.read import read_items, read_responses
from preftree.collect.store import SqliteStore
from preftree.errors import DataError
from support.scripted import new_project
from support.small_runs import make_model, make_pairs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "P.db"
    new_project(path, str(make_pairs(tmp_path / "pairs.jsonl", 12)), pick="d-optimal")
    return path


def plain_states(folder: Path, prompts: list[str], texts: list[str]) -> np.ndarray:
    """Mean of the last hidden states that predict each response, by transformers, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    means = []
    for prompt, text in zip(prompts, texts):
        start = tokenizer(prompt)["input_ids"]
        ids = [*start, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        means.append(states[len(start) - 1 : len(ids) - 1].mean(0).double().numpy())
    return np.stack(means)


def test_features_are_the_mean_states_of_the_models_own_forward(tmp_path: Path, project: Path) -> None:
    """Principal components keep distances where all of them are kept."""
    model = make_model(tmp_path / "model")
    store = SqliteStore(project)
    try:
        number, kept = add_features(store, str(model), size=1000)
        responses = list(read_responses(store.reading).values())
        items = read_items(store.reading)
    finally:
        store.close()
    assert number == len(responses) and kept == pytest.approx(1)
    prompts = [str(items[response.item].prompt) for response in responses]
    expected = plain_states(model, prompts, [response.text for response in responses])
    features = np.array([response.features for response in responses])
    for one, other in combinations(range(len(responses)), 2):
        distance = np.linalg.norm(expected[one] - expected[other])
        assert np.linalg.norm(features[one] - features[other]) == pytest.approx(distance, abs=1e-4)


def test_active_picks_read_them(tmp_path: Path, project: Path) -> None:
    store = SqliteStore(project)
    try:
        before = open_queue(store, 0.0)._propose()
        add_features(store, str(make_model(tmp_path / "model")), size=3)
        assert {len(response.features or ()) for response in read_responses(store.reading).values()} == {3}
        after = open_queue(store, 0.0)._propose()
    finally:
        store.close()
    assert sorted(pick.pair for pick in before) == sorted(pick.pair for pick in after)
    assert [pick.pair for pick in before] != [pick.pair for pick in after]


def test_components_are_those_of_the_covariance() -> None:
    states = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 0.5, 0.1, 0.01] + 7
    features, kept = principal_components(states, 2)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(states.T, bias=True)))[::-1]
    np.testing.assert_allclose(features.var(0), eigenvalues[:2], rtol=1e-9)
    assert kept == pytest.approx(eigenvalues[:2].sum() / eigenvalues.sum())
    same, all_of_nothing = principal_components(np.ones((3, 4)), 2)
    assert same.shape == (3, 0) and all_of_nothing == 1.0


def test_a_project_without_responses_is_refused(tmp_path: Path) -> None:
    from preftree.collect.fill import make_project
    from preftree.collect.records import Settings

    (tmp_path / "q.txt").write_text("one\ntwo\n")
    make_project(tmp_path / "P.db", Settings(), password_hash="-", prompts=str(tmp_path / "q.txt"))
    store = SqliteStore(tmp_path / "P.db")
    try:
        with pytest.raises(DataError, match="has 0 responses"):
            add_features(store, "unused", size=3)
    finally:
        store.close()
