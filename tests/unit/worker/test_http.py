"""The HTTP client: what the reader makes of bytes, and what connections do to a server on this machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import http
from s3bulkcopy.worker.http import AnswerReader, ConnectionLost, Host, MalformedAnswer, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HEAD = b"HTTP/1.1 200 OK\r\nDate: x\r\n"

# ------------------------------------------------------------------------------------------------------------- the reader


def read(wire: bytes, *, cut_at: tuple[int, ...] = (), head_only: bool = False) -> tuple[int, bytes, bool] | None:
    """Feed bytes in pieces, then the end of the stream where they were not enough; give status, body and keep."""
    reader = AnswerReader()
    reader.begin(head_only=head_only)
    answer = None
    for start, end in zip((0, *cut_at), (*cut_at, len(wire)), strict=True):
        assert answer is None, "an answer before the end"
        answer = reader.feed(wire[start:end])
    answer = answer or reader.end()
    return None if answer is None else (answer.status, answer.body, reader.keep)


ANSWERS = {
    "length": (HEAD + b"Content-Length: 5\r\n\r\nhello", (200, b"hello", True)),
    "no body": (HEAD + b"content-length:0\r\n\r\n", (200, b"", True)),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", (200, b"hello!", True)),
    "chunk extensions and trailers": (
        HEAD + b"transfer-encoding:\tchunked\r\n\r\n00A ;a=b;c\r\n0123456789\r\n0;last\r\nx-t: 1\r\nx-u: 2\r\n\r\n",
        (200, b"0123456789", True),
    ),
    "white space first": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n1\r\n \r\n4\r\n<a/>\r\n0\r\n\r\n",
        (200, b"\r\n <a/>", True),
    ),
    "100 continue first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 X\r\na: b\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx",
        (200, b"x", True),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", (304, b"", True)),
    "connection: close": (b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", (403, b"no", False)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nno", (200, b"no", False)),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", True)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_wherever_it_is_cut(name: str) -> None:
    wire, expected = ANSWERS[name]

    assert read(wire) == expected
    assert [read(wire, cut_at=(n,)) for n in range(len(wire))] == [expected] * len(wire)
    assert read(wire, cut_at=tuple(range(len(wire)))) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.data())
def test_chunks_are_joined_wherever_they_are_cut(chunks: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    wire = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    cuts = data.draw(st.lists(st.integers(1, len(wire) - 1), unique=True, max_size=6).map(sorted))

    assert read(wire, cut_at=tuple(cuts)) == (200, b"".join(chunks), True)


def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    assert read(HEAD + b"Content-Length: 5\r\n\r\n", head_only=True) == (200, b"", True)


def test_without_a_length_the_end_of_the_stream_ends_the_answer() -> None:
    wire = HEAD + b"\r\nhello"

    assert [read(wire, cut_at=(n,)) for n in range(len(wire))] == [(200, b"hello", False)] * len(wire)


@pytest.mark.parametrize("name", [name for name in ANSWERS if "20" not in name and "30" not in name])
def test_a_stream_that_ends_too_early_gives_no_answer(name: str) -> None:
    wire, _ = ANSWERS[name]

    assert [read(wire[:n]) for n in range(len(wire))] == [None] * len(wire)


def test_bytes_behind_an_answer_make_the_connection_useless() -> None:
    assert read(HEAD + b"Content-Length: 5\r\n\r\nhello?") == (200, b"hello", False)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02",
        b"<html>",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc X\r\n\r\n",
        b"HTTP/1.1 99 X\r\n\r\n",
        b"HTTP/1.12 200\r\n\r\n",
        *(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
            for chunk in (
                b"x\r\n",
                b"-6\r\n\r\n",
                b"-2\r\n\r\n",
                b"0x1\r\na\r\n",
                b"1_0\r\n",
                b"\r\n",
                b"1\r\nab\r\n",
                b"f" * 20 + b"\r\n",
            )
        ),
    ],
)
def test_garbage_is_no_answer(wire: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read(wire)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"HTTP/1.1 ", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]))
def test_whatever_comes_is_an_answer_or_refused(noise: bytes, start: bytes) -> None:
    try:
        answer = read(start + noise)
    except MalformedAnswer:
        return
    assert answer is None or answer[0] >= 200


def test_headers_are_found_whatever_their_case() -> None:
    response = Response(200, b"HTTP/1.1 200 OK\r\nx-date: no\r\nDATE:  Tue, 1 Jan \r\n", b"")

    assert (response.header("date"), response.header("server")) == ("Tue, 1 Jan", None)


# ----------------------------------------------------------------------------------------------- connections to a server


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
        assert not host._busy
        assert host._sweep is None


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
            monkeypatch.setattr(http, "IDLE_SECONDS", -1.0)
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
    monkeypatch.setattr(http, "_SWEEP_SECONDS", 0.01)

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
