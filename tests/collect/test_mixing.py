"""Who shares pairs with whom: annotators can be compared only through others who voted on the same pairs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from preftree.collect.schema import connect
from support.datafiles import write_rows
from support.scripted import new_project, vote_all, with_skill


def shared(project: Path) -> dict[frozenset[int], int]:
    """Number of pairs that each two annotators have voted on."""
    query = "SELECT s.pair, s.annotator FROM vote v JOIN shown s ON s.id = v.shown"
    by_pair: dict[int, set[int]] = {}
    for pair, annotator in connect(project, write=False).execute(query):
        by_pair.setdefault(pair, set()).add(annotator)
    counts: dict[frozenset[int], int] = {}
    for people in by_pair.values():
        for two in combinations(sorted(people), 2):
            counts[frozenset(two)] = counts.get(frozenset(two), 0) + 1
    return counts


def test_people_who_work_in_turn_share_pairs_with_everyone(tmp_path: Path) -> None:
    """Nine people, one vote each in turn: in threes that follow each other they would never meet the other six."""
    rows = [{"prompt": f"{i}?", "chosen": f"A {i}", "rejected": f"B {i}"} for i in range(90)]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "p.jsonl", rows), overlap=3, golds=0.0, repeats=0.0)
    knows = with_skill(lambda pair: True, 2.0)
    assert vote_all(tmp_path / "P.db", {f"person {number}": knows for number in range(9)}) == 270
    counts = shared(tmp_path / "P.db")
    assert len(counts) == 36 and max(counts.values()) < 25


def test_work_that_is_broken_off_leaves_few_pairs_half_done(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": f"A {i}", "rejected": f"B {i}"} for i in range(400)]
    new_project(tmp_path / "P.db", write_rows(tmp_path / "p.jsonl", rows), overlap=3, golds=0.0, repeats=0.0)
    knows = with_skill(lambda pair: True, 2.0)
    vote_all(tmp_path / "P.db", {f"person {number}": knows for number in range(9)}, most=200)
    query = "SELECT count(*) FROM pair WHERE votes BETWEEN 1 AND 2"
    assert connect(tmp_path / "P.db", write=False).execute(query).fetchone()[0] <= 25
