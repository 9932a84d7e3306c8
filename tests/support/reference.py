"""A reference table for a scorer, built the way a run builds it."""

from __future__ import annotations

from pathlib import Path

from preftree.reference.build import build_reference
from preftree.reference.key import table_key, weights_digest_of_model
from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Scorer
from support.examples import ListStore


def reference_table(folder: Path, scorer: Scorer, store: ListStore, *, budget: int = 512) -> ReferenceTable:
    table = ReferenceTable.open(folder, table_key(weights_digest_of_model(scorer.model), scorer.numeric_mode))
    build_reference(table, scorer, [item.sequences for item in store.items], budget=budget)
    return table
