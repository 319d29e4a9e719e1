"""Connections to one host: kept, one request at a time on each, timeouts everywhere.

What sends a request is called back with its answer, so that a chain of many requests costs no coroutine; `Host.exchange`
is for those who would rather wait.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from s3bulkcopy.worker import aio, urls
from s3bulkcopy.worker.http import AnswerReader, MalformedAnswer, Response

if TYPE_CHECKING:
    import ssl

#: How long to wait for a connection, in seconds.
CONNECT_SECONDS = 10.0
#: How long one address may take of that where there are others.
_ADDRESS_SECONDS = 3.0
#: How long a connection may lie idle before it is not trusted any more, in seconds. S3 closes after a few more.
IDLE_SECONDS = 4.0
#: How long the addresses of a name are kept, in seconds.
RESOLVE_SECONDS = 30.0
#: How long to wait for them where older ones are known, in seconds.
_RESOLVE_PATIENCE_SECONDS = 1.0
#: How often running requests are looked at for their time, in seconds.
_SWEEP_SECONDS = 0.5
#: Most that is read at a time, in bytes. Room for so much is made for each read and cut to what came, which costs more the
#: larger it is; the answer to a copy is less than one KiB, and a page of a listing some hundreds.
_ARRIVAL_BYTES = 16 * 1024


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
    def host(self) -> Host:
        """Give what it is kept by."""

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


class Make(Protocol):
    """Makes a connection to a host of a socket that is connected, whatever is to be said before the first request."""

    async def __call__(self, host: Host, connected: socket.socket) -> Connection:
        """Make it; raises OSError."""


class SocketConnection:
    """A Connection over TCP, straight on a socket.

    asyncio's transports cost as much as all else that is done for an answer, and read each into a new buffer of 256 KiB.
    """

    #: What the socket raises when it would have to wait.
    not_yet: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)

    def __init__(self, host: Host, connected: socket.socket) -> None:
        """Take over a connected socket that does not block; its host watches the time of running requests."""
        self.host = host
        self._socket: socket.socket | None = connected
        self._reader = AnswerReader()
        self._receiver: Receiver | None = None
        self._deadline = 0.0
        self._unsent = b""
        self._defer = host.loop.defer
        host.opened(self)
        host.loop.add_reader(connected.fileno(), self._readable)

    @property
    def usable(self) -> bool:
        """Tell whether another request may be sent here: not behind one that was answered before it was sent whole."""
        return self._receiver is None and self._reader.keep and not self._unsent and self._socket is not None

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        """Send a request."""
        self._receiver = receiver
        self._deadline = deadline
        if self._socket is None:
            self.host.loop.call_soon(self._fail, ConnectionLost("the connection was closed"))
            return
        try:
            sent = self._socket.send(request)
        except self.not_yet:
            sent = 0
        except OSError as error:
            self.host.loop.call_soon(self._abort, ConnectionLost(str(error)))
            return
        if sent < len(request):
            self._unsent = request[sent:]
            self.host.loop.add_writer(self._socket.fileno(), self._writable)
        if not self.host.is_watching:
            self.host.watch()

    def expect_no_body(self) -> None:
        """Take the answer to the request just sent, a HEAD, for whole when its head is."""
        self._reader.expect_no_body()

    def close(self) -> None:
        """End the connection now."""
        self._abort(ConnectionLost("the connection was closed"))

    def end_if_late(self, now: float) -> bool:
        """End a request whose time is over; tell whether one is still running."""
        if self._receiver is not None and self._deadline < now:
            self._abort(TimeoutError("no answer in time"))
        return self._receiver is not None

    def _abort(self, error: OSError) -> None:
        if self._socket is not None:
            self.host.loop.remove_reader(self._socket.fileno())
            self.host.loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self.host.closed(self)
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.failed(error)

    def _writable(self) -> None:
        if self._socket is None:
            return
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except self.not_yet:
            return
        except OSError as error:
            self._defer(self._abort, ConnectionLost(str(error)))  # what has arrived before comes first
            return
        if not self._unsent:
            self.host.loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_ARRIVAL_BYTES)
        except self.not_yet:
            return
        except OSError as error:
            self._defer(self._abort, ConnectionLost(str(error)))
            return
        self._defer(self._take, data)

    def _take(self, data: bytes) -> None:
        """Hand what arrived to the reader, and its answer to who waits; nothing is the end of the stream."""
        if not data:
            self._end()
            return
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

    def _end(self) -> None:
        """Take the end of the stream, which may be the end of an answer."""
        response, receiver = self._reader.end(), self._receiver
        if receiver is not None and response is not None:
            self._receiver = None
            receiver.answered(response)
        self._abort(ConnectionLost("the other side closed the connection"))


class _Waiter:
    """A Receiver that somebody waits for."""

    def __init__(self, loop: aio.Loop) -> None:
        self.answer: aio.Future = loop.create_future()

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

    def __init__(
        self, dial: Dial | None = None, *, url: str = "", ca_file: str | None = None, proxy: str | None = None
    ) -> None:
        """Reach the host of `url`, or whatever `dial` connects to.

        `ca_file` holds the certificates to trust; `proxy` is the URL of an HTTP proxy to go through.
        """
        self._dial = dial or self._open
        self._idle: list[tuple[float, Connection]] = []
        self._all: set[SocketConnection] = set()
        self.is_watching = False
        #: Of the name: family and address, as `socket` wants them.
        self._addresses: list[tuple[int, Any]] = []
        self._resolved_at = float("-inf")
        #: The resolution that is under way, which all share who wait for it; it gives what it failed with.
        self._resolving: aio.Task | None = None
        self._turn = count()
        #: What the next handshake may go on from.
        self.tls_session: ssl.SSLSession | None = None
        self._make: Make | None = None
        self.name = ""
        if url:
            scheme, host, _ = urls.split(url)
            self.name, self._port = urls.name_and_port(host, scheme)
            self._reached = self.name
            if scheme == "https":
                from s3bulkcopy.worker.tls import securing  # noqa: PLC0415 - slow to import, and not always needed

                self._make = securing(ca_file)
            if proxy is not None:
                from s3bulkcopy.worker.proxy import through  # noqa: PLC0415 - seldom needed

                self._reached, self._port, self._make = through(proxy, url, self._make)

    @property
    def loop(self) -> aio.Loop:
        """The event loop that runs."""
        return aio.get_running_loop()

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
        if request.startswith(b"HEAD ") and isinstance(connection, SocketConnection):
            connection.expect_no_body()
        try:
            response: Response = await waiter.answer
        except aio.CancelledError:
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
        running = sum(connection.end_if_late(now) for connection in [*self._all])
        if running and not self.is_watching:  # to end one may have sent another, which watches already
            self.watch()

    # --------------------------------------------------------------------------------------------- new connections

    async def _open(self) -> Connection:
        """Connect to the next address, or to one behind it where that does not answer: some may have no route."""
        async with aio.timeout(CONNECT_SECONDS):
            addresses = await self._addresses_in_turn()
            for address in addresses[:-1]:
                with suppress(OSError):
                    async with aio.timeout(_ADDRESS_SECONDS):
                        return await self._connect(address)
            return await self._connect(addresses[-1])

    async def _connect(self, address: tuple[int, Any]) -> Connection:
        family, where = address
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.sock_connect(connected, where)
            return await self._make(self, connected) if self._make else SocketConnection(self, connected)
        except BaseException:
            connected.close()
            raise

    async def _addresses_in_turn(self) -> list[tuple[int, Any]]:
        """Give the addresses of the name, each time another one first.

        The name is resolved again by TTL; where that takes long or fails, the addresses known stay in use.
        """
        if self.loop.time() - self._resolved_at > RESOLVE_SECONDS:
            resolving = self._resolving = self._resolving or aio.create_task(self._resolve())
            # Waited for, not awaited: a dial that is given up must not cancel what others wait for.
            await aio.wait(resolving, _RESOLVE_PATIENCE_SECONDS if self._addresses else None)
            if not self._addresses and (error := resolving.result()) is not None:
                raise error.with_traceback(None)
        first = next(self._turn) % len(self._addresses)
        return self._addresses[first:] + self._addresses[:first]

    async def _resolve(self) -> Exception | None:
        """Resolve the name; give what went wrong."""
        try:
            found = await self.loop.getaddrinfo(self._reached, self._port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            return error
        finally:
            self._resolving = None
        self._addresses = list(dict.fromkeys((entry[0], entry[4]) for entry in found))
        self._resolved_at = self.loop.time()
        return None
