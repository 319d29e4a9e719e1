"""What connections do to a server on this machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import connections
from s3bulkcopy.worker.connections import ConnectionLost, Host
from s3bulkcopy.worker.http import MalformedAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Server:
    """A server on this machine; `serve` speaks on each connection that it accepts."""

    def __init__(self, serve: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._serve = serve
        self.connections = 0
        self.requests: list[bytes] = []
        self.open = 0
        self.changed = asyncio.Condition()
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._change(+1)
        try:
            await self._serve(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            await self._change(-1)

    async def _change(self, by: int) -> None:
        async with self.changed:
            self.open += by
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def next_request(self, reader: asyncio.StreamReader) -> bytes:
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request)
        async with self.changed:
            self.changed.notify_all()
        return request


@asynccontextmanager
async def serving(
    serve: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[Server, Host]]:
    """Serve for a while, then see that the client left nothing behind."""
    server = Server(serve)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.url = "http://127.0.0.1:{1}".format(*listener.sockets[0].getsockname())
    host = Host(url=server.url)
    try:
        yield server, host
    finally:
        host.close()
        listener.close()
        await server.until(lambda: server.open == 0)
        async with asyncio.timeout(10):
            while host._all:  # noqa: ASYNC110 - the client hears of the end a little later than the server
                await asyncio.sleep(0)


async def echo(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its path."""
    while True:
        request = await server.next_request(reader)
        path = request.split(b" ")[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def test_a_connection_is_kept_for_the_next_request() -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            bodies = [(await host.exchange(get(f"/{n}"), 5)).body for n in range(3)]
            assert (bodies, server.connections) == ([b"/0", b"/1", b"/2"], 1)

    asyncio.run(main())


def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            answers = await asyncio.gather(*(host.exchange(get(f"/{n}"), 5) for n in range(20)))
            assert [answer.body for answer in answers] == [b"/%d" % n for n in range(20)]
            assert server.connections == 20
            await asyncio.gather(*(host.exchange(get("/"), 5) for n in range(20)))
            assert server.connections == 20

    asyncio.run(main())


def test_a_kept_connection_that_the_server_closed_is_replaced_and_no_request_lost() -> None:
    async def once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        async with serving(once) as (server, host):
            statuses = []
            for _ in range(3):
                statuses.append((await host.exchange(get("/"), 5)).status)
                await server.until(lambda: server.open == 0)
            assert (statuses, server.connections) == ([200] * 3, 3)

    asyncio.run(main())


def test_a_kept_connection_that_breaks_under_a_request_is_replaced() -> None:
    async def once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await server.next_request(reader)
        writer.transport.abort()

    async def main() -> None:
        async with serving(once) as (server, host):
            statuses = [(await host.exchange(get(f"/{n}"), 5)).status for n in range(3)]
            assert (statuses, server.connections, len(server.requests)) == ([200] * 3, 3, 5)

    asyncio.run(main())


def test_an_idle_connection_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            await host.exchange(get("/"), 5)
            monkeypatch.setattr(connections, "IDLE_SECONDS", -1.0)
            await host.exchange(get("/"), 5)
            assert server.connections == 2
            await server.until(lambda: server.open == 1)

    asyncio.run(main())


def test_close_is_honoured() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        assert await reader.read() == b""  # the client closes

    async def main() -> None:
        async with serving(serve) as (server, host):
            await host.exchange(get("/"), 5)
            await server.until(lambda: server.open == 0)
            await host.exchange(get("/"), 5)
            assert server.connections == 2

    asyncio.run(main())


def test_an_answer_may_end_with_its_connection() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    async def main() -> None:
        async with serving(serve) as (_, host):
            assert (await host.exchange(get("/"), 5)).body == b"all of it"

    asyncio.run(main())


def test_an_answer_that_does_not_come_in_time_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.01)

    async def silent(server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        await reader.read()

    async def main() -> None:
        async with serving(silent) as (server, host):
            with pytest.raises(TimeoutError, match="no answer in time"):
                await host.exchange(get("/"), 0.01)
            await server.until(lambda: server.open == 0)

    asyncio.run(main())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_new_connection_that_breaks_is_a_connection_error(reply: bytes) -> None:
    async def reset(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(reply)
        await writer.drain()
        writer.transport.abort()

    async def main() -> None:
        async with serving(reset) as (server, host):
            with pytest.raises(ConnectionLost):
                await host.exchange(get("/"), 5)
            assert server.connections == 1

    asyncio.run(main())


def test_garbage_closes_the_connection() -> None:
    async def garbage(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"220 smtp.example.org ESMTP\r\n")
        await reader.read()

    async def main() -> None:
        async with serving(garbage) as (server, host):
            with pytest.raises(MalformedAnswer):
                await host.exchange(get("/"), 5)
            await server.until(lambda: server.open == 0)

    asyncio.run(main())


def test_nobody_listening_is_a_connection_error() -> None:
    async def main() -> None:
        async with serving(echo) as (server, _):
            url = server.url
        with pytest.raises(ConnectionRefusedError):
            await Host(url=url).exchange(get("/"), 5)

    asyncio.run(main())


def test_an_address_that_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            found: list[tuple[object, ...]] = [(None, None, None, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]

            async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
                return found

            with monkeypatch.context() as patch:
                patch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
                assert await host._addresses_in_turn() == ["127.0.0.2", "127.0.0.1"]
                assert await host._addresses_in_turn() == ["127.0.0.1", "127.0.0.2"]
            answers = await asyncio.gather(*(host.exchange(get("/"), 5) for _ in range(4)))
            assert ([answer.status for answer in answers], server.connections) == ([200] * 4, 4)

    asyncio.run(main())


def test_a_cancelled_exchange_closes_its_connection() -> None:
    async def silent(server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        await reader.read()

    async def main() -> None:
        async with serving(silent) as (server, host):
            running = asyncio.create_task(host.exchange(get("/"), 5))
            await server.until(lambda: len(server.requests) == 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await server.until(lambda: server.open == 0)
            assert not host._idle

    asyncio.run(main())


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    go = asyncio.Event()

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.next_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async def main() -> None:
        async with serving(serve) as (server, host):
            assert (await host.exchange(get("/"), 5)).status == 200
            go.set()
            await server.until(lambda: server.open == 0)
            assert (await host.exchange(get("/"), 5)).status == 200
            assert server.connections == 2

    asyncio.run(main())
