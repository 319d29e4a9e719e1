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


class MalformedAnswer(ConnectionError):
    """What came is not HTTP/1.1."""


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

    label: int
    digits: int
    #: Behind the digits and the carriage return.
    rest: int
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
        self.begin()

    def begin(self) -> None:
        """Get ready for the answer to a new request."""
        self._buffer = b""
        self._head = b""

    def expect_no_body(self) -> None:
        """Get ready for the answer to a HEAD request, which has no body though it says how long that would be."""
        self._is_bodiless, self._layout = True, None

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived; return the answer if that was the end of it. Raises MalformedAnswer."""
        if self._layout is not None and data.startswith(_OK_LINE) and not self._buffer and not self._head:
            label, digits, rest, end = self._layout
            if (
                data[label:digits] == _LENGTH_LABEL
                and data[end : end + 4] == b"\r\n\r\n"
                and data[digits:rest] == b"%d\r" % (len(data) - end - 4)
            ):
                return _make_response((200, data[: end + 2], data[end + 4 :]))
        return self._go_on(data)

    def _go_on(self, data: bytes) -> Response | None:
        buffer = self._buffer + data if self._buffer else data
        while not self._head:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if not b"HTTP/1.".startswith(buffer[:7]):
                    raise MalformedAnswer(f"not an HTTP/1.1 answer: {buffer[:60]!r}")
                self._buffer = buffer
                return None
            self._read_head(buffer[: end + 2])
            buffer = buffer[end + 4 :]
        if len(buffer) == self._length:
            self._buffer = b""
            return _make_response((self._status, self._head, buffer))
        self._buffer = buffer
        return self._chunked_body() if self._chunked else self._body()

    def end(self) -> Response | None:
        """Take the end of the stream: the end of an answer that named no length."""
        self.keep = False
        if self._head and self._length is None and not self._chunked:
            return Response(self._status, self._head, self._buffer)
        return None

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
        for length, chunked, close in re.findall(_FRAMING, head):
            if length:
                self._length = int(length)
            elif chunked:
                self._chunked = True
                self._chunks: list[bytes] = []
                self._position = 0
            elif close:
                self.keep = False
        if self._status in _BODILESS or self._is_bodiless:
            self._length, self._chunked, self._is_bodiless = 0, False, False
        elif self._chunked:
            self._length = None
        elif self._length is None:
            self.keep = False
        self._layout = self._layout_of(head)

    def _layout_of(self, head: bytes) -> _Layout | None:
        """Give the layout of a head that says no more of its body than a length, and nothing of an end."""
        label = head.find(_LENGTH_LABEL)
        if self._length is None or label < 0 or not self.keep or not head.startswith(_OK_LINE):
            return None
        return _Layout(label, label + len(_LENGTH_LABEL), head.index(b"\r", label + 1) + 1, len(head) - 2)

    def _body(self) -> Response | None:
        length, buffer = self._length, self._buffer
        if length is None or len(buffer) < length:
            return None
        self.keep = False  # whatever follows, nobody asked for it
        return Response(self._status, self._head, buffer[:length])

    def _chunked_body(self) -> Response | None:
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\r\n", self._position)
            if line_end < 0:
                return None
            found = re.match(_CHUNK, buffer[self._position : line_end])
            if found is None:
                raise MalformedAnswer(f"not a chunk: {buffer[self._position : line_end][:40]!r}")
            size = int(found[1], 16)
            start, end = line_end + 2, line_end + 2 + size
            if size == 0:
                trailer_end = start if buffer[start : start + 2] == b"\r\n" else buffer.find(b"\r\n\r\n", start) + 2
                if trailer_end < start or len(buffer) < trailer_end + 2:
                    return None
                self.keep = self.keep and len(buffer) == trailer_end + 2
                body = b"".join(self._chunks)
                self._chunks, self._buffer = [], b""  # else a connection keeps the page that it once listed
                return Response(self._status, self._head, body)
            if len(buffer) < end + 2:
                return None
            if buffer[end : end + 2] != b"\r\n":
                raise MalformedAnswer("a chunk that does not end where it should")
            self._chunks.append(buffer[start:end])
            self._position = end + 2
