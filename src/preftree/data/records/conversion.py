"""From what a file says to what a recipe needs, and back to rows of a file."""

from __future__ import annotations

from typing import Any

from preftree.data.formats import Format
from preftree.data.records.duplicates import ordered_pairs
from preftree.data.records.fields import Row
from preftree.errors import DataError
from preftree.records import Demonstration, Kind, Label, Message, Preference, Ranking, Record, Text

_CHANGES = {("list", "pair"), ("pair", "response"), ("pair", "list")}


def check_kind(path: str, form: Format, kind: Kind, *, chosen_side: bool) -> None:
    """Whether records of a format can become records of a kind.

    Raises:
      DataError: they cannot; or they are preferences to imitate, and nobody asked for their chosen side.
    """
    if chosen_side and kind != "demonstration":
        raise DataError(f"the chosen side of {path} makes demonstrations, wanted the kind {kind!r}; leave 'side' out")
    if chosen_side and form.kind not in ("pair", "list"):
        raise DataError(f"{path} holds {form.title} ({form.name}), which has no chosen side; leave 'side' out")
    if form.kind == kind or chosen_side or (form.kind, kind) in _CHANGES:
        return
    hint = "; ask for its chosen side with side=chosen" if form.kind in ("pair", "list") else ""
    raise DataError(f"{path} holds {form.title} ({form.name}), wanted the kind {kind!r}{hint}")


def as_kind(record: Record, kind: Kind, *, chosen_side: bool) -> list[Record]:
    """The records of a kind that a record stands for.

    A ranking becomes all its pairs, or its best response. A pair becomes two labels, or a ranking of two; a tie becomes
    neither.
    """
    if chosen_side and isinstance(record, Preference):
        return [Demonstration(record.prompt, record.chosen, record.weight)]
    if chosen_side and isinstance(record, Ranking):
        return [Demonstration(record.prompt, record.responses[0], record.weight)]
    if kind == "pair" and isinstance(record, Ranking):
        return [pair_of(record, i, j) for i, j in ordered_pairs(record)]
    if kind == "response" and isinstance(record, Preference):
        sides = () if record.tie else ((record.chosen, True), (record.rejected, False))
        return [Label(record.prompt, response, liked, record.weight) for response, liked in sides]
    if kind == "list" and isinstance(record, Preference):
        both = (record.chosen, record.rejected)
        return [] if record.tie else [Ranking(record.prompt, both, record.scores, record.weight)]
    return [record]


def pair_of(ranking: Ranking, better: int, worse: int) -> Preference:
    """Two responses of a ranking as a pair; the margin is the difference of their scores."""
    chosen, rejected = ranking.responses[better], ranking.responses[worse]
    scores = None if ranking.scores is None else (ranking.scores[better], ranking.scores[worse])
    margin = None if scores is None else scores[0] - scores[1]
    return Preference(ranking.prompt, chosen, rejected, ranking.weight, margin, scores=scores)


def to_row(record: Record) -> Row:
    """A record as a row that reads back as the same record."""
    row: dict[str, Any] = {"prompt": plain_text(record.prompt)}
    if isinstance(record, Preference):
        row |= {"chosen": plain_text(record.chosen), "rejected": plain_text(record.rejected)}
        row |= {} if record.margin is None else {"margin": record.margin}
        row |= {"tie": True} if record.tie else {}
        row |= {} if record.win_prob is None else {"win_prob": record.win_prob}
        row |= {} if record.other_margin is None else {"other_margin": record.other_margin}
        for name, both in (("score", record.scores), ("cost", record.costs)):
            row |= {} if both is None else {f"{name}_chosen": both[0], f"{name}_rejected": both[1]}
    elif isinstance(record, Ranking):
        row["responses"] = [plain_text(response) for response in record.responses]
        row |= {} if record.scores is None else {"scores": list(record.scores)}
    elif isinstance(record, Label):
        row |= {"completion": plain_text(record.response), "label": record.desirable}
    elif record.prompt == "":
        row = {"text": record.response}
    else:
        row["completion"] = plain_text(record.response)
    return row if record.weight == 1 else row | {"weight": record.weight}


def plain_text(text: Text) -> str | list[Row]:
    """A text as a row holds it: a string, or a list of messages."""
    return text if isinstance(text, str) else [_message(message) for message in text]


def _message(message: Message) -> Row:
    row: Row = {"role": message.role, "content": message.content}
    return row if message.train is None else row | {"train": message.train}
