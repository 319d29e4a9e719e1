"""A server on this machine, in threads, for tests of what goes over sockets."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.connections import Host

if TYPE_CHECKING:
    import ssl
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

    def __init__(self, serve: Callable[[Server, Peer], None], tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self.tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.connections = 0
        self.requests: list[bytes] = []
        #: Of each TLS connection, whether it went on from an earlier one.
        self.resumed: list[bool] = []
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
            if self.tls is None:
                self._serve(self, Peer(self, end))
            else:
                with self.tls.wrap_socket(end, server_side=True) as secured:
                    self.resumed.append(secured.session_reused is True)
                    self._serve(self, Peer(self, secured))
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
async def serving(
    serve: Callable[[Server, Peer], None], tls: ssl.SSLContext | None = None, **more: Any
) -> AsyncIterator[tuple[Server, Host]]:
    """Serve for a while, then see that the client left nothing behind; `more` is for the Host."""
    server = Server(serve, tls)
    host = Host(**({"url": server.url} | more))
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
