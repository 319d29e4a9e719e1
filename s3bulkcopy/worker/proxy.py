"""Connections through an HTTP proxy. Apart from the others, since few need one."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from s3bulkcopy.worker.connections import SocketConnection

if TYPE_CHECKING:
    import socket

    from s3bulkcopy.worker.connections import Connection, Host, Make, Receiver

#: Longest answer of a proxy to CONNECT, in bytes.
_MOST_BYTES = 64 * 1024


class ProxyRefused(ConnectionError):
    """The proxy did not connect us."""


class ProxiedConnection(SocketConnection):
    """A Connection to a proxy that fetches what is named by its whole URL."""

    def __init__(self, host: Host, connected: socket.socket, root: bytes, headers: bytes) -> None:
        """Take over a socket; requests go to the server at `root`, with these headers besides their own."""
        super().__init__(host, connected)
        self._root, self._headers = root, headers

    def send(self, request: bytes, deadline: float, receiver: Receiver) -> None:
        """Send a request."""
        first, rest = request.split(b"\r\n", 1)
        method, target = first.split(b" ", 1)
        super().send(b"%b %b%b\r\n%b%b" % (method, self._root, target, self._headers, rest), deadline, receiver)


def through(proxy: str, url: str, secure: Make | None) -> tuple[str, int, Make]:
    """Give name and port of a proxy, and what makes a socket that is connected to it a connection to the server of `url`.

    `proxy` is `http://host:port`, with user and password in front of the host where it asks for them; `secure` is what makes
    TLS connections, where the server speaks it.
    """
    there, parts = urlsplit(url), urlsplit(proxy)
    name, port = parts.hostname or "", parts.port or 80
    headers = b""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = b"Proxy-Authorization: Basic %b\r\n" % b64encode(user.encode())

    async def make(host: Host, connected: socket.socket) -> Connection:
        if secure is None:
            return ProxiedConnection(host, connected, f"http://{there.netloc}".encode(), headers)
        address = (there.netloc if there.port else f"{there.netloc}:443").encode()
        connected.send(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (address, address, headers))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # nothing comes behind it before the server is spoken to
            await host.loop.readable(connected.fileno())
            data = connected.recv(_MOST_BYTES)
            if not data or len(answer) > _MOST_BYTES:
                raise ProxyRefused(f"the proxy {name}:{port} closed the connection")
            answer += data
            if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")) and b"\r\n" in answer:
                said = answer.split(b"\r\n", 1)[0].decode("latin-1")
                raise ProxyRefused(f"the proxy {name}:{port} does not connect to {address.decode()}: {said}")
        return await secure(host, connected)

    return name, port, make
