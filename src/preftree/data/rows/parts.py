"""The named parts of a row: what its fields are, whatever their names.

Targets are prompt, system, messages, chosen, rejected, response, label, responses, scores, ranks, tools,
chat_template_kwargs, weight, and the figures of records.FIGURES; of two answers a and b also winner (with strength), or
a_wins and b_wins, or score_a and score_b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.records import Kind, figures_of

TEXTS = ("prompt", "messages", "chosen", "rejected", "a", "b", "response")
FIGURE_FIELDS = dict.fromkeys(
    field for kind in get_args(Kind) for figure in figures_of(kind) for field in figure.fields(kind)
).keys()
"""Fields of the figures; a column of each name may be mapped."""

TARGETS = (*TEXTS, "system", "winner", "label", "responses", "ranks", "tools", "chat_template_kwargs", "weight", "tie")
TARGETS += ("strength", "a_wins", "b_wins", "score_a", "score_b")
TARGETS += tuple(field for field in FIGURE_FIELDS if field not in TARGETS)
"""What a field can be."""

SYNONYMS = {"system_prompt": "system", "functions": "tools"} | {
    name.format(side): f"score_{side}"
    for side in ("chosen", "rejected")
    for name in ("rating_{}", "{}_rating", "{}-rating", "{}_score")
}
"""Other names of fields that stand beside the texts."""

NUMBERS = dict.fromkeys(("weight", "tie", *FIGURE_FIELDS)).keys()
"""Numbers beside the texts of a row."""

BESIDE = ("system", "tools", "chat_template_kwargs", "weight", "tie", *FIGURE_FIELDS)
"""Targets that stand beside the texts of a row; every format reads fields of these names."""

_BESIDE_NAMES = {name: name for name in BESIDE} | SYNONYMS
"""Targets of the fields beside the texts, by their names; a target's own name comes before its synonyms."""


class Given(NamedTuple):
    """A value of a row, and the name of its field for errors."""

    field: str
    value: Any


Parts = Mapping[str, Given]
"""The parts of a row by target; a part whose value is null is absent."""

VERDICTS = (("winner",), ("a_wins", "b_wins"), ("score_a", "score_b"))
"""The parts that say which of two answers is better; one of the three ways is given."""


class Present(dict[str, Given]):
    """The parts that are not null.

    Attributes:
      given: All parts, null ones too.
    """

    def __init__(self, given: Parts) -> None:
        """Keep the parts."""
        super().__init__([item for item in given.items() if item[1].value is not None])
        self.given = given

    def field(self, target: str) -> str:
        """The field of a part, be it null; the target itself where there is none."""
        return self.given[target].field if target in self.given else target

    def need(self, target: str) -> Given:
        """A part that must be there.

        Raises:
          RowFault: it is absent or null; named by its field.
        """
        if target not in self:
            field = self.field(target)
            raise RowFault("missing_field", field, f"'{field}' is missing")
        return self[target]


def parts_of(row: Row, names: Mapping[str, str]) -> dict[str, Given]:
    """The parts of a row whose fields `names` gives by target, and those that stand beside them under their names."""
    parts = {target: Given(name, row.get(name)) for target, name in names.items()}
    if not _BESIDE_NAMES.keys().isdisjoint(row):
        for name, target in _BESIDE_NAMES.items():
            if row.get(name) not in (None, ""):
                parts.setdefault(target, Given(name, row[name]))
    return parts


def kind_of(targets: Mapping[str, object]) -> Kind | None:
    """The kind of records that parts with these targets make; None where they make none."""
    if "rejected" in targets or {"a", "b"} <= targets.keys():
        return "pair"
    if "responses" in targets:
        return "list"
    if "label" in targets:
        return "response"
    return "demonstration" if {"response", "messages", "chosen"} & targets.keys() else None
