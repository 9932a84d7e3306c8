"""Scripted annotators who work through a project's queue and store, as the page's server does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit

from preftree.collect.fill import make_project
from preftree.collect.propose import open_queue
from preftree.collect.records import Settings, Shown, Side, Vote
from preftree.collect.schema import connect
from preftree.collect.store import SqliteStore

Decide: TypeAlias = Callable[[Shown, np.random.Generator], Side]
"""What an annotator presses for what is shown."""


def new_project(path: Path, pairs: str, *, gold_file: str | None = None, **settings: Any) -> None:
    """A project of a file of pairs, with a secret that makes the same draws each time."""
    make_project(path, Settings(**settings), password_hash="-", pairs=pairs, golds=gold_file)
    project = connect(path, write=True)
    project.execute("UPDATE setting SET value = ? WHERE name = 'secret'", (json.dumps("07" * 32),))
    project.close()


def vote_all(path: Path, people: dict[str, Decide], *, seed: int = 0, ms: int = 4000, most: int = 10**9) -> int:
    """Everybody votes in turn until nothing is left; the number of votes, repeats included."""
    generator = np.random.default_rng(seed)
    store = SqliteStore(path)
    try:
        queue, now = open_queue(store, 1000.0), 1000.0
        numbers = {name: store.join(name).id for name in people}
        busy, count = list(people), 0
        while busy and count < most:
            name = busy[count % len(busy)]
            shown, picked = queue.next(numbers[name], 1, now)
            store.show(shown, picked).result()
            if not shown:
                busy.remove(name)
                continue
            side = people[name](shown[0], generator)
            spent = int(ms * generator.uniform(0.5, 1.5))
            vote = Vote(shown[0].id, 0, "vote", shown[0].choice_of(side), None, spent, now)
            (kept,) = store.vote([vote]).result()
            queue.acted(shown[0], kept.row.kind, kept.row.turn, kept.before)
            now, count = now + 1, count + 1
        return count
    finally:
        store.close()


def with_skill(better_is_first: Callable[[int], bool], skill: float, side_bias: float = 0.0) -> Decide:
    """Someone who knows the better response of a pair with some skill and leans to a side, in logits."""

    def decide(shown: Shown, generator: np.random.Generator) -> Side:
        z = 1 if better_is_first(shown.pair) else -1
        s = 1 if shown.first_is_left else -1
        first = generator.random() < expit(skill * z + side_bias * s)
        return "left" if first == shown.first_is_left else "right"

    return decide
