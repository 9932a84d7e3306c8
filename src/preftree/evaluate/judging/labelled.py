"""Prompts with right and wrong answers, by which judges are measured: from data files, or made here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from preftree.data.prompts import prompt_key
from preftree.data.rows.conversion import split_record
from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.fields import Row
from preftree.data.rows.messages import messages
from preftree.data.sources.reader import Source, find_format, find_source, read_records, read_rows
from preftree.errors import DataError
from preftree.records import Preference, Text


class PersonVote(NamedTuple):
    """A person's vote on a pair of a right and a wrong answer.

    Attributes:
      by: The person's pseudonym.
      value: 1 for the right answer, 0 for the wrong one, .5 for neither.
      side: +1 where the right answer was shown left, -1 where it was shown right; +1 where that is not known.
    """

    by: str
    value: float
    side: float


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """A prompt with answers of which it is known which are right.

    Attributes:
      prompt: The prompt.
      right, wrong: Its right and its wrong answers, one of each or more; of a tie two answers, none right.
      subset: What it tests; "" where nothing is said.
      name: Name within its file. `ref:N` and `tied:N` belong together: one right answer, and several, to like prompts.
      votes: People's votes on a pair.
    """

    prompt: Text
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    subset: str = ""
    name: str = ""
    votes: tuple[PersonVote, ...] = ()

    @property
    def is_tie(self) -> bool:
        """Whether its answers are equally good."""
        return not self.wrong or not self.right

    @property
    def key(self) -> str:
        """The prompt's identity: items with one prompt are not independent."""
        return prompt_key(self.prompt)


def read_items(path: str) -> list[LabelledItem]:
    """The items of a file.

    Rows with lists as `chosen` and `rejected` are several right and several wrong answers, as RewardBench 2 has them,
    with `subset` and `id`. Any other file is read as pairs: rankings as all of their pairs, ties as two equal answers,
    and the votes of `preftree collect export` stand beside them.

    Raises:
      DataError: the file cannot be read, or holds no such row.
    """
    source = find_source(path)
    first = next((raw.row for raw in read_rows(source) if isinstance(raw.row, dict)), {})
    lists = [isinstance(first.get(name), list) for name in ("chosen", "rejected")]
    items = _of_lists(source) if all(lists) and _texts(first["chosen"]) else _of_pairs(source)
    if not items:
        raise DataError(f"{path} holds no pair of a better and a worse answer")
    return items


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


def _of_lists(source: Source) -> list[LabelledItem]:
    items = []
    for raw in read_rows(source):
        row = raw.row
        if isinstance(row, RowFault):
            raise DataError(f"{raw.where}: {row}; fix the row")
        if not (_texts(row.get("chosen")) and _texts(row.get("rejected"))):
            raise DataError(f"{raw.where}: 'chosen' and 'rejected' must be lists of texts, as in the rows before")
        prompt = row.get("prompt")
        try:
            asked = messages(prompt, "prompt") if isinstance(prompt, list) else prompt
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault
        if not asked or not isinstance(asked, str | tuple):
            raise DataError(f"{raw.where}: 'prompt' must be text or a list of messages, got {prompt!r}")
        subset, name = str(row.get("subset") or ""), str(row.get("id") or "")
        items.append(LabelledItem(asked, tuple(row["chosen"]), tuple(row["rejected"]), subset, name))
    return items


def _of_pairs(source: Source) -> list[LabelledItem]:
    form, tally = find_format(source), Tally()
    rows = _rows_by_line(source) if form.name == "collected" else {}
    items = []
    for where, record in read_records(source, form, tally):
        row = rows.get(str(where), {})
        votes = tuple(_vote(vote) for vote in row.get("votes", ()) if vote.get("repeat_of") is None)
        for _, pair in split_record(record, "pair") if form.kind != "pair" else [((), record)]:
            if not isinstance(pair, Preference):
                raise DataError(f"{source.path} holds {form.title}; give pairs, rankings, or rows with right answers")
            chosen, rejected = (_text(side, str(where)) for side in (pair.chosen, pair.rejected))
            right, wrong = ((), (chosen, rejected)) if pair.tie else ((chosen,), (rejected,))
            items.append(LabelledItem(pair.prompt, right, wrong, str(row.get("slice") or ""), str(where), votes))
    if tally.num_rejected:
        first = tally.rejected[0]
        raise DataError(f"{source.path}: {tally.num_rejected} rows cannot be read, the first: {first}; fix them")
    return items


def _rows_by_line(source: Source) -> dict[str, Row]:
    return {str(raw.where): raw.row for raw in read_rows(source) if isinstance(raw.row, dict)}


def _vote(vote: Row) -> PersonVote:
    value = {"chosen": 1.0, "rejected": 0.0}.get(str(vote.get("choice")), 0.5)
    # Who chose the right answer on the right, or the wrong one on the left, had the right answer on the right.
    stood_right = value != 0.5 and vote.get("side") == ("right" if value == 1 else "left")
    return PersonVote(str(vote.get("by")), value, -1.0 if stood_right else 1.0)


def _text(response: Text, where: str) -> str:
    if isinstance(response, str):
        return response
    first, *more = response
    if more:
        raise DataError(f"{where}: a response of {len(response)} turns cannot be judged as one answer; drop the row")
    return first.content
