"""A format of data files: how its rows are recognised, which fields it reads, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from preftree.data.rows.faults import RowFault, Tally
from preftree.data.rows.fields import Row
from preftree.data.rows.messages import MEDIA
from preftree.data.rows.parts import BESIDE, FIGURE_FIELDS, SYNONYMS
from preftree.data.rows.raw_row import RawRow
from preftree.records import Kind, Record, figures_of

MEANINGFUL = (
    "answer",
    "chosen",
    "chosen_messages",
    "chosen_response",
    "completion",
    "completions",
    "conversation",
    "conversations",
    "history",
    "input",
    "instruction",
    "kto_tag",
    "label",
    "messages",
    "non_preferred_output",
    "output",
    "parent_id",
    "preferred_output",
    "prompt",
    "query",
    "question",
    "reasoning_content",
    "rejected",
    "rejected_message",
    "rejected_messages",
    "rejected_response",
    "response",
    "responses",
    "thinking",
    "winner",
)
"""Fields that hold texts or verdicts in some format."""

_VERDICTS = ("disliked", "is_preferred", "liked", "preference", "preferred", "thumbs_down", "thumbs_up", "verdict")
_BESIDE = ("system", "system_prompt", "tools", "functions", "chat_template_kwargs", "tie")
_REFUSED = frozenset([*MEANINGFUL, *_VERDICTS, *_BESIDE]) - {"answer"}
"""Fields that change the prompt or the target: a format that does not read one refuses a row that has it. An `answer`
beside other texts is the solution of an exercise."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
      name: The name that is shown, and that `--format` takes.
      kind: Kind of the records; None for rows of prompts alone.
      title: The format in a few words.
      detect: Whether a row is of it, by names and types of fields. No row is of two formats.
      read: The row as a record; raises RowFault.
      fields: Fields that `read` looks at; the others are counted as not read.
      group: Makes a row for each record, where the file has a row for each turn or for a tree of turns.
      columns: The mapping of columns that makes the format, where one was given.
      named: Whether the user named it: then a field that it does not read is counted, whatever it is.
      columns_read: Further fields that `read` looks at, where their names differ from file to file.
    """

    name: str
    kind: Kind | None
    title: str
    detect: Callable[[Row], bool]
    read: Callable[[Row], Record]
    fields: frozenset[str]
    group: Callable[[Iterator[RawRow], Tally], Iterator[RawRow]] | None = None
    columns: str = ""
    named: bool = False
    columns_read: Callable[[Row], Set[str]] | None = None

    def unread(self, row: Row) -> list[str]:
        """Fields of a row that are not empty and not read.

        Raises:
          RowFault: one of them would change the prompt or the target, unless the format was named; or one holds images,
            sound or film.
        """
        parts = [] if FIGURE_FIELDS.isdisjoint(row) else self._given_in_part(row)
        if row.keys() <= self.fields:
            return parts
        names = [name for name in row if name not in self.fields]
        read = self.columns_read(row) if self.columns_read is not None else ()
        names = [name for name in names if row[name] not in (None, "", [], {}) and name not in read]
        for name in names:
            if name in MEDIA:
                message = (
                    f"'{name}' holds images, sound or film, and Preftree trains on text alone; leave such rows out"
                )
                raise RowFault("not_text", name, message)
            if name in _REFUSED and not self.named:
                message = (
                    f"'{name}' would change the prompt or the target, and format {self.name} does not read it; "
                    "take it out, or say with --columns what each field is"
                )
                raise RowFault("unread_field", name, message)
        return names + parts

    def _given_in_part(self, row: Row) -> list[str]:
        """Fields of figures that need another field as well, which the row lacks."""
        names: list[str] = []
        for figure in figures_of(self.kind) if self.kind is not None else ():
            fields = figure.fields(self.kind) if self.kind is not None else ()
            given = [field for field in fields if row.get(field) not in (None, "")]
            names += given if len(given) < len(fields) else []
        return names


def make_format(
    name: str,
    kind: Kind | None,
    title: str,
    detect: Callable[[Row], bool],
    read: Callable[[Row], Record],
    fields: Iterable[str],
    *,
    beside: Iterable[str] = (*BESIDE, *SYNONYMS),
    group: Callable[[Iterator[RawRow], Tally], Iterator[RawRow]] | None = None,
    columns_read: Callable[[Row], Set[str]] | None = None,
) -> Format:
    """A format that reads these fields, and those that stand beside the texts of a row: all of them by default."""
    return Format(name, kind, title, detect, read, frozenset([*fields, *beside]), group, columns_read=columns_read)


def has(row: Row, *names: str) -> bool:
    """Whether none of the fields is absent, null or an empty cell."""
    values = [row.get(name) for name in names]
    return None not in values and "" not in values


def has_any(row: Row, *names: str) -> bool:
    """Whether one of the fields is neither absent, null nor empty."""
    return any(row.get(name) not in (None, "", []) for name in names)


def names_any(row: Row, *names: str) -> bool:
    """Whether the row names one of the fields, be it null: a preference whose side is lost is no demonstration."""
    return any(name in row for name in names)


def first_of(row: Row, names: Sequence[str]) -> str:
    """The first of the fields that has a value, or else the first that the row names; for errors, the first of all."""
    named = [name for name in names if name in row]
    return next((name for name in named if row[name] not in (None, "", [])), (*named, *names)[0])
