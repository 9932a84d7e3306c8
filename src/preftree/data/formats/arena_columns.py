"""{"prompt": "[...]", "response_a": "[...]", "response_b": "[...]", "winner_model_a": 1, ...}: arena columns.

The chatbot arena as Kaggle published it: each text is a JSON list with an item for each turn, and one of
`winner_model_a`, `winner_model_b` and `winner_tie` is 1.
"""

from __future__ import annotations

import json
from typing import Any

from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, take, type_name
from preftree.data.rows.format import make_format
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

_TEXTS = ("prompt", "response_a", "response_b")
_WINS = ("winner_model_a", "winner_model_b")


def detect(row: Row) -> bool:
    """Whether there are two answers and a column for each of them to win."""
    return {*_TEXTS, *_WINS} <= row.keys()


def read(row: Row) -> Record:
    """One pair of conversations."""
    asked, *answered = (take(row, _turns, name) for name in _TEXTS)
    parts = parts_of(row, {"a_wins": _WINS[0], "b_wins": _WINS[1]})
    for target, name, answers in zip("ab", _TEXTS[1:], answered, strict=True):
        if len(answers) != len(asked):
            message = f"'{name}' has {len(answers)} turns for the {len(asked)} of 'prompt'"
            raise RowFault("bad_value", name, message)
        turns = [
            {"role": role, "content": text}
            for exchange in zip(asked, answers, strict=True)
            for role, text in zip(("user", "assistant"), exchange, strict=True)
        ]
        parts[target] = Given(name, turns)
    return assemble(parts, chat=True)


def _turns(value: Any, where: str) -> list[Any]:
    """The texts of a field, one for each turn."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    if not isinstance(value, list) or not value:
        raise RowFault("wrong_type", where, f"'{where}' must be a list of texts, got {type_name(value)}")
    return value


FORMAT = make_format(
    "arena_columns", "pair", "arena battles, a column for each winner", detect, read, (*_TEXTS, *_WINS, "winner_tie")
)
