"""{"prompt", "chosen", "rejected", "tie", "win_prob", "weight", "votes", ...}: rows of `preftree collect export`.

A pair as people voted on it: win_prob and weight are what training uses, and the votes stand beside them. The texts are
plain, or a prompt of messages and a message for each side.
"""

from __future__ import annotations

from typing import Any

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, type_name
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import parts_of
from preftree.records import Record

_NAMES = ("prompt", "chosen", "rejected")
_CHOICES = ("chosen", "rejected", "tie", "bad")
_ABOUT = ("votes", "flagged", "slice", "alpha_slice", "source", "pair")


def detect(row: Row) -> bool:
    """Whether people's votes stand beside two sides."""
    votes = row.get("votes")
    if not isinstance(votes, list) or not all(isinstance(vote, dict) and "by" in vote for vote in votes):
        return False
    return bool(row.get("prompt")) and row.keys() >= {*_NAMES, "win_prob"}


def read(row: Row) -> Record:
    """One pair; its votes are looked at, and change nothing."""
    for place, vote in enumerate(_votes(row)):
        if vote["choice"] not in _CHOICES:
            message = f"'votes.{place}.choice' must be one of {', '.join(_CHOICES)}, got {vote['choice']!r}"
            raise RowFault("bad_value", f"votes.{place}.choice", message)
    chat = not isinstance(row["prompt"], str)
    return assemble(parts_of(row, {name: name for name in _NAMES}), chat=chat)


def _votes(row: Row) -> list[dict[str, Any]]:
    votes = row.get("votes")
    if not isinstance(votes, list) or not all(isinstance(vote, dict) and "choice" in vote for vote in votes):
        raise RowFault("wrong_type", "votes", f"'votes' must be a list of votes, got {type_name(votes)}")
    return votes


FORMAT = make_format("collected", "pair", "pairs with people's votes", detect, read, (*_NAMES, *_ABOUT))
