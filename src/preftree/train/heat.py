"""Which words of a few pairs earned their implicit rewards, kept with the run when it ends."""

from __future__ import annotations

from pathlib import Path

from preftree.config.schema import DpoConfig
from preftree.evaluate.measured import read_measured, write_measured
from preftree.evaluate.token_rewards import token_rewards
from preftree.reference.store import ReferenceTable
from preftree.train.rows import probe_rows
from preftree.train.run import Setup

PAIRS = 6
LONGEST = 400
"""Tokens of a pair that is shown: longer ones are no pleasure to read."""


def keep_token_rewards(setup: Setup[DpoConfig], table: ReferenceTable, beta: float) -> None:
    """Add the token rewards of a few held-out pairs (training pairs where none are) to RUN/measured.json."""
    part = setup.data.train if setup.data.held_out is None else setup.data.held_out
    rows = probe_rows(part, most=PAIRS, longest=LONGEST)
    examples = [part.store[row] for row in rows]
    found = token_rewards(setup.scorer, table, examples, beta=beta, tokenizer=setup.tokenizer)
    path = Path(setup.config.out) / "measured.json"
    write_measured(path, read_measured(path).model_copy(update={"token_rewards": tuple(found)}))
