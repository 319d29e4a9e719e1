"""A small HTTP/1.1 client on asyncio: kept connections, one request at a time on each, timeouts everywhere.

It exists because the requests of this project are many, small and alike; it knows only what S3 and SQS say.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from itertools import count
from typing import Protocol
from urllib.parse import urlsplit

#: How long to wait for a connection, in seconds.
CONNECT_SECONDS = 10.0
#: How long a connection may lie idle before it is not trusted any more, in seconds. S3 closes after a few more.
IDLE_SECONDS = 4.0
#: How long the addresses of a name are kept, in seconds.
RESOLVE_SECONDS = 30.0
#: How often running requests are looked at for their time, in seconds.
_SWEEP_SECONDS = 0.5

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})[ \r]")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;|$)")
_BODILESS = frozenset({204, 304})


class ConnectionLost(ConnectionError):
    """The connection ended before the answer did; whether the request was served is unknown."""


class MalformedAnswer(ConnectionError):
    """What came is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `head` is the status line and the headers as they came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Give a header's value, or None."""
        found = re.search(rb"\r\n" + re.escape(name.encode()) + rb":[ \t]*([^\r\n]*)", self.head, re.IGNORECASE)
        return found[1].strip().decode("latin-1") if found else None


class AnswerReader:
    """Reads answers out of the bytes that arrive; knows no socket.

    `feed` returns the answer once it is whole. `keep` then says whether the connection may be used again.
    """

    def __init__(self) -> None:
        """Begin before the first answer."""
        self.keep = True
        self._head_only = False
        self.begin()

    def begin(self, *, head_only: bool = False) -> None:
        """Get ready for the answer to a new request; `head_only` for HEAD, whose answer has no body."""
        self._buffer = b""
        self._head: bytes | None = None
        self._length: int | None = None
        self._head_only = head_only

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived; return the answer if that was the end of it. Raises MalformedAnswer."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if not b"HTTP/1.".startswith(self._buffer[:7]):
                    raise MalformedAnswer(f"not an HTTP/1.1 answer: {self._buffer[:60]!r}")
                return None
            self._begin_body(self._buffer[: end + 2], end + 4)
        return self._body()

    def end(self) -> Response | None:
        """Take the end of the stream: the end of an answer that named no length."""
        self.keep = False
        if self._head is not None and self._length is None and not self._chunked:
            return Response(self._status, self._head, self._buffer)
        return None

    def _begin_body(self, head: bytes, start: int) -> None:
        status = _STATUS.match(head)
        if status is None:
            raise MalformedAnswer(f"not an HTTP/1.1 answer: {head[:60]!r}")
        self._status = int(status[2])
        self._buffer = self._buffer[start:]
        if self._status < HTTPStatus.OK:
            return  # "100 Continue" and its kin: the answer itself follows
        self._head = head
        self.keep = status[1] == b"1" and _CLOSE.search(head) is None
        self._chunked = _CHUNKED.search(head) is not None
        self._chunks: list[bytes] = []
        self._position = 0
        if self._head_only or self._status in _BODILESS:
            self._chunked, self._length = False, 0
        elif self._chunked:
            self._length = None
        else:
            found = _LENGTH.search(head)
            self._length = int(found[1]) if found else None
            self.keep = self.keep and found is not None

    def _body(self) -> Response | None:
        if self._chunked:
            return self._chunked_body()
        if self._length is None or len(self._buffer) < self._length:
            return None
        return self._finish(self._buffer[: self._length], len(self._buffer) == self._length)

    def _chunked_body(self) -> Response | None:
        buffer = self._buffer
        while True:
            line_end = buffer.find(b"\r\n", self._position)
            if line_end < 0:
                return None
            found = _CHUNK.match(buffer, self._position, line_end)
            if found is None:
                raise MalformedAnswer(f"not a chunk: {buffer[self._position : line_end][:40]!r}")
            size = int(found[1], 16)
            start, end = line_end + 2, line_end + 2 + size
            if size == 0:
                trailer_end = start if buffer[start : start + 2] == b"\r\n" else buffer.find(b"\r\n\r\n", start) + 2
                if trailer_end < start or len(buffer) < trailer_end + 2:
                    return None
                return self._finish(b"".join(self._chunks), len(buffer) == trailer_end + 2)
            if len(buffer) < end + 2:
                return None
            if buffer[end : end + 2] != b"\r\n":
                raise MalformedAnswer("a chunk that does not end where it should")
            self._chunks.append(buffer[start:end])
            self._position = end + 2

    def _finish(self, body: bytes, nothing_follows: bool) -> Response:  # noqa: FBT001 - private, and named
        self.keep = self.keep and nothing_follows
        return Response(self._status, self._head or b"", body)


class Connection(Protocol):
    """One request at a time, and its answer; what a test replaces."""

    @property
    def usable(self) -> bool:
        """Tell whether another request may be sent here."""

    async def exchange(self, request: bytes, timeout_seconds: float) -> Response:
        """Send a request and wait for its answer; raises ConnectionError or TimeoutError."""

    def close(self) -> None:
        """End the connection now."""


