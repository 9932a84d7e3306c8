"""Text files as bytes in UTF-8: unpacked where the name ends in .gz or .zst, decoded where their first bytes say."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PACKED = (".gz", ".zst")
BLOCK = 1 << 16
_BUFFER = 1 << 18  # few calls of the system; more is not faster
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins as UTF-16's does, so it is looked for first
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@contextmanager
def open_text(file: str) -> Iterator[io.BufferedIOBase]:
    """A file as bytes in UTF-8 without a byte order mark.

    Raises (while it is read):
      OSError, EOFError, zlib.error: the file cannot be opened or unpacked.
      UnicodeDecodeError: the first bytes promise UTF-16 or UTF-32, and the file holds something else.
    """
    with _unpacked(file) as stream:
        head = stream.read(4)
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    encoding = _MARKS[mark] if mark else _without_mark(head)
    with _unpacked(file) as stream:
        stream.read(len(mark))
        if encoding == "utf-8":
            yield stream
        else:
            yield io.BufferedReader(_Blocks(_in_utf8(stream, encoding)), BLOCK)


def _without_mark(head: bytes) -> str:
    """The encoding of a file without a mark: two characters of ASCII in UTF-16 have a NUL each, which no text has."""
    nul = [byte == 0 for byte in head[:4]]
    return {(False, True, False, True): "utf-16-le", (True, False, True, False): "utf-16-be"}.get(tuple(nul), "utf-8")


@contextmanager
def _unpacked(file: str) -> Iterator[io.BufferedIOBase]:
    name = file.lower()
    if name.endswith(".zst"):
        from pyarrow import input_stream

        with input_stream(file, compression="zstd") as packed:
            yield io.BufferedReader(_Blocks(iter(lambda: packed.read(BLOCK), b"")), BLOCK)
    else:
        packed = name.endswith(".gz")
        with gzip.open(file, "rb") if packed else io.BufferedReader(io.FileIO(file), _BUFFER) as stream:
            yield stream


def _in_utf8(stream: io.BufferedIOBase, encoding: str) -> Iterator[bytes]:
    """Blocks in another encoding; half a surrogate pair stays one, and is then no UTF-8: a fault of its row."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    while block := stream.read(BLOCK):
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8")


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a stream that can be read line by line."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        """Blocks can be read, and not written."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill some of a buffer; 0 at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
        room = memoryview(buffer)
        size = min(len(room), len(self._rest))
        room[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
