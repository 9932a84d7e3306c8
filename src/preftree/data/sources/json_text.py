"""JSON text decoded a value at a time: of any length, and no more of it held than the longest row allowed."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from io import BufferedIOBase
from typing import Any

from preftree.data.rows.faults import RowFault
from preftree.data.rows.raw_row import MAX_ROW_BYTES, too_long

_SIGN = re.compile(r"[^ \t\r\n]")
_LIST_OF_OBJECTS = re.compile(r"\[[ \t\r\n]*\{")
_BRACKETS = re.compile(r'["\[\]{}]')
_IN_STRING = re.compile(r'"|\\.?', re.DOTALL)
_BLOCK = 1 << 16
_LOOKAHEAD = 1 << 12
_LONGEST_WORD = 16  # characters of -Infinity or of an escape, which may be cut off where the buffer ends


class BrokenJson(Exception):
    """The text is not JSON from here on, and nothing says where the next value begins; caught where files are read."""


class JsonDecoder:
    """Python's JSON decoder, which also sees a key that occurs twice in one object; the last value would win unseen."""

    def __init__(self) -> None:
        self._twice: str | None = None
        decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._decode, self._raw_decode = decoder.decode, decoder.raw_decode

    def decode(self, text: str) -> Any:
        """The value of a whole text.

        Raises:
          RowFault: an object has a key twice.
          ValueError, RecursionError: it is no JSON, or nests too deep.
        """
        self._twice = None
        value = self._decode(text)
        self.check_keys()
        return value

    def raw_decode(self, text: str, place: int) -> tuple[Any, int]:
        """The value that begins at a place, and where it ends; ask `check_keys` once it is complete.

        Raises:
          ValueError, RecursionError: it is no JSON, is not complete, or nests too deep.
        """
        self._twice = None
        return self._raw_decode(text, place)

    def check_keys(self) -> None:
        """See that no object of the value decoded last has a key twice.

        Raises:
          RowFault: one has; it names the key.
        """
        if self._twice is not None:
            message = f"{self._twice[:40]!r} occurs twice in one object; keep one of them"
            raise RowFault("duplicate_key", self._twice or "row", message)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            self._twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        return row


class JsonText:
    """The values and signs of a JSON text, one after another."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._read = stream.read
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode  # a fault of its field, later
        self._decoder = JsonDecoder()
        self._buffer, self._place, self._at_end = "", 0, False
        self._line, self._counted = 1, 0  # the line of a place in the buffer, up to which line breaks are counted

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while (found := _SIGN.search(self._buffer, self._place)) is None:
            self._place = len(self._buffer)
            if self._at_end:
                return ""
            self._more()
        self._place = found.start()
        return found[0]

    def take(self, sign: str) -> bool:
        """Whether the next character is this one, which is then passed."""
        if self.peek() != sign:
            return False
        self._place += 1
        return True

    def expect(self, *signs: str) -> str:
        """Pass the next character, which must be one of these.

        Raises:
          BrokenJson: it is not.
        """
        if (sign := self.peek()) in signs:
            self._place += 1
            return sign
        wanted, got = " or ".join(map(repr, signs)), self._buffer[self._place : self._place + 20]
        raise BrokenJson(f"wanted {wanted}, got {got!r}" if got else f"the file ends where {wanted} was wanted")

    def expect_end(self, what: str) -> None:
        """See that nothing follows.

        Raises:
          BrokenJson: something does.
        """
        if self.peek():
            raise BrokenJson(f"text after the end of its {what}")

    def line(self) -> int:
        """The line of the next character that is not white space, from 1."""
        self.peek()
        return self.line_so_far()

    def line_so_far(self) -> int:
        """The line where the last value or sign ended."""
        self._line += self._buffer.count("\n", self._counted, self._place)
        self._counted = self._place
        return self._line

    def at_list_of_objects(self) -> bool:
        """Whether the next value is a list that begins with an object; more than 4 KiB of space between hide it."""
        self.peek()
        while len(self._buffer) - self._place < _LOOKAHEAD and not self._at_end:
            self._more()
        return _LIST_OF_OBJECTS.match(self._buffer, self._place) is not None

    def name(self) -> str:
        """The name of the next field of an object, which is passed with its colon.

        Raises:
          BrokenJson: there is none.
        """
        if self.peek() != '"':
            self.expect('"')  # raises, and says what was got
        try:
            name = self.value()
        except RowFault as fault:
            raise BrokenJson(str(fault)) from None
        self.expect(":")
        return name

    def value(self) -> Any:
        """The next value.

        Raises:
          RowFault: it is too long, or an object in it has a key twice; it is passed, and the next one can be read.
          BrokenJson: it is no JSON, or the text ends within it.
        """
        if not self.peek():
            raise BrokenJson("the file ends here")
        while True:
            complete = self._try_value()
            if complete is not None:
                value, end = complete
                begin, self._place = self._place, end
                if end - begin > MAX_ROW_BYTES // 4 and _num_bytes(self._buffer[begin:end]) > MAX_ROW_BYTES:
                    raise too_long("row")
                self._decoder.check_keys()
                return value
            if len(self._buffer) - self._place > MAX_ROW_BYTES:
                self._pass_value()
                raise too_long("row")
            self._more()

    def _try_value(self) -> tuple[Any, int] | None:
        """The next value and its end; None where it may go on after the buffer.

        Raises:
          BrokenJson: it is no JSON, whatever follows.
        """
        try:
            value, end = self._decoder.raw_decode(self._buffer, self._place)
        except RecursionError:
            raise BrokenJson("it nests too deep") from None
        except json.JSONDecodeError as error:
            cut_off = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - _LONGEST_WORD
            if cut_off and not self._at_end:
                return None
            got = self._buffer[error.pos : error.pos + 20]
            raise BrokenJson(f"{error.msg} at {got!r}" if got else "the file ends within it") from None
        except ValueError as error:  # an integer of more digits than Python converts
            raise BrokenJson(str(error)) from None
        return (value, end) if end < len(self._buffer) or self._at_end else None

    def _pass_value(self) -> None:
        """Go to the end of an object, list or string without holding it."""
        if self._buffer[self._place] not in '{["':
            raise BrokenJson("a number has no end")
        depth, in_string = 0, False
        while True:
            match = (_IN_STRING if in_string else _BRACKETS).search(self._buffer, self._place)
            if match is None or match[0] == "\\":  # an escape that the buffer cuts in two is looked at again
                self._place = len(self._buffer) if match is None else match.start()
                if self._at_end:
                    raise BrokenJson("a value has no end")
                self._more()
                continue
            self._place = match.end()
            if match[0] == '"':
                in_string = not in_string
            elif not in_string:
                depth += 1 if match[0] in "[{" else -1
            if depth == 0 and not in_string:
                return

    def _more(self) -> None:
        held = len(self._buffer) - self._place
        block = self._read(max(_BLOCK, min(held, MAX_ROW_BYTES - held)))
        self._at_end = not block
        self.line_so_far()
        self._buffer = self._buffer[self._place :] + self._decode(block, final=self._at_end)
        self._place = self._counted = 0


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
