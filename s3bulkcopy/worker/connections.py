"""Connections to one host on asyncio: kept, one request at a time on each, timeouts everywhere.

What sends a request is called back with its answer, so that a chain of many requests costs no coroutine; `Host.exchange`
is for those who would rather wait.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from functools import cache
from itertools import count
from typing import Protocol
from urllib.parse import urlsplit

from s3bulkcopy.worker.http import AnswerReader, MalformedAnswer, Response

#: How long to wait for a connection, in seconds.
CONNECT_SECONDS = 10.0
#: How long a connection may lie idle before it is not trusted any more, in seconds. S3 closes after a few more.
IDLE_SECONDS = 4.0
#: How long the addresses of a name are kept, in seconds.
RESOLVE_SECONDS = 30.0
#: How often running requests are looked at for their time, in seconds.
_SWEEP_SECONDS = 0.5
#: Largest piece of plain text in one TLS record, in bytes (RFC 8446, 5.1).
_RECORD_BYTES = 16_384
#: Where answers arrive.
_ARRIVALS = memoryview(bytearray(128 * 1024))


class ConnectionLost(ConnectionError):
    """The connection ended before the answer did; whether the request was served is unknown."""


class Receiver(Protocol):
    """What sent a request; exactly one of these is called, once, and not before `send` has returned."""

    def answered(self, response: Response) -> None:
        """Take the answer; the connection is free again."""

    def failed(self, error: OSError) -> None:
        """Learn that none came."""


class Connection(Protocol):
    """One request at a time, and its answer; what a test replaces."""

    @property
    def usable(self) -> bool:
        """Tell whether another request may be sent here."""

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        """Send a request; its answer, or why there is none by then (the event loop's clock), goes to the receiver."""

    def close(self) -> None:
        """End the connection now; who waits for an answer is told."""


class Dial(Protocol):
    """Opens a connection to a host; what a test replaces."""

    async def __call__(self) -> Connection:
        """Open a connection; raises OSError or TimeoutError."""


class SocketConnection(asyncio.BufferedProtocol):
    """A Connection over TCP.

    All of them read into one buffer, which is empty again before the next one reads: asyncio's other way makes a bytes object
    of 256 KiB for each answer, which costs several times what all else about it does.
    """

    def __init__(self, host: Host) -> None:
        """Belong to a host, which watches the time of running requests."""
        self._host = host
        self._reader = AnswerReader()
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline = 0.0

    @property
    def usable(self) -> bool:
        """Tell whether another request may be sent here."""
        return self._transport is not None and self._reader.keep and self._receiver is None

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        """Send a request."""
        self._receiver = receiver
        self._deadline = deadline
        self._reader.begin()
        if self._transport is None:
            self._host.loop.call_soon(self._fail, ConnectionLost("the connection was closed"))
            return
        self._write(self._transport, request)
        if not self._host.is_watching:
            self._host.watch()

    def close(self) -> None:
        """End the connection now."""
        self._abort(ConnectionLost("the connection was closed"))

    def end_if_late(self, now: float) -> bool:
        """End a request whose time is over; tell whether one is still running."""
        if self._receiver is not None and self._deadline < now:
            self._abort(TimeoutError("no answer in time"))
        return self._receiver is not None

    def _abort(self, error: OSError) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._host.closed(self)
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.failed(error)

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        transport.write(data)

    def _take(self, data: bytes) -> None:
        """Hand what arrived to the reader, and its answer to who waits."""
        receiver = self._receiver
        if receiver is None:
            self.close()
            return
        try:
            response = self._reader.feed(data)
        except MalformedAnswer as error:
            self._abort(error)
            return
        if response is not None:
            self._receiver = None
            receiver.answered(response)

    # ------------------------------------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]
        self._host.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give where to put what arrives."""
        del sizehint
        return _ARRIVALS

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        self._take(bytes(_ARRIVALS[:nbytes]))

    def eof_received(self) -> None:
        """Take the end of the stream, which may be the end of an answer."""
        response = self._reader.end()
        if self._receiver is not None and response is not None:
            receiver, self._receiver = self._receiver, None
            receiver.answered(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer will come."""
        self._transport = None
        self._host.closed(self)
        self._fail(ConnectionLost(str(exc) if exc else "the other side closed the connection"))


class TlsConnection(SocketConnection):
    """A Connection over TLS.

    asyncio's own TLS keeps a buffer of 256 KiB for each connection, costs about twice the processor time, and does not resume
    sessions: a resumed one saves most of a handshake, and S3 ends a connection after some hundred requests.
    """

    def __init__(self, host: Host, context: ssl.SSLContext) -> None:
        """Belong to a host, and prove its name."""
        super().__init__(host)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.name, session=host.tls_session)
        self._open = self._session_kept = False
        #: Done once the handshake is.
        self.secured: asyncio.Future[None] = host.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        super().connection_made(transport)
        self._shake_hands()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived, one record after another."""
        self._incoming.write(_ARRIVALS[:nbytes])
        try:
            if not self._open:
                self._shake_hands()
            while self._open and (self._incoming.pending or self._tls.pending()):
                self._take(self._tls.read(_RECORD_BYTES))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:  # a clean end is one too
            self._abort(ConnectionLost(str(error)))
        self._flush()

    def eof_received(self) -> None:
        """Take the end of the stream; over TLS it is not to be trusted as the end of an answer."""
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer will come."""
        super().connection_lost(exc)
        if not self.secured.done():
            self.secured.set_exception(ConnectionLost("the other side closed the connection before it was secured"))
            self.secured.exception()  # whoever asked may have gone

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            if not self.secured.done():
                self.secured.set_exception(error)
            self._abort(ConnectionLost(str(error)))
            return
        self._flush()
        self._open = True
        if not self.secured.done():
            self.secured.set_result(None)

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        self._tls.write(data)
        transport.write(self._outgoing.read())

    def _take(self, data: bytes) -> None:
        if not self._session_kept:
            # Not before: in TLS 1.3 what is needed to resume a session comes with the first answer.
            self._session_kept = True
            if not self._tls.session_reused:
                self._host.tls_session = self._tls.session
        super()._take(data)


