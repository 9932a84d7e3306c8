"""{"prompt": "...", "chosen": ["...", ...], "rejected": ["...", ...]}: several good and several bad responses.

RewardBench 2. Each chosen response beats each rejected one; among themselves neither are compared.
"""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.fields import Row, items
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

_SIDES = (("chosen", 1.0), ("rejected", 0.0))


def detect(row: Row) -> bool:
    """Whether both sides are lists of texts."""
    sides = [row.get(name) for name, _ in _SIDES]
    return all(isinstance(side, list) and side and isinstance(side[0], str) for side in sides)


def read(row: Row) -> Record:
    """One ranking with the scores 1 and 0."""
    responses, scores = [], []
    for name, score in _SIDES:
        for index, response in enumerate(items(row.get(name), name)):
            responses.append(Given(f"{name}[{index}]", response))
            scores.append(score)
    parts = parts_of(row, {"prompt": "prompt"})
    return assemble(parts | {"responses": Given("rejected", responses), "scores": Given("rejected", scores)})


FORMAT = make_format(
    "chosen_lists", "list", "lists of chosen and rejected responses", detect, read, ("prompt", "chosen", "rejected")
)
