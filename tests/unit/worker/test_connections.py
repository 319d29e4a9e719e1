"""What connections do to a server on this machine."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import aio, connections
from s3bulkcopy.worker.connections import ConnectionLost, Host
from s3bulkcopy.worker.http import MalformedAnswer
from tests.unit.worker.loopback import Peer, Server, echo, get, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def silent(_: Server, peer: Peer) -> None:
    """Take a request and never answer it."""
    peer.request()
    peer.wait_for_the_end()


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

    async def main() -> None:
        async with serving(silent) as (server, host):
            with pytest.raises(TimeoutError, match="no answer in time"):
                await host.exchange(get("/"), 0.01)
            await server.until(lambda: server.open == 0)

    aio.run(main())


def test_requests_end_in_time_while_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.01)

    async def main() -> None:
        async with serving(silent) as (server, host):
            late, patient = ([aio.create_task(host.exchange(get("/"), s)) for _ in range(8)] for s in (0.01, 60))
            await server.until(lambda: all(one.done() for one in late))
            assert [type(one.exception()) for one in late] == [TimeoutError] * 8
            assert not any(one.done() for one in patient)
            for one in patient:
                one.cancel()
            await aio.gather(*patient, return_exceptions=True)

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


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(echo) as (server, host):
            loop = aio.get_running_loop()
            connect = loop.sock_connect
            host._addresses = [(socket.AF_INET, (address, host._port)) for address in ("127.0.0.2", "127.0.0.1")]
            host._resolved_at = loop.time()

            async def sock_connect(connecting: socket.socket, where: tuple[str, int]) -> None:
                if where[0] == "127.0.0.2":
                    await loop.create_future()
                await connect(connecting, where)

            monkeypatch.setattr(loop, "sock_connect", sock_connect)
            monkeypatch.setattr(connections, "_ADDRESS_SECONDS", 0.05)
            answer = await host.exchange(get("/"), 5)
            assert (answer.status, server.connections) == (200, 1)

    aio.run(main())


def test_a_name_is_resolved_once_for_all_who_wait_and_old_addresses_outlive_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def main() -> None:
        nonlocal asked
        loop = aio.get_running_loop()
        answers = [loop.create_future() for _ in range(3)]

        async def resolve(*_: object, **__: object) -> object:
            nonlocal asked
            asked += 1
            return await answers[asked - 1]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        host = Host(url="http://store.test")
        given_up, *waiting = (aio.create_task(host._addresses_in_turn()) for _ in range(50))
        await aio.sleep(0)
        await aio.sleep(0)
        given_up.cancel()
        answers[0].set_exception(socket.gaierror(-3, "try again"))
        failed = await aio.gather(*waiting, return_exceptions=True)
        assert (asked, {type(one) for one in failed}) == (1, {socket.gaierror})

        address = (socket.AF_INET, ("127.0.0.1", 80))
        answers[1].set_result([(socket.AF_INET, socket.SOCK_STREAM, 6, "", address[1])])
        assert await aio.gather(*(host._addresses_in_turn() for _ in range(50))) == [[address]] * 50
        assert asked == 2

        monkeypatch.setattr(connections, "RESOLVE_SECONDS", -1.0)
        answers[2].set_exception(socket.gaierror(-3, "try again"))
        assert await aio.gather(*(host._addresses_in_turn() for _ in range(50))) == [[address]] * 50
        assert asked == 3

    aio.run(main())


def test_old_addresses_stay_in_use_while_resolving_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_RESOLVE_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(connections, "RESOLVE_SECONDS", -1.0)

    async def main() -> None:
        loop = aio.get_running_loop()
        address = (socket.AF_INET, ("127.0.0.1", 80))
        never = loop.create_future()

        async def resolve(*_: object, **__: object) -> object:
            return await never

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        host = Host(url="http://store.test")
        host._addresses = [address]
        assert await host._addresses_in_turn() == [address]
        assert await host._addresses_in_turn() == [address]
        never.set_result([(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 80))])
        assert await host._addresses_in_turn() == [(socket.AF_INET, ("127.0.0.2", 80))]

    aio.run(main())


@contextmanager
def reading_little(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve in a thread, by a socket that has little room for what is sent; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_an_answer_to_a_request_that_is_not_whole_is_heard_though_the_rest_cannot_be_sent() -> None:
    def refuse(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        peer.close()  # with bytes unread: a reset

    async def main(url: str) -> int:
        return (await Host(url=url).exchange(b"POST / HTTP/1.1\r\n\r\n" + b"x" * 8_000_000, 5)).status

    with reading_little(refuse) as url:
        assert aio.run(main(url)) == 413


def test_no_request_goes_out_behind_one_that_was_answered_before_it_was_whole() -> None:
    def refuse_and_serve(listening: socket.socket) -> None:
        refused, _ = listening.accept()
        refused.recv(100)
        refused.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        served, _ = listening.accept()
        served.recv(100)
        served.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        refused.close()
        served.close()

    async def main(url: str) -> list[int]:
        host = Host(url=url)
        statuses = [(await host.exchange(request, 5)).status for request in (get("/") + b"x" * 8_000_000, get("/"))]
        host.close()
        return statuses

    with reading_little(refuse_and_serve) as url:
        assert aio.run(main(url)) == [403, 200]


def test_a_cancelled_exchange_closes_its_connection() -> None:
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
