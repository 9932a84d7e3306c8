"""Active picking for the queue: which pairs to show next, by features of their responses and the votes so far.

Responses have features where `Response.features` was given, a policy's hidden states reduced to a few numbers for
example; where a response has none, all are compared by the logarithm of their length alone.
"""

from __future__ import annotations

import json
import sqlite3
import time

import numpy as np
from jaxtyping import Float, Int

from preftree.collect.queue import Propose, Queue
from preftree.collect.read import read_settings
from preftree.collect.records import Picked
from preftree.collect.store import SqliteStore
from preftree.crowd.pick import fit_taste, pick_pairs

BATCH = 20
"""Pairs that are picked with what is known of people's taste at one moment."""

_PAIRS = """
SELECT p.id, a.features, b.features, length(a.text), length(b.text)
FROM pair p JOIN response a ON a.id = p.first JOIN response b ON b.id = p.second WHERE p.id > ? ORDER BY p.id
"""
_OPEN = "SELECT id FROM pair WHERE picked_by IS NULL AND gold IS NULL ORDER BY id"
_TOLD = """
SELECT s.pair, avg(CASE v.choice WHEN 'first' THEN 1.0 WHEN 'second' THEN 0.0 ELSE 0.5 END)
FROM vote v JOIN shown s ON s.id = v.shown
WHERE v.kind = 'vote' AND s.repeat_of IS NULL
  AND NOT EXISTS (SELECT 1 FROM vote w WHERE w.shown = v.shown AND w.turn = v.turn + 1)
GROUP BY s.pair ORDER BY s.pair
"""


def open_queue(store: SqliteStore, now: float | None = None) -> Queue:
    """The queue of a project, with the picks that it asks for."""
    propose = list if store.settings().pick == "random" else proposer(store.reading)
    return Queue(store, time.time() if now is None else now, propose)


def proposer(project: sqlite3.Connection) -> Propose:
    """A function that gives the queue its next pairs; a tenth of them are random, with their probability.

    The model of taste (`crowd/pick.py`) is fitted to the share of votes for the first response of each pair that has
    any, on features divided by their standard deviation.
    """
    pick, generator = read_settings(project).pick, np.random.default_rng(0)
    rows: list[tuple] = []

    def propose() -> list[Picked]:
        rows.extend(project.execute(_PAIRS, (rows[-1][0] if rows else 0,)).fetchall())
        ids, differences = np.array([row[0] for row in rows], np.int64), _differences(rows)
        shares = project.execute(_TOLD).fetchall()
        voted = _places(ids, [pair for pair, _ in shares])
        taste = fit_taste(differences[voted], np.array([share for _, share in shares], np.float64))
        left = _places(ids, [row[0] for row in project.execute(_OPEN)])
        picks = pick_pairs(differences[left], taste, pick, BATCH, generator)
        return [
            Picked(int(ids[left[place]]), "random" if at_random else "active", float(p), None)
            for place, at_random, p in zip(picks.candidate, picks.at_random, picks.p_pick, strict=True)
        ]

    return propose


def _places(ids: Int[np.ndarray, " N"], wanted: list[int]) -> Int[np.ndarray, " W"]:
    return np.searchsorted(ids, np.array(wanted, np.int64))


def _differences(rows: list[tuple]) -> Float[np.ndarray, "N D"]:
    """Features of the first response minus those of the second, on their scale."""
    sides = [[json.loads(row[place]) if row[place] else None for row in rows] for place in (1, 2)]
    sizes = {0 if side is None else len(side) for both in sides for side in both}
    if len(sizes) == 1 and sizes != {0}:
        first, second = (np.array(side, np.float64) for side in sides)
    else:
        first, second = (np.log1p([[row[place]] for row in rows]) for place in (3, 4))
    difference = first - second
    scale = difference.std(0)
    return difference / np.where(scale > 0, scale, 1)
