"""Rows of a data set as TRL's trainers read them: the columns that they read, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import datasets

from preftree.errors import DataError

TrlRow: TypeAlias = dict[str, Any]

TrlData: TypeAlias = datasets.Dataset | datasets.IterableDataset | Mapping[str, Any] | list[Any]
"""What a caller may give as a data set; a list of rows, or a `datasets.Dataset`, is taken."""

_BESIDE = ("tools", "chat_template_kwargs")
_PAIRS = ("prompt", "chosen", "rejected", *_BESIDE)
COLUMNS = {
    "dpo": _PAIRS,
    "reward": (*_PAIRS, "margin"),
    "kto": (*_PAIRS, "completion", "label"),
    "sft": ("prompt", "completion", "messages", "conversations", *_BESIDE),
}
"""Columns that a trainer of TRL reads."""

_TOKENISED = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
_IMAGES = ("image", "images")


def check_data(data: TrlData, name: str) -> datasets.Dataset | list[Any]:
    """The data set, which must be a list of rows.

    Raises:
      DataError: it is a stream, or several data sets; rows have been tokenised already, or hold images.
    """
    if isinstance(data, datasets.IterableDataset):
        raise DataError(
            f"{name} is a stream; read it whole (datasets.Dataset.from_list), since rows are tokenised once"
        )
    if isinstance(data, Mapping):
        raise DataError(f"{name} holds several data sets ({', '.join(map(str, data))}); give one")
    if not isinstance(data, datasets.Dataset | list):
        raise DataError(f"{name} must be a datasets.Dataset, got {type(data).__name__}")
    if not len(data):
        raise DataError(f"{name} holds no rows")
    first = data[0]
    for columns, reason in ((_TOKENISED, "rows are tokenised here: give texts"), (_IMAGES, "images are not read")):
        if given := [column for column in columns if column in first]:
            raise DataError(f"{name} has the column {given[0]!r}, and {reason}")
    return data


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row holds messages."""
    return any(isinstance(row.get(name), list) for name in ("prompt", "chosen", "messages", "conversations"))


class TrlRows:
    """The rows of a data set, restricted to the columns that a trainer reads; read again at each pass."""

    def __init__(
        self,
        data: TrlData,
        columns: tuple[str, ...],
        *,
        text_field: str | None = None,
        formatting: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        """Rows of `data`.

        Args:
          data: The data set.
          columns: Columns that are read.
          text_field: Column that is read as `text`.
          formatting: Function that makes the text of a row.
        """
        self._data, self._columns, self._text, self._formatting = data, columns, text_field, formatting

    def __iter__(self) -> Iterator[Any]:
        assert not isinstance(self._data, Mapping), "checked by check_data"
        for row in self._data:
            yield self._read(row) if isinstance(row, Mapping) else row  # another type is refused by name later

    def first(self) -> TrlRow:
        """The first row."""
        return next(iter(self))

    def _read(self, row: Mapping[str, Any]) -> TrlRow:
        if self._formatting is not None:
            return {"text": self._formatting(row)}
        chosen = {name: row[name] for name in self._columns if row.get(name) is not None}
        if isinstance(chosen.get("tools"), str):
            chosen["tools"] = json.loads(chosen["tools"])
        if self._text is not None and self._text in row and "prompt" not in chosen and "messages" not in chosen:
            chosen["text"] = row[self._text]
        return chosen
