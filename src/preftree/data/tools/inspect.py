"""Inspection of a data file: format, counts, faults, lengths, one record; with a tokenizer, its tokens too."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from preftree.data.formats import format_of, prompts_alone
from preftree.data.rows.columns import Columns
from preftree.data.rows.conversion import as_kind, check_kind
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.format import Format
from preftree.data.rows.texts import length, named_texts, spread
from preftree.data.sources.reader import SNIFFED_ROWS, Source, find_format, find_source, read_records, read_rows
from preftree.data.tools.length_bias import LengthBias
from preftree.records import Kind, Provenance, Record

if TYPE_CHECKING:  # they import numpy, and one of them torch
    from preftree.data.tools.near_repeats import NearRepeats
    from preftree.data.tools.token_view import TokenView

KEPT_PLACES = 10_000


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of an inspection.

    Attributes:
      source: The source of the rows.
      format: Their format.
      tally: Rows and faults; the first 10 000 places.
      lengths: Characters of each part, as length -> how often.
      num_records: Records after the change to the wanted kind: a ranking makes several pairs.
      first: The first accepted record, and its place; of prompts alone one with an empty response.
      length_bias: Whether preferred responses are the longer ones.
      near_repeats: Rows that nearly repeat an earlier one, where they are looked for.
      view: The rows as tokens, where a model was given.
    """

    source: Source
    format: Format
    tally: Tally
    lengths: dict[str, Counter[int]]
    num_records: int
    first: tuple[Provenance, Record] | None
    length_bias: LengthBias
    near_repeats: NearRepeats | None = None
    view: TokenView | None = None

    def as_json(self) -> dict[str, Any]:
        """The machine-readable form; `rejected` names the file as well where there are several."""
        several = len(self.source.files) > 1
        rejected = [
            ({"file": row.file} if several else {})
            | {"line": row.line, "field": row.field, "fault": row.fault, "message": row.message}
            for row in self.tally.rejected
        ]
        return {
            "format": self.format.name,
            "rows": self.tally.rows,
            "accepted": self.tally.accepted,
            "rejected": rejected,
            "faults": dict(self.tally.faults),
            "repeated": self.tally.repeated,
            "unread": dict(self.tally.unread.most_common()),
            "lengths": {"unit": "characters"} | {part: spread(counts) for part, counts in self.lengths.items()},
            "length_bias": self.length_bias.as_json(),
            **({} if self.near_repeats is None else {"near_repeats": self.near_repeats.as_json()}),
            **({} if self.view is None else self.view.as_json()),
        }


def inspect_file(
    path: str,
    *,
    format_name: str | None = None,
    columns: Columns | None = None,
    kind: Kind | None = None,
    chosen_side: bool = False,
    near_repeats: NearRepeats | None = None,
    view: TokenView | None = None,
) -> Inspection:
    """Read a whole source and count its rows; faults do not stop it.

    Args:
      path: A file, a folder of them, or a hub id.
      format_name: The format of the rows; detected where it is None, and prompts alone are one too.
      columns: A mapping of columns, which takes the place of a format.
      kind: Kind to which the records are changed.
      chosen_side: Whether the chosen responses are demonstrations.
      near_repeats: Looks for near repeats as well.
      view: Counts tokens as well.
    Raises:
      DataError: the source cannot be read, its format is not known, or does not make the wanted kind; or the tokenizer
        has no template for its conversations.
    """
    source = find_source(path)
    tally, num_records = Tally(keep=KEPT_PLACES), 0
    lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)
    named = format_name is not None or columns is not None
    form = None if named or kind is not None else _prompts_alone(source)
    if form is not None:
        return _inspect_prompts(source, form, tally, near_repeats, view)
    form = find_format(source, format_name, columns)
    if kind is not None:
        check_kind(path, form, kind, chosen_side=chosen_side)
    first, length_bias = None, LengthBias()
    for where, record in read_records(source, form, tally):
        for item in [record] if kind is None else as_kind(record, kind, chosen_side=chosen_side):
            num_records += 1
            first = first or (where, item)
            for part, text in named_texts(item):
                lengths[part][length(text)] += 1
            length_bias.add(item)
        if near_repeats is not None:
            near_repeats.add(where, record)
        if view is not None:
            whole = as_kind(record, "demonstration", chosen_side=True) if chosen_side else [record]
            view.add(where, whole[0], tally)
    if view is not None:
        view.finish(tally)
        view.measure_sharing()
    return Inspection(source, form, tally, lengths, num_records, first, length_bias, near_repeats, view)


def _prompts_alone(source: Source) -> Format | None:
    """The format of prompts where the first rows are of it, and of no other; None where they are not."""
    rows = [raw.row for raw in islice(read_rows(source), SNIFFED_ROWS) if isinstance(raw.row, dict)]
    alone = bool(rows) and all(prompts_alone.detect(row) and format_of(row) is None for row in rows)
    return prompts_alone.FORMAT if alone else None


def _inspect_prompts(
    source: Source, form: Format, tally: Tally, near_repeats: NearRepeats | None, view: TokenView | None
) -> Inspection:
    lengths: Counter[int] = Counter()
    first = None
    for raw in read_rows(source):
        tally.rows += 1
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            unread = form.unread(raw.row)
            record = form.read(raw.row)
            if view is not None:
                view.add_prompt(raw.where, record.prompt)
        except RowFault as fault:
            tally.reject(raw.where, fault)
            continue
        tally.unread.update(unread)
        first = first or (raw.where, record)
        if near_repeats is not None:
            near_repeats.add(raw.where, record)
        lengths[length(record.prompt)] += 1
    counts = {"prompt": lengths} if lengths else {}
    return Inspection(source, form, tally, counts, lengths.total(), first, LengthBias(), near_repeats, view)
