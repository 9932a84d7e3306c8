"""Table of the formats of data files; each has a file of this folder."""

from __future__ import annotations

from preftree.data.formats import (
    arena_columns,
    argilla,
    chosen_lists,
    collected,
    completions,
    conversational,
    explicit,
    hh,
    instruction,
    mapped,
    messages,
    messages_label,
    messages_pair,
    oasst,
    plain,
    preferred_output,
    prompt_completion,
    question_pair,
    ranking,
    shp,
    tldr,
    tldr_pairs,
    unpaired,
)
from preftree.data.rows.fields import Row
from preftree.data.rows.format import Format

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        conversational.FORMAT,
        messages_pair.FORMAT,
        question_pair.FORMAT,
        preferred_output.FORMAT,
        tldr_pairs.FORMAT,
        explicit.FORMAT,
        collected.FORMAT,
        hh.FORMAT,
        shp.FORMAT,
        tldr.FORMAT,
        *mapped.FORMATS,
        arena_columns.FORMAT,
        *argilla.FORMATS,
        chosen_lists.FORMAT,
        *oasst.FORMATS,
        completions.FORMAT,
        ranking.FORMAT,
        messages_label.FORMAT,
        unpaired.FORMAT,
        messages.FORMAT,
        prompt_completion.FORMAT,
        *instruction.FORMATS,
        plain.FORMAT,
    )
}
"""The formats by name."""


def format_of(row: Row) -> Format | None:
    """The format that a row is of; None where it is of none.

    Their `detect` functions exclude each other, so the order of the table means nothing.
    """
    return next((form for form in FORMATS.values() if form.detect(row)), None)
