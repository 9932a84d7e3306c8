"""Rows of JSON files: one object a line, objects over several lines, an array, or a list under a name in an object.

Which of these a file is, its beginning shows; its name does not count. Rows are numbered by the line where they begin,
or, in an array or a list, from 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from itertools import count

from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import Row
from preftree.data.rows.raw_row import MAX_ROW_BYTES, RawRow, as_row, too_long
from preftree.data.sources.json_text import BrokenJson, JsonDecoder, JsonText
from preftree.data.sources.streams import BLOCK, open_text
from preftree.errors import DataError
from preftree.records import Provenance

LIST_NAMES = ("data", "rows", "examples", "instances", "train")
"""Names under which an object may hold its rows."""


def json_rows(file: str) -> Iterator[RawRow]:
    """The rows of a JSON file; a line that cannot be read is a fault of that row.

    Raises:
      DataError: something other than a line cannot be read, or several lists could be the rows.
      OSError, EOFError, zlib.error, UnicodeDecodeError: as `open_text`.
    """
    read = _reader(file)
    with open_text(file) as stream:
        yield from read(file, stream)


def _reader(file: str) -> Callable[[str, BufferedIOBase], Iterator[RawRow]]:
    """How the rows of a file are read, as its beginning shows.

    Raises:
      DataError: several lists could be the rows.
    """
    with open_text(file) as stream:
        text = JsonText(stream)
        if text.take("["):
            return _array_rows if text.peek() in ("", "{", "]") else _line_rows
        if text.peek() != "{":
            return _line_rows
    last, following = _around_line_break(file)
    if (last, following) != (b"}", b"{") and _holds_list(file):
        return _list_rows
    return _object_rows if _goes_over_lines(file, begun=last in (b"{", b"[", b",", b":")) else _line_rows


def _around_line_break(file: str) -> tuple[bytes, bytes]:
    """The last sign of the first line that is not blank, and the first sign behind.

    Empty where the file ends before, or where the line is longer than a row may be.
    """
    last, size = b"", 0
    with open_text(file) as stream:
        while part := stream.readline(BLOCK):
            last, size = part.rstrip()[-1:] or last, size + len(part)
            if size > MAX_ROW_BYTES:
                return b"", b""
            if last and part.endswith(b"\n"):
                break
        following = next((block.lstrip()[:1] for block in _blocks(stream) if not block.isspace()), b"")
    return last, following


def _goes_over_lines(file: str, *, begun: bool) -> bool:
    """Whether the first object takes several lines, or shares one with the next object.

    Args:
      file: The file.
      begun: Whether the first line looks like the beginning of a longer object, which counts where it is broken.
    """
    with open_text(file) as stream:
        text = JsonText(stream)
        line = text.line()
        try:
            _value(text)
        except BrokenJson:
            return begun
        return text.line_so_far() > line or (text.peek() == "{" and text.line() == line)


def _blocks(stream: BufferedIOBase) -> Iterator[bytes]:
    return iter(lambda: stream.read(BLOCK), b"")


def _holds_list(file: str) -> bool:
    """Whether a file is an object that holds its rows as a list.

    Raises:
      DataError: it holds another list of objects before.
    """
    with open_text(file) as stream:
        text, others = JsonText(stream), []
        try:
            text.expect("{")
            while (name := _next_list(text)) is not None:
                if name in LIST_NAMES:
                    _see_only_one(file, [*others, name])
                    return True
                others.append(name)
                _value(text)
                if text.expect(",", "}") == "}":
                    break
        except BrokenJson:  # whoever reads the rows says where
            pass
    return False


def _next_list(text: JsonText) -> str | None:
    """Pass fields of an object up to its next list of objects; its name, or None where the object ends.

    Raises:
      BrokenJson: it is no JSON.
    """
    if text.take("}"):
        return None
    while True:
        name = text.name()
        if text.at_list_of_objects():
            return name
        _value(text)
        if text.expect(",", "}") == "}":
            return None


def _see_only_one(file: str, names: list[str]) -> None:
    if len(names) > 1:
        raise DataError(
            f"{file} holds lists of objects under {' and '.join(map(repr, names))}, wanted one list of rows;"
            " write the rows alone to a file"
        )


def _line_rows(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    decoder = JsonDecoder()
    for number, line in _lines(stream):
        if line is None:
            yield RawRow(Provenance(file, number), too_long("line"))
        elif not line.isspace():
            yield RawRow(Provenance(file, number), _parse(decoder, line))


def _lines(stream: BufferedIOBase) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None where one is longer than a row may be, which is then skipped without being held."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) <= MAX_ROW_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        del line
        while (rest := stream.readline(BLOCK)) and not rest.endswith(b"\n"):
            pass
        yield number, None


def _parse(decoder: JsonDecoder, line: bytes) -> Row | RowFault:
    try:
        return as_row(decoder.decode(line.decode("utf-8")))
    except RowFault as fault:
        return fault
    except UnicodeDecodeError as error:
        return RowFault("bad_utf8", "row", f"the line is not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return RowFault("bad_json", "row", f"the line is not JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return RowFault("bad_json", "row", "the line nests too deep")
    except ValueError as error:  # an integer of more digits than Python converts
        return RowFault("bad_json", "row", f"the line is not JSON that can be read: {error}")


def _object_rows(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    """Objects one after another, over any number of lines; a broken one ends the reading."""
    text = JsonText(stream)
    with _broken_is_an_error(file, text):
        while text.peek():
            yield RawRow(Provenance(file, text.line()), _value(text))


def _array_rows(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    """The items of one array; a broken one ends the reading."""
    text = JsonText(stream)
    with _broken_is_an_error(file, text):
        yield from _items(file, text)
        text.expect_end("array")


def _list_rows(file: str, stream: BufferedIOBase) -> Iterator[RawRow]:
    """The items of the only list of objects that an object holds; a broken one ends the reading."""
    text = JsonText(stream)
    with _broken_is_an_error(file, text):
        text.expect("{")
        name = _next_list(text)
        assert name is not None
        yield from _items(file, text)
        if text.expect(",", "}") == "," and (other := _next_list(text)) is not None:
            _see_only_one(file, [name, other])
        text.expect_end("object")


@contextmanager
def _broken_is_an_error(file: str, text: JsonText) -> Iterator[None]:
    try:
        yield
    except BrokenJson as error:
        raise DataError(f"{file}:{text.line()}: not JSON ({error}); fix the file") from None


def _items(file: str, text: JsonText) -> Iterator[RawRow]:
    """The items of an array, numbered from 1.

    Raises:
      BrokenJson: one is no JSON, or the array has no end.
    """
    text.expect("[")
    if text.take("]"):
        return
    for number in count(1):
        try:
            yield RawRow(Provenance(file, number), _value(text))
        except BrokenJson as error:
            raise BrokenJson(f"row {number}: {error}") from None
        if text.expect(",", "]") == "]":
            return


def _value(text: JsonText) -> Row | RowFault:
    """The next value as a row.

    Raises:
      BrokenJson: it is no JSON.
    """
    try:
        return as_row(text.value())
    except RowFault as fault:
        return fault
