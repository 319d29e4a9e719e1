"""Counts requests by kind on their way to an AWS emulator, where nothing else does; passes every byte on as it came."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from model_server import kind_of, read_request

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_SERVICE = re.compile(rb"credential=[^/]*/\d+/[^/]*/([^/]*)/aws4_request")
_ACTION = re.compile(rb"\r\nx-amz-target:[ \t]*\w+\.(\w+)", re.IGNORECASE)
_CHUNK_BYTES = 2**16


def kind(head: bytes) -> str:
    r"""Name a request by its head: S3's by the operation, SQS's by the action, another service's by the service alone.

    >>> kind(b"POST / HTTP/1.1\r\nAuthorization: V4 Credential=a/20260101/eu/sqs/aws4_request\r\nX-Amz-Target: A.Send\r\n\r\n")
    'sqs Send'
    """
    lower = head.lower()
    found = _SERVICE.search(lower)
    service = found[1].decode() if found else "s3"
    if service == "s3":
        request = read_request(head, lower, b"")
        return kind_of(request) if request else "other"
    action = _ACTION.search(head) if service == "sqs" else None
    return f"sqs {action[1].decode()}" if action else service


class Watch:
    """Finds the requests in what one connection sends: they come one after another, each with the length of its body."""

    def __init__(self, count: Callable[[bytes], None]) -> None:
        """Tell `count` the head of each request."""
        self._count = count
        self._head = b""
        self._body_left = 0

    def feed(self, data: bytes) -> None:
        """Take what was sent."""
        while data:
            skipped = min(self._body_left, len(data))
            self._body_left -= skipped
            head, data = self._head + data[skipped:], b""
            end = head.find(b"\r\n\r\n") + 4
            if end < 4:
                self._head = head
            else:
                self._head, data = b"", head[end:]
                length = _LENGTH.search(head[:end].lower())
                self._body_left = int(length[1]) if length else 0
                self._count(head[:end])


class CountingProxy:
    """A proxy on the loopback in a thread of its own, from entering to leaving; `counts` may be read at any time."""

    def __init__(self) -> None:
        """Begin without counts; `forward_to` says where requests go."""
        self.counts: Counter[str] = Counter()
        self.url = ""
        self._target = ("", 0)
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """Drop all connections."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def forward_to(self, url: str) -> None:
        """Send what comes from now on to this server."""
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 80)

    async def _main(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        self._listens.set()
        await self._ended.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watch = Watch(lambda head: self.counts.update((kind(head),)))
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        try:
            ways = (_pass_on(reader, there_writer, watch.feed), _pass_on(there_reader, writer, lambda _: None))
            await asyncio.wait(map(asyncio.create_task, ways), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.close()
            there_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Callable[[bytes], None]) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        look(data)
        writer.write(data)
        await writer.drain()
