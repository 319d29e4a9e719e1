"""Connections through an HTTP proxy on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import aio, connections
from s3bulkcopy.worker.failures import Next, lost
from s3bulkcopy.worker.proxy import ProxyRefused
from tests.certificates import Identity, issue
from tests.unit.worker.loopback import Peer, Proxy, Server, echo, get, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """Give certificates for the loopback."""
    return issue(tmp_path, "127.0.0.1")


@pytest.fixture(params=["", "user:p%40ss"], ids=["open", "with a password"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Give a proxy."""
    running = Proxy(request.param.replace("%40", "@"))
    running.url = running.url.replace("p@ss", "p%40ss")
    yield running
    running.close()


def test_plain_requests_go_through_a_proxy_by_their_whole_url(proxy: Proxy) -> None:
    async def main() -> None:
        async with serving(echo, proxy=proxy.url) as (server, host):
            bodies = [(await host.exchange(get(f"/a%20b?{n}"), 5)).body for n in range(3)]
            assert bodies == [b"/a%%20b?%d" % n for n in range(3)]
            assert proxy.asked == [f"GET {server.url}/a%20b?{n} HTTP/1.1" for n in range(3)]
            assert server.connections == 1

    aio.run(main())


def test_secure_requests_go_through_a_tunnel(proxy: Proxy, identity: Identity) -> None:
    async def main() -> None:
        async with serving(echo, identity.context(), ca_file=identity.authority, proxy=proxy.url) as (server, host):
            bodies = [(await host.exchange(get(f"/{n}"), 5)).body for n in range(3)]
            assert bodies == [b"/0", b"/1", b"/2"]
            assert proxy.asked == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"]
            host.close()
            await host.exchange(get("/"), 5)
            assert (len(proxy.asked), server.resumed) == (2, [False, True])

    aio.run(main())


def test_what_a_proxy_says_instead_is_told_without_its_password(identity: Identity) -> None:
    proxy = Proxy("user:right")

    async def main() -> None:
        wrong = proxy.url.replace("right", "wrong")
        async with serving(echo, identity.context(), ca_file=identity.authority, proxy=wrong) as (server, host):
            with pytest.raises(ProxyRefused, match="407 Proxy Authentication Required") as refused:
                await host.exchange(get("/"), 5)
            fault = lost(refused.value)
            assert (fault.next, "wrong" in fault.cause, f"127.0.0.1:{server.port}" in fault.cause) == (Next.RETRY, False, True)
            assert server.connections == 0

    aio.run(main())
    proxy.close()


@pytest.mark.parametrize("end", ["closes", "resets", "is silent", "talks on"])
def test_a_proxy_that_does_not_connect_is_an_error_in_time(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.1 if end == "is silent" else 10)

    def serve(_: Server, peer: Peer) -> None:
        peer.request()
        match end:
            case "resets":
                peer.abort()
            case "is silent":
                peer.wait_for_the_end()
            case "talks on":
                peer.write(b"HTTP/1.1 200 OK\r\n")
                for _line in range(200):
                    peer.write(b"x: " + b"y" * 1000 + b"\r\n")
                peer.wait_for_the_end()

    async def main() -> None:
        fake = Server(serve)
        async with serving(echo, identity.context(), ca_file=identity.authority, proxy=fake.url) as (_, host):
            with pytest.raises((ProxyRefused, ConnectionResetError, TimeoutError)):
                await host.exchange(get("/"), 5)
        fake.close()
        await fake.until(lambda: fake.open == 0)

    aio.run(main())
