"""Whether an endpoint speaks what its URL says: TLS, or plain HTTP."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from botocore.utils import get_environ_proxies

from s3bulkcopy.errors import UsageError

#: How long an endpoint may take to answer, in seconds; one that takes longer is for the first request to tell.
_SECONDS = 3.0

#: What begins an answer in TLS: a handshake or an alert, of any version (RFC 8446, 5.1).
_TLS = (b"\x16\x03", b"\x15\x03")


def check_scheme(url: str | None) -> None:
    """Refuse https where plain HTTP is spoken, and http where TLS is; raises UsageError.

    Requests would be repeated for most of a minute, and no error of theirs says what is wrong. Nothing is asked through a
    proxy.
    """
    parts = urlsplit(url or "")
    if parts.hostname is None or get_environ_proxies(url):
        return
    says_tls = parts.scheme == "https"
    answer = _answer(parts.hostname, parts.port or (443 if says_tls else 80))
    if answer and (answer in _TLS) != says_tls:
        wrong, right = ("TLS", "http") if says_tls else ("plain HTTP", "https")
        raise UsageError(
            f"--endpoint-url {url}: what answers there does not speak {wrong}",
            hint=f"write {right}://{parts.netloc}{parts.path}",
        )


def _answer(host: str, port: int) -> bytes:
    """Give how the answer to a TLS handshake begins, which plain HTTP answers, too; nothing where nothing comes."""
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), hello, server_hostname=host).do_handshake()
    with suppress(OSError), socket.create_connection((host, port), _SECONDS) as connection:
        # Who speaks plain HTTP waits for the end of a line, and of what comes before a body.
        connection.sendall(hello.read() + b"\r\n\r\n")
        return connection.recv(2)
    return b""
