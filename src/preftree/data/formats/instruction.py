"""{"instruction": "...", "input": "...", "output": "..."}: Alpaca, with `system` and `history` where there are some.

The input follows the instruction after a line break; `history` is a list of earlier [question, answer] pairs. With
`rejected` beside `chosen` or `output` a row is a pair, with `label` or `kto_tag` a labelled response. ms-swift's
`query` and `response`, Dolly's `context` and `response`, and axolotl's `chosen_response` are the same.
"""

from __future__ import annotations

from preftree.data.formats.messages import LABELS
from preftree.data.rows.assemble import Given, assemble, parts_of
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, text, type_name
from preftree.data.rows.format import has, has_any, make_format
from preftree.records import Record

_QUESTIONS = ("instruction", "query")
_INPUTS = ("input", "context")
_ANSWERS = ("output", "response", "completion", "answer")
_CHOSEN = ("chosen", "chosen_response", *_ANSWERS)
_REJECTED = ("rejected", "rejected_response")
_FIELDS = (*_QUESTIONS, *_INPUTS, *_CHOSEN, *_REJECTED, *LABELS, "history", "text")


def detect_demonstration(row: Row) -> bool:
    """Whether there is an instruction with its answer alone."""
    return _is_instruction(row) and has_any(row, *_ANSWERS) and not has_any(row, *_REJECTED) and not _is_labelled(row)


def detect_pair(row: Row) -> bool:
    """Whether there is an instruction with a rejected answer."""
    return _is_instruction(row) and has_any(row, *_REJECTED) and has_any(row, *_CHOSEN)


def detect_label(row: Row) -> bool:
    """Whether there is an instruction with an answer that was liked or not."""
    return _is_instruction(row) and has_any(row, *_ANSWERS) and not has_any(row, *_REJECTED) and _is_labelled(row)


def read(row: Row) -> Record:
    """One conversation of the instruction and its answer or answers."""
    names = {}
    if has_any(row, *_REJECTED):
        names = {"chosen": _first(row, _CHOSEN), "rejected": _first(row, _REJECTED)}
    else:
        names = {"response": _first(row, _ANSWERS)}
        if _is_labelled(row):
            names["label"] = next(name for name in LABELS if row.get(name) is not None)
    field = _first(row, _QUESTIONS)
    question = text(row.get(field), field)
    more = _first(row, _INPUTS)
    if has(row, more):
        question += f"\n{text(row[more], more)}"
    turns = [*_history(row.get("history")), {"role": "user", "content": question}]
    return assemble(parts_of(row, names) | {"prompt": Given(field, turns)}, chat=True)


def _is_instruction(row: Row) -> bool:
    question = any(isinstance(row.get(name), str) for name in _QUESTIONS)
    return question and not has_any(row, "completions", "responses", "messages", "conversations")


def _is_labelled(row: Row) -> bool:
    return any(row.get(name) is not None for name in LABELS)


def _first(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if has(row, name)), names[0])


def _history(value: object) -> list[Row]:
    """Earlier turns as messages."""
    if value in (None, "", []):
        return []
    if not isinstance(value, list):
        raise RowFault("wrong_type", "history", f"'history' must be a list of pairs, got {type_name(value)}")
    turns = []
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowFault("wrong_type", f"history[{index}]", f"'history[{index}]' must be a question and its answer")
        turns += [{"role": role, "content": item} for role, item in zip(("user", "assistant"), pair, strict=True)]
    return turns


FORMATS = (
    make_format("instruction", "demonstration", "instructions and answers", detect_demonstration, read, _FIELDS),
    make_format("instruction_pair", "pair", "instructions with a rejected answer", detect_pair, read, _FIELDS),
    make_format("instruction_label", "response", "instructions, answers liked or not", detect_label, read, _FIELDS),
)
