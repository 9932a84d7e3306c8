"""Notes of data that a reference table holds whole, so that no later run has to look up every response."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from preftree.errors import CacheError, DataError
from preftree.reference.store import ReferenceTable
from preftree.storage.json_file import read_json, write_json


class _Filled(BaseModel):
    """Schema of a note: data, the number of their responses, and the parts of the table that hold them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data: str
    responses: int
    parts: list[str]


def note_filled(table: ReferenceTable, data: str, responses: int) -> None:
    """Note that a table holds all responses of data.

    Args:
      table: The table.
      data: Digest of the data, in hex.
      responses: Number of their responses, repetitions included.
    Raises:
      CacheError: the note cannot be written.
    """
    path = _path(table, data)
    try:
        write_json(path, {"data": data, "responses": responses, "parts": table.part_names()})
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error}); make room, or set PREFTREE_CACHE to another folder"
        ) from error


def find_filled(table: ReferenceTable, data: str) -> int | None:
    """Number of responses of data that a table holds whole; None without a note, or where a part of it is lost.

    Parts are never changed and are named by their sequences, so a note that is whole stays true.

    Args:
      table: The table.
      data: Digest of the data, in hex.
    """
    try:
        note = read_json(_path(table, data), _Filled, "delete it")
    except DataError:  # there is none, or it is damaged: the responses are looked up
        return None
    return note.responses if note.data == data and set(note.parts) <= set(table.part_names()) else None


def _path(table: ReferenceTable, data: str) -> Path:
    return table.folder / f"filled-{data[:16]}.json"
