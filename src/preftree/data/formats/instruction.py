"""{"instruction": "...", "input": "...", "output": "..."}: Alpaca, with `system` and `history` where there are some.

The input follows the instruction after a line break; `history` is a list of earlier [question, answer] pairs. With
`rejected` beside `chosen` or `output` a row is a pair, with `label` or `kto_tag` a labelled response. ms-swift's
`query` and `response`, Dolly's `context` and `response`, and axolotl's `chosen_response` are the same; so is a labelled
answer to a `question`.
"""

from __future__ import annotations

from preftree.data.formats.messages import CONVERSATIONS, LABELS
from preftree.data.rows.assemble import assemble
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row, take, text, type_name
from preftree.data.rows.format import first_of, has, has_any, make_format, names_any
from preftree.data.rows.parts import Given, parts_of
from preftree.records import Record

_QUESTIONS = ("instruction", "query")
_INPUTS = ("input", "context")
_ANSWERS = ("output", "response", "completion", "answer")
_CHOSEN = ("chosen", "chosen_response", *_ANSWERS)
_REJECTED = ("rejected", "rejected_response")
_FIELDS = (*_QUESTIONS, "question", *_INPUTS, *_CHOSEN, *_REJECTED, *LABELS, "history")


def detect_demonstration(row: Row) -> bool:
    """Whether there is an instruction with its answer alone."""
    return _is_instruction(row, *_QUESTIONS) and has_any(row, *_ANSWERS) and not names_any(row, *_REJECTED, *LABELS)


def detect_pair(row: Row) -> bool:
    """Whether there is an instruction with a rejected answer."""
    return _is_instruction(row, *_QUESTIONS) and has_any(row, *_REJECTED) and has_any(row, *_CHOSEN)


def detect_label(row: Row) -> bool:
    """Whether there is an instruction or a question with an answer that was liked or not."""
    answered = has_any(row, *_ANSWERS) and not names_any(row, *_REJECTED)
    return _is_instruction(row, *_QUESTIONS, "question") and answered and has_any(row, *LABELS)


def read(row: Row) -> Record:
    """One conversation of the instruction and its answer or answers."""
    if names_any(row, *_REJECTED):
        names = {"chosen": first_of(row, _CHOSEN), "rejected": first_of(row, _REJECTED)}
    else:
        names = {"response": first_of(row, _ANSWERS)}
        names |= {"label": first_of(row, LABELS)} if names_any(row, *LABELS) else {}
    field = first_of(row, (*_QUESTIONS, "question"))
    question = take(row, text, field)
    more = first_of(row, _INPUTS)
    if has(row, more):
        question += f"\n{text(row[more], more)}"
    turns = [*_history(row.get("history")), {"role": "user", "content": question}]
    return assemble(parts_of(row, names) | {"prompt": Given(field, turns)}, chat=True)


def _is_instruction(row: Row, *questions: str) -> bool:
    asked = any(isinstance(row.get(name), str) for name in questions)
    return asked and not names_any(row, "prompt", "completions", "responses", *CONVERSATIONS)


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
