"""Conversion of records from one kind to another, and back to rows of a file."""

from __future__ import annotations

from typing import Any

from preftree.data.rows.duplicates import ordered_pairs
from preftree.data.rows.fields import Row
from preftree.data.rows.format import Format
from preftree.data.rows.texts import named_texts
from preftree.errors import DataError
from preftree.records import (
    Demonstration,
    Figures,
    Kind,
    Label,
    Message,
    Preference,
    Ranking,
    Record,
    Text,
    figures_of,
    select_responses,
    template_options_of,
    tools_of,
)

_CHANGES = {("list", "pair"), ("pair", "response"), ("pair", "list")}


def check_kind(path: str, form: Format, kind: Kind, *, chosen_side: bool) -> None:
    """Whether records of a format can become records of a kind.

    Raises:
      DataError: they cannot; or they are preferences, demonstrations are requested, and `chosen_side` is not set.
    """
    if chosen_side and kind != "demonstration":
        raise DataError(f"the chosen side of {path} makes demonstrations, wanted the kind {kind!r}; leave 'side' out")
    if chosen_side and form.kind not in ("pair", "list"):
        raise DataError(f"{path} holds {form.title} ({form.name}), which has no chosen side; leave 'side' out")
    if form.kind == kind or chosen_side or (form.kind, kind) in _CHANGES:
        return
    hint = "; ask for its chosen side with side=chosen" if form.kind in ("pair", "list") else ""
    raise DataError(f"{path} holds {form.title} ({form.name}), wanted the kind {kind!r}{hint}")


def split_record(record: Record, kind: Kind) -> list[tuple[tuple[int, ...], Record]]:
    """The records of a kind that a record becomes, each with the indices of its responses in the record.

    A ranking becomes all its pairs. A pair becomes two labelled responses, or a ranking of two; so does a tie, which
    the caller must leave out.
    """
    if isinstance(record, Ranking) and kind == "pair":
        return [((i, j), _pair_of(record, i, j)) for i, j in ordered_pairs(record)]
    if isinstance(record, Preference) and kind == "response":
        return [
            ((i,), Label(record.prompt, text, i == 0, record.weight, _figures(record.figures, kind, (i,))))
            for i, text in enumerate((record.chosen, record.rejected))
        ]
    if isinstance(record, Preference) and kind == "list":
        both = (record.chosen, record.rejected)
        return [((0, 1), Ranking(record.prompt, both, record.weight, _figures(record.figures, kind, (0, 1))))]
    return [(tuple(range(len(named_texts(record)) - 1)), record)]


def as_kind(record: Record, kind: Kind, *, chosen_side: bool) -> list[Record]:
    """The records of a kind that a record becomes; none where a tie would become a ranking or labelled responses.

    With `chosen_side` a pair or a ranking becomes a demonstration of its best response.
    """
    if chosen_side and isinstance(record, Preference):
        return [Demonstration(record.prompt, record.chosen, record.weight)]
    if chosen_side and isinstance(record, Ranking):
        return [Demonstration(record.prompt, record.responses[0], record.weight)]
    if isinstance(record, Preference) and record.tie and kind != "pair":
        return []
    return [converted for _, converted in split_record(record, kind)]


def to_row(record: Record) -> Row:
    """A record as a row that reads back as the same record."""
    row: dict[str, Any] = {"prompt": plain_text(record.prompt)}
    if isinstance(record, Preference):
        row |= {"chosen": plain_text(record.chosen), "rejected": plain_text(record.rejected)}
        row |= {"tie": True} if record.tie else {}
        row |= _figure_fields(record.figures, "pair")
    elif isinstance(record, Ranking):
        row["responses"] = [plain_text(response) for response in record.responses]
        row |= _figure_fields(record.figures, "list")
    elif isinstance(record, Label):
        row |= {"completion": plain_text(record.response), "label": record.desirable}
        row |= _figure_fields(record.figures, "response")
    elif record.prompt == "":
        row = {"text": record.response}
    else:
        row["completion"] = plain_text(record.response)
    if tools := tools_of(record.prompt):
        row["tools"] = list(tools)
    if options := template_options_of(record.prompt):
        row["chat_template_kwargs"] = dict(options)
    return row if record.weight == 1 else row | {"weight": record.weight}


def plain_text(text: Text) -> str | list[Row]:
    """A text in the form of a row: a string, or a list of messages."""
    return text if isinstance(text, str) else [_message(message) for message in text]


def _pair_of(ranking: Ranking, better: int, worse: int) -> Preference:
    """Two responses of a ranking as a pair; the margin is the difference of their scores."""
    figures = _figures(ranking.figures, "pair", (better, worse))
    if "scores" in figures:
        figures["margin"] = (figures["scores"][0] - figures["scores"][1],)
    chosen, rejected = ranking.responses[better], ranking.responses[worse]
    return Preference(ranking.prompt, chosen, rejected, ranking.weight, figures=figures)


def _figures(figures: Figures, kind: Kind, responses: tuple[int, ...]) -> dict[str, tuple[float, ...]]:
    """The figures that a record of a kind can have, of the responses with these indices."""
    names = [figure.name for figure in figures_of(kind) if figure.name in figures]
    return select_responses({name: figures[name] for name in names}, responses)


def _figure_fields(figures: Figures, kind: Kind) -> Row:
    row: Row = {}
    for figure in figures_of(kind):
        if figure.name in figures:
            values = figures[figure.name]
            fields = figure.fields(kind)
            in_one_list = figure.per_response and kind == "list"
            row |= {fields[0]: list(values)} if in_one_list else dict(zip(fields, values, strict=True))
    return row


def _message(message: Message) -> Row:
    row: Row = {"role": message.role, "content": message.content, **message.rest}
    return row if message.train is None else row | {"train": message.train}