class _Waiter:
    """A Receiver that somebody waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Response] = loop.create_future()

    def answered(self, response: Response) -> None:
        if not self.answer.done():
            self.answer.set_result(response)

    def failed(self, error: OSError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Host:
    """The kept connections to one host.

    The last one used is used first, so that those too many fall idle and are dropped.
    """

    def __init__(self, dial: Dial | None = None, *, url: str = "", ca_file: str | None = None) -> None:
        """Reach the host of `url`, or whatever `dial` connects to; `ca_file` holds the certificates to trust."""
        self._dial = dial or self._open
        self._idle: list[tuple[float, Connection]] = []
        self._all: set[SocketConnection] = set()
        self.is_watching = False
        self._addresses: list[str] = []
        self._resolved_at = float("-inf")
        self._turn = count()
        #: What the next handshake may go on from.
        self.tls_session: ssl.SSLSession | None = None
        self.name = ""
        if url:
            parts = urlsplit(url)
            self.name = parts.hostname or ""
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
            self._tls = tls_context(ca_file) if parts.scheme == "https" else None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that runs."""
        return asyncio.get_running_loop()

    # -------------------------------------------------------------------------------------------------- connections

    def take(self, now: float) -> Connection | None:
        """Give a kept connection that is to be trusted, or None; whoever takes one gives it back."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and now - since <= IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection, now: float) -> None:
        """Keep a connection for the next request, if it is still of use."""
        if connection.usable:
            self._idle.append((now, connection))
        else:
            connection.close()

    async def dial(self) -> Connection:
        """Open a connection; raises OSError (ConnectionError, TimeoutError)."""
        return await self._dial()

    async def exchange(self, request: bytes, timeout_seconds: float) -> Response:
        """Send a request on a kept or a new connection and wait for its answer; raises OSError."""
        while (kept := self.take(self.loop.time())) is not None:
            with suppress(ConnectionLost):  # it had been closed meanwhile; every request of ours may be sent twice
                return await self._exchange_on(kept, request, timeout_seconds)
        return await self._exchange_on(await self._dial(), request, timeout_seconds)

    async def _exchange_on(self, connection: Connection, request: bytes, timeout_seconds: float) -> Response:
        waiter = _Waiter(self.loop)
        connection.send(request, self.loop.time() + timeout_seconds, waiter)
        try:
            response = await waiter.answer
        except asyncio.CancelledError:
            connection.close()
            raise
        self.give_back(connection, self.loop.time())
        return response

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    # ----------------------------------------------------------------------------------------- the time of requests

    def opened(self, connection: SocketConnection) -> None:
        """Look after a connection."""
        self._all.add(connection)

    def closed(self, connection: SocketConnection) -> None:
        """Forget a connection."""
        self._all.discard(connection)

    def watch(self) -> None:
        """Look at the deadlines of running requests until none is left; one timer serves them all."""
        self.is_watching = True
        self.loop.call_later(_SWEEP_SECONDS, self._look)

    def _look(self) -> None:
        self.is_watching = False
        now = self.loop.time()
        if any(connection.end_if_late(now) for connection in [*self._all]):  # each of them, not up to the first
            self.watch()

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
        tls, loop = self._tls, self.loop
        if tls is None:
            _, plain = await loop.create_connection(lambda: SocketConnection(self), address, self._port)
            return plain
        _, connection = await loop.create_connection(lambda: TlsConnection(self, tls), address, self._port)
        try:
            await connection.secured
        except BaseException:
            connection.close()
            raise
        return connection

    async def _addresses_in_turn(self) -> list[str]:
        """Give the addresses of the name, each time another one first; the name is resolved again by TTL."""
        if self.loop.time() - self._resolved_at > RESOLVE_SECONDS:
            found = await self.loop.getaddrinfo(self.name, self._port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._resolved_at = self.loop.time()
        first = next(self._turn) % len(self._addresses)
        return self._addresses[first:] + self._addresses[:first]


@cache
def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Give the one context of this process for these certificates: reading them costs some ten milliseconds."""
    return ssl.create_default_context(cafile=ca_file)
