"""Formats that are nothing but a mapping of columns: two answers and a verdict, or other names of the same fields."""

from __future__ import annotations

from preftree.data.rows.assemble import assemble
from preftree.data.rows.columns import Columns, parse_columns
from preftree.data.rows.fields import Row
from preftree.data.rows.format import Format, make_format
from preftree.data.rows.parts import parts_of
from preftree.records import Record


class _Reader:
    """The record of a row under a mapping."""

    def __init__(self, columns: Columns, chat: bool) -> None:
        self.columns, self.chat = columns, chat

    def __call__(self, row: Row) -> Record:
        return assemble(parts_of(row, {}) | self.columns.parts(row), chat=self.chat)


class _Has:
    """Whether a row has all these fields, whatever they hold."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields

    def __call__(self, row: Row) -> bool:
        return all(field in row for field in self.fields)


def _mapped(name: str, title: str, columns: str, needs: tuple[str, ...], *, chat: bool) -> Format:
    mapping = parse_columns(columns)
    return make_format(name, mapping.kind, title, _Has(needs), _Reader(mapping, chat), mapping.fields)


FORMATS = (
    # Stack Exchange paired (lvwerra): j is the answer with more votes.
    _mapped(
        "stack_exchange",
        "Stack Exchange answers in pairs",
        "prompt=question,chosen=response_j,rejected=response_k",
        ("question", "response_j", "response_k"),
        chat=False,
    ),
    # LMSYS chatbot arena.
    _mapped(
        "arena",
        "arena battles",
        "a=conversation_a,b=conversation_b,winner=winner",
        ("conversation_a", "conversation_b", "winner"),
        chat=True,
    ),
    # PKU-SafeRLHF; its safer_response_id is another label, which --columns winner=safer_response_id:0|1 reads.
    _mapped(
        "saferlhf",
        "PKU-SafeRLHF, by the better response",
        "prompt=prompt,a=response_0,b=response_1,winner=better_response_id:0|1",
        ("prompt", "response_0", "response_1", "better_response_id"),
        chat=False,
    ),
    # NVIDIA HelpSteer3: below 0 the first is better, 0 is a tie.
    _mapped(
        "helpsteer3",
        "HelpSteer3 preferences",
        "messages=context,a=response1,b=response2,winner=overall_preference:<0|>0|0,strength=overall_preference",
        ("context", "response1", "response2", "overall_preference"),
        chat=True,
    ),
    # HelpSteer2 preference.
    _mapped(
        "helpsteer2_pair",
        "HelpSteer2 preferences",
        "prompt=prompt,a=response_1,b=response_2,winner=preference_strength:<0|>0|0,strength=preference_strength",
        ("prompt", "response_1", "response_2", "preference_strength"),
        chat=False,
    ),
    # Label Studio, JSON-MIN and full export of its pairwise template.
    _mapped(
        "label_studio_min",
        "Label Studio pairwise, JSON-MIN",
        "prompt=prompt,a=answer1,b=answer2,winner=comparison.selected:left|right",
        ("prompt", "answer1", "answer2", "comparison"),
        chat=False,
    ),
    _mapped(
        "label_studio",
        "Label Studio pairwise",
        "prompt=data.prompt,a=data.answer1,b=data.answer2,winner=annotations.*.result.0.value.selected:left|right",
        ("data", "annotations"),
        chat=False,
    ),
)
