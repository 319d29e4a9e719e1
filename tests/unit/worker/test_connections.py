"""What connections do to a server on this machine."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import aio, connections
from s3bulkcopy.worker.connections import ConnectionLost, Host
from s3bulkcopy.worker.http import MalformedAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Peer:
    """The server's end of a connection, in a thread of its own."""

    def __init__(self, server: Server, end: socket.socket) -> None:
        self._server = server
        self._end = end
        self._part = b""

    def request(self) -> bytes:
        """Wait for the next request; raises ConnectionError where none comes any more."""
        while b"\r\n\r\n" not in self._part:
            self._part += self._received()
        request, _, self._part = self._part.partition(b"\r\n\r\n")
        self._server.requests.append(request)
        return request

    def _received(self) -> bytes:
        data = self._end.recv(65_536)
        if not data:
            raise ConnectionAbortedError
        return data

    def write(self, data: bytes) -> None:
        self._end.sendall(data)

    def wait_for_the_end(self) -> None:
        """Wait until the client closes."""
        while self._end.recv(65_536):
            pass

    def abort(self) -> None:
        """Reset the connection."""
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end.close()


class Server:
    """A server on this machine; `serve` speaks on each connection that it accepts."""

    def __init__(self, serve: Callable[[Server, Peer], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:{1}".format(*self._listener.getsockname())
        self.connections = 0
        self.requests: list[bytes] = []
        self.open = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self.open += 1
            threading.Thread(target=self._speak, args=(end,), daemon=True).start()

    def _speak(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            self._serve(self, Peer(self, end))
        with self._lock:
            self.open -= 1

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with aio.timeout(10):
            while not condition():
                await aio.sleep(0.001)


@asynccontextmanager
async def serving(serve: Callable[[Server, Peer], None]) -> AsyncIterator[tuple[Server, Host]]:
    """Serve for a while, then see that the client left nothing behind."""
    server = Server(serve)
    host = Host(url=server.url)
    try:
        yield server, host
    finally:
        host.close()
        server.close()
        await server.until(lambda: server.open == 0)
        await server.until(lambda: not host._all)  # the client hears of the end a little later than the server


def echo(_: Server, peer: Peer) -> None:
    """Answer each request with its path."""
    while True:
        path = peer.request().split(b" ")[1]
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def test_a_connection_is_kept_for_the_next_request() -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            bodies = [(await host.exchange(get(f"/{n}"), 5)).body for n in range(3)]
            assert (bodies, server.connections) == ([b"/0", b"/1", b"/2"], 1)

    aio.run(main())


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            answers = await aio.gather(*(host.exchange(get(f"/{n}"), 5) for n in range(20)))
            assert [answer.body for answer in answers] == [b"/%d" % n for n in range(20)]
            assert server.connections == 20
            await aio.gather(*(host.exchange(get("/"), 5) for n in range(20)))
            assert server.connections == 20

    aio.run(main())


def test_a_kept_connection_that_the_server_closed_is_replaced_and_no_request_lost() -> None:
    def once(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        async with serving(once) as (server, host):
            statuses = []
            for _ in range(3):
                statuses.append((await host.exchange(get("/"), 5)).status)
                await server.until(lambda: server.open == 0)
            assert (statuses, server.connections) == ([200] * 3, 3)

    aio.run(main())


def test_a_kept_connection_that_breaks_under_a_request_is_replaced() -> None:
    def once(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        peer.request()
        peer.abort()

    async def main() -> None:
        async with serving(once) as (server, host):
            statuses = [(await host.exchange(get(f"/{n}"), 5)).status for n in range(3)]
            assert (statuses, server.connections, len(server.requests)) == ([200] * 3, 3, 5)

    aio.run(main())


def test_an_idle_connection_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            await host.exchange(get("/"), 5)
            monkeypatch.setattr(connections, "IDLE_SECONDS", -1.0)
            await host.exchange(get("/"), 5)
            assert server.connections == 2
            await server.until(lambda: server.open == 1)

    aio.run(main())


def test_close_is_honoured() -> None:
    def serve(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        peer.wait_for_the_end()  # the client closes

    async def main() -> None:
        async with serving(serve) as (server, host):
            await host.exchange(get("/"), 5)
            await server.until(lambda: server.open == 0)
            await host.exchange(get("/"), 5)
            assert server.connections == 2

    aio.run(main())


def test_an_answer_may_end_with_its_connection() -> None:
    def serve(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    async def main() -> None:
        async with serving(serve) as (_, host):
            assert (await host.exchange(get("/"), 5)).body == b"all of it"

    aio.run(main())


def test_an_answer_that_does_not_come_in_time_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.01)

    def silent(_: Server, peer: Peer) -> None:
        peer.request()
        peer.wait_for_the_end()

    async def main() -> None:
        async with serving(silent) as (server, host):
            with pytest.raises(TimeoutError, match="no answer in time"):
                await host.exchange(get("/"), 0.01)
            await server.until(lambda: server.open == 0)

    aio.run(main())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_new_connection_that_breaks_is_a_connection_error(reply: bytes) -> None:
    def reset(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(reply)
        peer.abort()

    async def main() -> None:
        async with serving(reset) as (server, host):
            with pytest.raises(ConnectionLost):
                await host.exchange(get("/"), 5)
            assert server.connections == 1

    aio.run(main())


def test_garbage_closes_the_connection() -> None:
    def garbage(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"220 smtp.example.org ESMTP\r\n")
        peer.wait_for_the_end()

    async def main() -> None:
        async with serving(garbage) as (server, host):
            with pytest.raises(MalformedAnswer):
                await host.exchange(get("/"), 5)
            await server.until(lambda: server.open == 0)

    aio.run(main())


def test_nobody_listening_is_a_connection_error() -> None:
    async def main() -> None:
        async with serving(echo) as (server, _):
            url = server.url
        with pytest.raises(ConnectionRefusedError):
            await Host(url=url).exchange(get("/"), 5)

    aio.run(main())


def test_an_address_that_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            found: list[tuple[object, ...]] = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, host._port)) for address in ("127.0.0.2", "127.0.0.1")
            ]

            async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
                return found

            with monkeypatch.context() as patch:
                patch.setattr(aio.get_running_loop(), "getaddrinfo", resolve)
                assert [where[0] for _, where in await host._addresses_in_turn()] == ["127.0.0.2", "127.0.0.1"]
                assert [where[0] for _, where in await host._addresses_in_turn()] == ["127.0.0.1", "127.0.0.2"]
            answers = await aio.gather(*(host.exchange(get("/"), 5) for _ in range(4)))
            assert ([answer.status for answer in answers], server.connections) == ([200] * 4, 4)

    aio.run(main())


def test_a_cancelled_exchange_closes_its_connection() -> None:
    def silent(_: Server, peer: Peer) -> None:
        peer.request()
        peer.wait_for_the_end()

    async def main() -> None:
        async with serving(silent) as (server, host):
            running = aio.create_task(host.exchange(get("/"), 5))
            await server.until(lambda: len(server.requests) == 1)
            running.cancel()
            with pytest.raises(aio.CancelledError):
                await running
            await server.until(lambda: server.open == 0)
            assert not host._idle

    aio.run(main())


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    go = threading.Event()

    def serve(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        go.wait(10)
        peer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        peer.wait_for_the_end()

    async def main() -> None:
        async with serving(serve) as (server, host):
            assert (await host.exchange(get("/"), 5)).status == 200
            go.set()
            await server.until(lambda: server.open == 0)
            assert (await host.exchange(get("/"), 5)).status == 200
            assert server.connections == 2

    aio.run(main())
