"""HTTP/1.1 answers, read out of the bytes that arrive. Knows no socket.

It exists because the requests of this project are many, small and alike; it knows only what S3 and SQS say.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# `re` compiles each of these when it is first used; most answers need none.
#: What tells where an answer ends, in its head.
_FRAMING = rb"(?i)\n(?:content-length:[ \t]*(\d+)|transfer-encoding:[ \t]*(chunked)|connection:[ \t]*(close))"
_LENGTH_LABEL = b"\r\nContent-Length: "
_OK_LINE = b"HTTP/1.1 200 "
_CHUNK = rb"([0-9a-fA-F]{1,15})[ \t]*(?:;|$)"
_STATUS_LINE = rb"HTTP/1\.([01]) (\d{3})[ \r]"
_BODILESS = frozenset({204, 304})

#: Longest head, in bytes.
_MOST_HEAD = 64 * 1024

#: Most bytes of a body that is read: twice a page of a thousand of the longest keys, each of whose bytes is written as three.
MOST_BODY_BYTES = 8 * 1024 * 1024


class MalformedAnswer(ConnectionError):
    """What came is not HTTP/1.1."""


class AnswerTooLong(MalformedAnswer):
    """An answer is longer than any that is asked for: it is to another question."""


class Response(NamedTuple):
    """An answer; `head` is the status line and the headers as they came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Give a header's value, or None."""
        found = re.search(rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r\n]*)", self.head, re.IGNORECASE)
        return found[1].strip().decode("latin-1") if found else None


#: Makes a Response of its fields in a row; half the price of calling it.
_make_response: Callable[[tuple[int, bytes, bytes]], Response] = partial(tuple.__new__, Response)


class _Layout(NamedTuple):
    """Where in an answer its length is written, and where its head ends: most answers of a server look alike."""

    #: Bytes of the whole answer.
    size: int
    #: Where the line that tells the length begins, and the line, with the end of the one before and a carriage return.
    label: int
    line: bytes
    end: int


class AnswerReader:
    """Reads answers, one after another.

    `feed` returns the answer once it is whole. `keep` then says whether the connection may be used again.
    """

    def __init__(self) -> None:
        """Begin before the first answer."""
        self.keep = True
        self._is_bodiless = False
        self._layout: _Layout | None = None
        #: Of the body, as they came.
        self._pieces: list[bytes] = []
        #: What is not understood before more of it comes: a piece of the head, or of a line between chunks.
        self._rest = b""
        self._head = b""

    def expect_no_body(self) -> None:
        """Get ready for the answer to a HEAD request, which has no body though it says how long that would be."""
        self._is_bodiless, self._layout = True, None

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived; return the answer if that was the end of it. Raises MalformedAnswer."""
        if self._layout is not None and data.startswith(_OK_LINE) and not self._rest and not self._head:
            size, label, line, end = self._layout
            if len(data) == size and data.startswith(line, label) and data.startswith(b"\r\n\r\n", end):
                return _make_response((200, data[: end + 2], data[end + 4 :]))
        return self._go_on(data)

    def _go_on(self, data: bytes) -> Response | None:
        while not self._head:
            data = self._rest + data if self._rest else data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if not b"HTTP/1.".startswith(data[:7]) or len(data) > _MOST_HEAD:
                    raise MalformedAnswer(f"not an HTTP/1.1 answer: {data[:60]!r}")
                self._rest = data
                return None
            self._rest = b""
            self._read_head(data[: end + 2])
            data = data[end + 4 :]
        if self._chunked:
            return self._take_chunks(data)
        self._pieces.append(data)
        self._missing -= len(data)
        if self._length is None:
            _check_length(-self._missing)
        if self._length is None or self._missing > 0:
            return None
        if self._missing < 0:
            self.keep = False  # whatever follows, nobody asked for it
        return self._whole(self._length)

    def end(self) -> Response | None:
        """Take the end of the stream: the end of an answer that named no length."""
        self.keep = False
        return self._whole() if self._head and self._length is None and not self._chunked else None

    def _whole(self, length: int | None = None) -> Response:
        """Give the answer, and keep nothing of it: a connection would else hold the page that it last listed."""
        body, head = b"".join(self._pieces)[:length], self._head
        self._pieces, self._head = [], b""
        return _make_response((self._status, head, body))

    def _read_head(self, head: bytes) -> None:
        if head.startswith(_OK_LINE):
            self._status, self.keep = 200, True
        else:
            found = re.match(_STATUS_LINE, head)
            if found is None:
                raise MalformedAnswer(f"not an HTTP/1.1 answer: {head[:60]!r}")
            if found[2] < b"200":
                return  # "100 Continue" and its kin: the answer itself follows
            self._status, self.keep = int(found[2]), found[1] == b"1"
        self._head = head
        self._read_framing(head)

    def _read_framing(self, head: bytes) -> None:
        self._length: int | None = None
        self._chunked = False
        self._pieces = []
        for length, chunked, close in re.findall(_FRAMING, head):
            if length:
                self._length = int(length)
            elif chunked:
                self._chunked = True
            elif close:
                self.keep = False
        if self._status in _BODILESS or self._is_bodiless:
            self._length, self._chunked, self._is_bodiless = 0, False, False
        elif self._chunked:
            self._length = None
        elif self._length is None:
            self.keep = False
        #: How much of the body, or of the chunk, is still to come; and how long the chunks are so far.
        self._missing = self._length or 0
        self._chunk_bytes = 0
        _check_length(self._missing)
        self._layout = self._layout_of(head)

    def _layout_of(self, head: bytes) -> _Layout | None:
        """Give the layout of a head that says no more of its body than a length, and nothing of an end."""
        label = head.find(_LENGTH_LABEL)
        if self._length is None or label < 0 or not self.keep or not head.startswith(_OK_LINE):
            return None
        line = head[label : head.index(b"\r", label + 1) + 1]
        return _Layout(len(head) + 2 + self._length, label, line, len(head) - 2)

    def _take_chunks(self, data: bytes) -> Response | None:
        data = self._rest + data if self._rest else data
        position = 0
        while True:
            if self._missing:
                piece = data[position : position + self._missing]
                self._pieces.append(piece)
                self._missing -= len(piece)
                position += len(piece)
                if self._missing:
                    self._rest = b""
                    return None
            # A line tells how long the next chunk is; the end of the one before stands in front of it.
            before = b"\r\n" if self._pieces else b""
            line_end = data.find(b"\r\n", position + len(before))
            if not before.startswith(data[position : position + len(before)]):
                raise MalformedAnswer(f"a chunk that does not end where it should: {data[position:][:40]!r}")
            if line_end < 0:
                self._rest = data[position:]
                return None
            found = re.match(_CHUNK, data[position + len(before) : line_end])
            if found is None:
                raise MalformedAnswer(f"not a chunk: {data[position:line_end][:40]!r}")
            self._missing = int(found[1], 16)
            self._chunk_bytes += self._missing
            _check_length(self._chunk_bytes)
            if self._missing == 0:
                return self._take_trailer(data, position, line_end)
            position = line_end + 2

    def _take_trailer(self, data: bytes, position: int, line_end: int) -> Response | None:
        """Take what follows the last chunk, whose line begins at `position`: headers, or none, and an empty line."""
        end = data.find(b"\r\n\r\n", line_end)
        if end < 0:
            self._rest = data[position:]
            return None
        self.keep = self.keep and len(data) == end + 4
        self._rest = b""
        return self._whole()


def _check_length(size: int) -> None:
    if size > MOST_BODY_BYTES:
        raise AnswerTooLong(f"an answer of {size:,} bytes, to something else than was asked")