class Dial(Protocol):
    """Opens a connection to a host; what a test replaces."""

    async def __call__(self) -> Connection:
        """Open a connection; raises OSError or TimeoutError."""


class SocketConnection(asyncio.Protocol):
    """A Connection over TCP or TLS."""

    def __init__(self, host: Host) -> None:
        """Belong to a host, which watches the time of running requests."""
        self._host = host
        self._reader = AnswerReader()
        self._waiter: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self.deadline = 0.0
        self.used_at = 0.0

    @property
    def usable(self) -> bool:
        """Tell whether another request may be sent here."""
        return self._transport is not None and self._reader.keep and not self._transport.is_closing()

    async def exchange(self, request: bytes, timeout_seconds: float) -> Response:
        """Send a request and wait for its answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLost("the connection was closed")
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + timeout_seconds
        self._reader.begin(head_only=request.startswith(b"HEAD "))
        self._waiter = loop.create_future()
        self._host.watch(self)
        self._transport.write(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None
            self._host.unwatch(self)

    def close(self) -> None:
        """End the connection now; what waits on it gets ConnectionLost."""
        if self._transport is not None:
            self._transport.abort()
        self._fail(ConnectionLost("the connection was closed"))

    def expire(self) -> None:
        """End a request whose time is over."""
        self._fail(TimeoutError("no answer in time"))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # ------------------------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand what arrives to the reader, and its answer to who waits."""
        if self._waiter is None or self._waiter.done():
            self.close()
            return
        try:
            response = self._reader.feed(data)
        except MalformedAnswer as error:
            self._fail(error)
            self.close()
            return
        if response is not None:
            self._waiter.set_result(response)

    def eof_received(self) -> None:
        """Take the end of the stream, which may be the end of an answer."""
        if self._waiter is not None and not self._waiter.done():
            response = self._reader.end()
            if response is not None:
                self._waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer will come."""
        self._transport = None
        self._fail(ConnectionLost(str(exc) if exc else "the other side closed the connection"))


class Host:
    """The kept connections to one host.

    The last one used is used first, so that those too many fall idle and are dropped.
    """

    def __init__(self, dial: Dial | None = None, *, url: str = "", tls: ssl.SSLContext | None = None) -> None:
        """Reach the host of `url`, or whatever `dial` connects to."""
        self._dial = dial or self._open
        self._idle: list[tuple[float, Connection]] = []
        self._busy: set[SocketConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._addresses: list[str] = []
        self._resolved_at = float("-inf")
        self._turn = count()
        if url:
            parts = urlsplit(url)
            self._name = parts.hostname or ""
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
            self._tls = (tls or _tls_context()) if parts.scheme == "https" else None

    async def exchange(self, request: bytes, timeout_seconds: float) -> Response:
        """Send a request on a kept or a new connection; raises OSError (ConnectionError, TimeoutError)."""
        while self._idle:
            since, connection = self._idle.pop()
            if not connection.usable or time.monotonic() - since > IDLE_SECONDS:
                connection.close()
                continue
            try:
                return await self._exchange_on(connection, request, timeout_seconds)
            except ConnectionLost:
                continue  # it had been closed meanwhile; every request of ours may be sent twice
        return await self._exchange_on(await self._dial(), request, timeout_seconds)

    async def _exchange_on(self, connection: Connection, request: bytes, timeout_seconds: float) -> Response:
        response = await connection.exchange(request, timeout_seconds)
        if connection.usable:
            self._idle.append((time.monotonic(), connection))
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    # ----------------------------------------------------------------------------------------- the time of requests

    def watch(self, connection: SocketConnection) -> None:
        """Look after the deadline of a running request; one timer serves them all."""
        self._busy.add(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._look)

    def unwatch(self, connection: SocketConnection) -> None:
        """Forget a request that ended."""
        self._busy.discard(connection)
        if not self._busy and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._sweep = loop.call_later(_SWEEP_SECONDS, self._look)
        for connection in [c for c in self._busy if c.deadline < now]:
            connection.expire()

    # --------------------------------------------------------------------------------------------- new connections

    async def _open(self) -> Connection:
        """Connect to the next address, or to one behind it where that refuses: a name may have addresses without a route."""
        async with asyncio.timeout(CONNECT_SECONDS):
            addresses = await self._addresses_in_turn()
            for address in addresses[:-1]:
                with suppress(OSError):
                    return await self._connect(address)
            return await self._connect(addresses[-1])

    async def _connect(self, address: str) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: SocketConnection(self),
            address,
            self._port,
            ssl=self._tls,
            server_hostname=self._name if self._tls else None,
        )
        return connection

    async def _addresses_in_turn(self) -> list[str]:
        """Give the addresses of the name, each time another one first; the name is resolved again by TTL."""
        if time.monotonic() - self._resolved_at > RESOLVE_SECONDS:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._resolved_at = time.monotonic()
        first = next(self._turn) % len(self._addresses)
        return self._addresses[first:] + self._addresses[:first]


@cache
def _tls_context() -> ssl.SSLContext:
    """Give the one context of this process: reading the certificates costs some ten milliseconds."""
    return ssl.create_default_context()
