"""AWS Signature Version 4, for requests whose headers are known and sorted. No I/O.

Source: IAM user guide, "Create a signed AWS API request". Tested to be equal to botocore's signers.
"""

from __future__ import annotations

import re
import time
from binascii import hexlify
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from s3bulkcopy.worker import urls

if TYPE_CHECKING:
    from collections.abc import Callable

#: SHA-256 of nothing: the payload hash of a request without a body.
EMPTY_SHA256 = sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"

#: What SHA-256 hashes at a time.
_BLOCK_BYTES = 64

#: What each byte of a key becomes before it is hashed, inside and outside (RFC 2104).
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))

#: Finds paths that are encoded as they stand.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch


class Credentials(NamedTuple):
    """An access key; `token` belongs to a temporary one."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        """Keep what is secret out of every message."""
        return f"Credentials({self.access_key!r})"


def amz_date(seconds: float) -> str:
    """Give a time (seconds since the epoch) as x-amz-date has it.

    >>> amz_date(0)
    '19700101T000000Z'
    """
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def encode_path(path: str) -> str:
    """Percent-encode a path for the request line and the signature: all but unreserved characters and slashes.

    >>> encode_path("/a b/../ø")
    '/a%20b/../%C3%B8'
    """
    return path if _UNRESERVED(path) else urls.encoded_in_path(path)


def encode_paths(paths: list[str]) -> list[str]:
    """Percent-encode many paths, with one look where none needs it.

    >>> encode_paths(["a/b", "a b"])
    ['a/b', 'a%20b']
    """
    return paths if _UNRESERVED("".join(paths)) else [encode_path(path) for path in paths]


def encode_query(parameters: dict[str, str]) -> str:
    """Write a query string in the canonical form: sorted, every value percent-encoded.

    >>> encode_query({"prefix": "a/b c", "list-type": "2"})
    'list-type=2&prefix=a%2Fb%20c'
    """
    return "&".join(f"{urls.encoded(name)}={urls.encoded(parameters[name])}" for name in sorted(parameters))


def trimmed(value: str) -> str:
    """Give a header's value as it is signed: without blanks at the ends, and one for each run of them.

    >>> trimmed("  attachment;   filename=x ")
    'attachment; filename=x'
    """
    return " ".join(value.split()) if "  " in value or value != value.strip() else value


def _keyed(key: bytes) -> tuple[Any, Any]:
    """Give what HMAC-SHA256 (RFC 2104) hashes first for a key, inside and outside; kept, it halves the price of a signature."""
    if len(key) > _BLOCK_BYTES:
        key = sha256(key).digest()
    key = key.ljust(_BLOCK_BYTES, b"\0")
    return sha256(key.translate(_INNER)), sha256(key.translate(_OUTER))


class Signer:
    """Signs for one service in one region with one access key; what lasts for a second or a day is kept."""

    def __init__(self, credentials: Credentials, service: str, region: str) -> None:
        """Take what a signature's scope names."""
        self.credentials = credentials
        self._service = service
        self._region = region
        self._date = self._day = ""
        self._inner = self._begun = self._outer = sha256()
        self._scope = ""

    def _turn(self, date: str) -> None:
        """Put together what is the same for a second, and the key, which is for a day."""
        day = date[:8]
        if day != self._day:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                inner, outer = _keyed(key)
                inner.update(part.encode())
                outer.update(inner.digest())
                key = outer.digest()
            self._inner, self._outer = _keyed(key)
            self._day = day
            self._scope = f"{day}/{self._region}/{self._service}/aws4_request"
        self._date = date
        self._begun = self._inner.copy()
        self._begun.update(f"{_ALGORITHM}\n{date}\n{self._scope}\n".encode())

    def dated(self, date: str) -> Callable[[bytes], str]:
        """Give what signs canonical requests dated `date` (as amz_date has it): each gets its signature, in hexadecimal."""
        if date != self._date:
            self._turn(date)
        begin, begin_outer = self._begun.copy, self._outer.copy

        def signature(canonical_request: bytes) -> str:
            inner, outer = begin(), begin_outer()
            inner.update(hexlify(sha256(canonical_request).digest()))
            outer.update(inner.digest())
            return outer.hexdigest()

        return signature

    def authorization_head(self, signed_headers: str, date: str) -> str:
        """Give the Authorization header of requests dated `date` that sign these headers, up to the signature itself."""
        if date != self._date:
            self._turn(date)
        credential = f"{self.credentials.access_key}/{self._scope}"
        return f"{_ALGORITHM} Credential={credential}, SignedHeaders={signed_headers}, Signature="

    def sign(self, method: str, path: str, query: str, headers: dict[str, str], body_sha256: str, date: str) -> str:
        """Give the Authorization header of any request.

        `path` and `query` are encoded, as encode_path and encode_query do; `headers` has lower-case names, all of which are
        signed. Bytes that are no UTF-8 are as `surrogateescape` has them.
        """
        names = sorted(headers)
        lines = "".join(f"{name}:{trimmed(headers[name])}\n" for name in names)
        signed = ";".join(names)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{body_sha256}"
        return self.authorization_head(signed, date) + self.dated(date)(canonical.encode("utf-8", "surrogateescape"))
