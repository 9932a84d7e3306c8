"""{"history": "...", "human_ref_A": "...", "human_ref_B": "...", "labels": 1, ...}: Stanford Human Preferences.

`labels` is 1 where A is preferred. The post is the user's turn, a comment the assistant's. The margin is the logarithm
of `score_ratio`, the ratio of votes, so that equally popular comments are 0 apart.
"""

from __future__ import annotations

import math

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, flag, optional_number, preference, response_text, take, text
from preftree.data.rows.format import make_format
from preftree.records import Message, Preference


def detect(row: Row) -> bool:
    """Whether there are two comments."""
    return {"history", "human_ref_A", "human_ref_B"} <= row.keys()


def read(row: Row) -> Preference:
    """One pair; the scores must agree with the label."""
    prompt = (Message("user", take(row, text, "history")),)
    sides = []
    for name in ("human_ref_A", "human_ref_B"):
        sides.append((name, (Message("assistant", take(row, response_text, name)),)))
    first = take(row, flag, "labels")
    votes = optional_number(row, "score_A"), optional_number(row, "score_B")
    if votes[0] is not None and votes[1] is not None and (votes[0] < votes[1] if first else votes[0] > votes[1]):
        raise RowFault("bad_value", "labels", "'labels' prefers the comment with fewer votes")
    ratio = optional_number(row, "score_ratio")
    if ratio is not None and ratio < 1:
        raise RowFault("bad_value", "score_ratio", f"'score_ratio' must be at least 1, got {ratio:g}")
    chosen, rejected = sides if first else reversed(sides)
    margin = None if ratio is None else math.log(ratio)
    return preference({"weight": row.get("weight"), "margin": margin}, prompt, chosen, rejected)


FORMAT = make_format(
    "shp",
    "pair",
    "Stanford Human Preferences",
    detect,
    read,
    ("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "score_ratio"),
    beside=("weight",),
)
