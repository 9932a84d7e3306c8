"""Active picking in the queue: pairs by their features, a tenth at random, and every pair in the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from preftree.collect.propose import BATCH, proposer
from preftree.collect.records import Shown, Side
from preftree.collect.schema import connect
from preftree.collect.statistics import figures_of_project
from support.datafiles import write_rows
from support.scripted import new_project, vote_all

NUMBER = 150


def project(place: Path, pick: str, *, features: bool = True) -> Path:
    """Pairs whose first feature alone is liked; it is large in a fifth of them."""
    generator = np.random.default_rng(0)
    rows = [{"prompt": f"{i}?", "chosen": f"A {i}", "rejected": "B" * (i % 7 + 1)} for i in range(NUMBER)]
    new_project(place / "P.db", write_rows(place / "pairs.jsonl", rows), overlap=1, repeats=0.0, golds=0.0, pick=pick)
    connection = connect(place / "P.db", write=True)
    for (number,) in connection.execute("SELECT id FROM response ORDER BY id").fetchall() if features else ():
        values = generator.normal(size=3) * (3 if number % 10 < 2 else 0.3)
        connection.execute("UPDATE response SET features = ? WHERE id = ?", (json.dumps(list(values)), number))
    connection.close()
    return place / "P.db"


def differences(path: Path) -> dict[int, float]:
    query = """SELECT p.id, a.features, b.features FROM pair p JOIN response a ON a.id = p.first
        JOIN response b ON b.id = p.second"""
    rows = connect(path, write=False).execute(query)
    return {pair: json.loads(first)[0] - json.loads(second)[0] for pair, first, second in rows}


def likes(of: dict[int, float]):
    def decide(shown: Shown, generator: np.random.Generator) -> Side:
        first = generator.random() < expit(4 * of[shown.pair])
        return "left" if first == shown.first_is_left else "right"

    return decide


def order(path: Path) -> list[tuple[int, str, float]]:
    query = "SELECT id, picked_by, p_pick FROM pair WHERE picked_by IS NOT NULL ORDER BY picked_at"
    return connect(path, write=False).execute(query).fetchall()


@pytest.mark.parametrize("pick", ["gap", "near-tie", "d-optimal"])
def test_picks_follow_the_purpose_and_end_with_all(pick: str, tmp_path: Path) -> None:
    path = project(tmp_path, pick)
    size = differences(path)
    assert vote_all(path, {"Ann": likes(size)}) == NUMBER
    picked = order(path)
    assert len({pair for pair, _, _ in picked}) == NUMBER
    at_random = [by == "random" for _, by, _ in picked]
    assert 0.02 <= np.mean(at_random) <= 0.2
    assert all(0 < p <= 1 for _, _, p in picked)
    assert all(p > 0.9 for _, by, p in picked if by == "active")
    assert min(p for _, by, p in picked if by == "random") < 0.1
    early, late = (np.mean([abs(size[pair]) for pair, _, _ in part]) for part in (picked[BATCH:60], picked[90:]))
    assert early < late if pick == "near-tie" else early > 1.5 * late
    figures = figures_of_project(connect(path, write=False))
    assert figures.alpha_random is not None


def test_without_features_lengths_are_compared(tmp_path: Path) -> None:
    path = project(tmp_path, "d-optimal", features=False)
    picks = proposer(connect(path, write=False))()
    active = [pick.pair for pick in picks if pick.by == "active"]
    assert len(picks) == BATCH and len(active) > 10
    ratio = [abs(np.log1p(len(f"A {pair - 1}")) - np.log1p((pair - 1) % 7 + 1)) for pair in range(1, NUMBER + 1)]
    assert ratio[active[0] - 1] == pytest.approx(max(ratio))
