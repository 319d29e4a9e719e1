"""Connections over TLS to a server on this machine, with certificates of the test's own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import aio, connections
from s3bulkcopy.worker.connections import ConnectionLost, Host
from s3bulkcopy.worker.copying import Copier, Outcome
from s3bulkcopy.worker.failures import Next, lost
from s3bulkcopy.worker.model import Counts, Job, Location
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.tls import tls_context
from tests.certificates import Identity, issue
from tests.unit.worker.loopback import Peer, Server, echo, get, serving
from tests.unit.worker.worker_fakes import COPIED, CREDENTIALS, item

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """Give certificates for the loopback."""
    return issue(tmp_path, "127.0.0.1")


@pytest.mark.parametrize(
    ("addresses", "days", "trusted", "words"),
    [
        (["127.0.0.1"], 1, False, "unable to get local issuer certificate"),
        (["127.0.0.2"], 1, True, "not valid for '127.0.0.1'"),
        (["127.0.0.1"], -1, True, "certificate has expired"),
    ],
)
def test_a_server_that_is_not_trusted_is_told_nothing(
    tmp_path: Path, addresses: list[str], days: int, words: str, *, trusted: bool
) -> None:
    shown = issue(tmp_path, *addresses, days=days)

    async def main() -> None:
        async with serving(echo, shown.context(), ca_file=shown.authority if trusted else None) as (server, host):
            with pytest.raises(ssl.SSLCertVerificationError, match=words) as failed:
                await host.exchange(get("/secret"), 5)
            assert server.requests == []
            fault = lost(failed.value)
            assert (fault.next, fault.code) == (Next.RETRY, "SSLCertVerificationError")

    aio.run(main())


def test_a_server_that_is_trusted_is_spoken_to(identity: Identity) -> None:
    async def main() -> None:
        async with serving(echo, identity.context(), ca_file=identity.authority) as (server, host):
            first = [(await host.exchange(get(f"/{n}"), 5)).body for n in range(3)]
            more = await aio.gather(*(host.exchange(get(f"/{n}"), 5) for n in range(10)))
            assert (first, [one.body for one in more]) == ([b"/0", b"/1", b"/2"], [b"/%d" % n for n in range(10)])
            assert server.connections == 10

    aio.run(main())


def test_what_boto3_trusts_is_trusted() -> None:
    # Since Python 3.13 a default context refuses authorities that are older than the rules it applies; botocore's does not.
    assert not tls_context().verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_new_connection_goes_on_from_the_session_of_an_earlier_one(identity: Identity, version: ssl.TLSVersion) -> None:
    def once(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        peer.wait_for_the_end()

    async def main() -> None:
        context = identity.context()
        context.minimum_version = context.maximum_version = version
        async with serving(once, context, ca_file=identity.authority) as (server, host):
            for _ in range(4):
                await host.exchange(get("/"), 5)
            assert server.resumed == [False, True, True, True]
            server.tls = identity.context()  # as another server behind the same name, which knows of no session
            await host.exchange(get("/"), 5)
            assert server.resumed[4:] == [False]

    aio.run(main())


def test_a_connection_without_an_answer_leaves_the_session_that_is_kept(identity: Identity) -> None:
    def but_second(server: Server, peer: Peer) -> None:
        peer.request()
        if server.connections != 2:
            peer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            peer.wait_for_the_end()

    async def main() -> None:
        context = identity.context()
        async with serving(but_second, context, ca_file=identity.authority) as (server, host):
            await host.exchange(get("/"), 5)
            server.tls = identity.context()
            with pytest.raises(ConnectionLost):
                await host.exchange(get("/"), 5)
            server.tls = context
            await host.exchange(get("/"), 5)
            assert server.resumed == [False, False, True]

    aio.run(main())


@pytest.mark.parametrize("size", [16_384, 65_536, 1_000_000])
def test_an_answer_may_come_in_many_records(identity: Identity, size: int) -> None:
    def serve(_: Server, peer: Peer) -> None:
        while True:
            peer.request()
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    async def main() -> None:
        async with serving(serve, identity.context(), ca_file=identity.authority) as (_, host):
            assert [len((await host.exchange(get("/"), 5)).body) for _ in range(3)] == [size] * 3

    aio.run(main())


def test_a_request_may_be_larger_than_what_the_kernel_takes_at_once(identity: Identity) -> None:
    def serve(_: Server, peer: Peer) -> None:
        length = len(peer.request())
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n%7d" % length)

    async def main() -> None:
        async with serving(serve, identity.context(), ca_file=identity.authority) as (_, host):
            request = get("/" + "x" * 9_000_000)
            assert int((await host.exchange(request, 20)).body) == len(request) - 4

    aio.run(main())


def test_the_end_of_a_stream_is_not_the_end_of_an_answer(identity: Identity) -> None:
    def serve(_: Server, peer: Peer) -> None:
        peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\n\r\nmaybe all of it")

    async def main() -> None:
        async with serving(serve, identity.context(), ca_file=identity.authority) as (_, host):
            with pytest.raises(ConnectionLost):
                await host.exchange(get("/"), 5)

    aio.run(main())


@pytest.mark.parametrize("end", [Peer.abort, Peer.wait_for_the_end], ids=["resets", "is silent"])
def test_a_handshake_that_does_not_come_about_is_an_error_in_time(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, end: Callable[[Peer], None]
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.05)

    async def main() -> float:
        async with serving(lambda _, peer: end(peer)) as (server, _):
            secure = Host(url=server.url.replace("http:", "https:"), ca_file=identity.authority)
            with pytest.raises(OSError, match=r"reset|EOF|^$") as failed:
                await secure.exchange(get("/"), 5)
            assert isinstance(failed.value, (TimeoutError, ConnectionResetError, ssl.SSLError))
            return aio.get_running_loop().time()

    aio.run(main())


def test_a_server_that_closes_every_few_requests_loses_nothing(identity: Identity) -> None:
    def serve(_: Server, peer: Peer) -> None:
        for _request in range(7):
            peer.request()
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(COPIED.body) + COPIED.body)

    async def main() -> tuple[Outcome, set[bytes], Server]:
        async with serving(serve, identity.context(), ca_file=identity.authority) as (server, _):
            here, there = (Location(name, "", "us-east-1", f"{server.url}/{name}") for name in ("src", "dst"))
            s3 = S3(lambda: CREDENTIALS, host=lambda url: Host(url=url, ca_file=identity.authority))
            copier = Copier(s3, Pace(8, 8), full_jitter(lambda: 0.01))
            outcome = await copier.copy(Job("run", here, there), found, float("inf"), attempt=1)
            s3.close()
            return outcome, {request.split(b" ")[1] for request in server.requests}, server

    found = [item(f"k{n:03}") for n in range(500)]
    outcome, asked, server = aio.run(main())
    counts = outcome.counts
    assert (outcome.failures, outcome.rest) == ((), ())
    assert counts == Counts(copied=500, copied_bytes=500, copy_requests=500 + counts.retries, retries=counts.retries)
    assert asked == {f"/dst/{it.key}".encode() for it in found}
    assert server.connections >= 500 // 7
    assert sum(server.resumed) >= len(server.resumed) - 16
