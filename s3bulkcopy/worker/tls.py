"""Connections over TLS. Apart from the others, since the library takes as long to import as all of them."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

from s3bulkcopy.worker.connections import SocketConnection

if TYPE_CHECKING:
    import socket

    from s3bulkcopy.worker.connections import Connection, Host, Make


class TlsConnection(SocketConnection):
    """A Connection over TLS.

    Sessions are resumed, as asyncio's own TLS does not: that saves most of a handshake, and S3 ends a connection after some
    hundred requests.
    """

    not_yet = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

    def __init__(self, host: Host, connected: ssl.SSLSocket) -> None:
        """Take over a socket that is secured."""
        super().__init__(host, connected)
        self._secured = connected
        self._session_kept = connected.session_reused is True

    def _readable(self) -> None:
        super()._readable()
        while self._socket is not None and self._secured.pending():  # other records that have come with the first
            super()._readable()

    def _take(self, data: bytes) -> None:
        if data and not self._session_kept:
            # Not before: in TLS 1.3 what is needed to resume a session comes with the first answer.
            self._session_kept = True
            self.host.tls_session = self._secured.session
        super()._take(data)

    def _end(self) -> None:
        """Take the end of the stream; over TLS it is not to be trusted as the end of an answer."""
        self.close()


def securing(ca_file: str | None) -> Make:
    """Give what makes a connection to a host secure; `ca_file` holds the certificates to trust, None is the system's."""
    context = tls_context(ca_file)

    async def secure(host: Host, connected: socket.socket) -> Connection:
        secured = context.wrap_socket(
            connected, server_hostname=host.name, session=host.tls_session, do_handshake_on_connect=False
        )
        try:
            await _shake_hands(host, secured)
        except BaseException:
            secured.close()
            raise
        return TlsConnection(host, secured)

    return secure


async def _shake_hands(host: Host, secured: ssl.SSLSocket) -> None:
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            await host.loop.readable(secured.fileno())
        except ssl.SSLWantWriteError:
            await host.loop.writable(secured.fileno())
        else:
            return


@cache
def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Give the one context of this process for these certificates: reading them costs some ten milliseconds."""
    context = ssl.create_default_context(cafile=ca_file)
    # As boto3 has it, with which the same certificates have passed before: authorities of old lack what newer rules ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
