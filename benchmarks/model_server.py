"""A model of S3 to measure against: in memory, in one process, cheap enough that the client is what is measured.

    python benchmarks/model_server.py --objects source=hex:200000 --objects destination=hex:0 --copy-ms 50 --list-ms 100

prints its URL once it listens, and serves until SIGTERM. An object is a key, a size and an ETag; its content is zeros, its date
always the same. Requests are path-style, signatures are not looked at, and there are no versions and no multipart uploads:
it tells how a client behaves, not whether it signs or reads correctly.

Operations: ListObjectsV2 and ListObjects (prefix, delimiter, start-after, marker, continuation-token, max-keys, encoding-type);
HEAD, PUT, DELETE and GET ?location of a bucket; HEAD, GET, PUT and DELETE of an object, POST ?delete; CopyObject with
x-amz-copy-source-if-match and If-None-Match. Everything else is answered 501.

`GET /_model/stats` gives what was counted as JSON (`Stats`), with the processor time of this process; `POST /_model/reset`
begins to count anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import re
import resource
import signal
import ssl
import subprocess
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from hashlib import md5
from http.client import HTTPConnection, HTTPSConnection
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Most keys in one answer to a list request (S3 API reference).
PAGE_KEYS = 1000

#: How much of a listing is in one chunk.
CHUNK_BYTES = 16 * 1024

#: Size of the objects that are there from the beginning.
OBJECT_BYTES = 1024
#: Waiting answers are looked at this often at most, in seconds.
TICK_SECONDS = 0.001

#: The operations that S3's limit of writes a partition is about.
WRITES = frozenset({"copy", "put", "delete", "delete_many"})

#: Above every byte that a key can hold.
_TOP = b"\xff"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the server treats requests; the defaults are an S3 that is fast and never fails."""

    list_seconds: float = 0.0
    copy_seconds: float = 0.0
    #: Latency of a refusal by the limit below: a store that does not do what it was asked may say so sooner.
    refusal_seconds: float = 0.0
    #: Writes a second that a partition takes, with a burst of one second's worth; 0 for no limit.
    rate_per_partition: float = 0.0
    #: A partition is a bucket and this many first characters of the key.
    partition_characters: int = 0
    #: Probability of an answer 503 SlowDown.
    fail_503: float = 0.0
    #: Probability of an answer 500 InternalError.
    fail_500: float = 0.0
    #: Probability that a copy is answered 200 with an error inside.
    fail_200: float = 0.0
    #: Probability that the connection is closed in place of an answer.
    fail_reset: float = 0.0
    #: Probability that a copy is made, and the connection closed in place of its answer.
    fail_reset_after: float = 0.0
    seed: int = 1
    #: Requests after which a connection is closed; 0 for never.
    close_after: int = 0
    #: Whether a listing begins at its first key whatever `start-after` says.
    ignore_start_after: bool = False
    #: Whether each page has its keys in the opposite order.
    unordered: bool = False
    #: Requests after which an access key is answered 400 ExpiredToken; 0 for never.
    expire_after: int = 0

    @property
    def fails(self) -> bool:
        """Tell whether anything fails."""
        return any((self.fail_503, self.fail_500, self.fail_200, self.fail_reset, self.expire_after))


@dataclass
class Stats:
    """What was counted since the beginning, or the last reset."""

    #: Requests by kind, refused ones included.
    requests: Counter[str] = field(default_factory=Counter)
    #: Requests by kind that failed by chance, or since their credentials had expired.
    failed: Counter[str] = field(default_factory=Counter)
    #: Answers 503, by throttling or by chance.
    slow_downs: int = 0
    #: Connections that were opened.
    connections: int = 0
    #: Most requests that were read and not answered at one time.
    peak_in_flight: int = 0


# ------------------------------------------------------------------------------------------------------------------- keys

_ODD = (
    "a space/{n:07}",
    "plus+plus/{n:07}",
    "percent%20/{n:07}%",
    "double//slash/{n:07}",
    "../dots/./{n:07}",
    "q?a=1&b=<{n:07}>#'\"",
    "tab\t/{n:07}\n",
    "øre/日本語/{n:07}",
    "\ue000/{n:07}",
    "\U0001f600/{n:07}",
)


def shaped_keys(shape: str, count: int) -> Iterator[str]:
    r"""Give that many different keys, always the same ones.

    >>> list(shaped_keys("seq", 1))
    ['data/000000000000.parquet']
    >>> list(shaped_keys("date", 1))
    ['logs/2026/01/01/00/8f14e45f-0000000.json.gz']
    """
    for n in range(count):
        digest = md5(b"%d" % (n + 7), usedforsecurity=False).hexdigest()
        match shape:
            case "hex":
                yield f"{digest[:16]}.bin"
            case "date":
                hour = n * 720 // count
                yield f"logs/2026/01/{hour // 24 + 1:02}/{hour % 24:02}/{digest[:8]}-{n:07}.json.gz"
            case "seq":
                yield f"data/{n:012}.parquet"
            case "odd":
                yield _ODD[n % len(_ODD)].format(n=n)
            case "long":
                yield f"{digest}/{n:07}/{digest * 30}"
            case _:
                raise ValueError(f"no such shape of keys: {shape}")


# ---------------------------------------------------------------------------------------------------------------- buckets


class Entry(NamedTuple):
    """An object without its key; the ETag is without quotes."""

    size: int
    etag: bytes


def entry_of(content: bytes, size: int) -> Entry:
    """Make an entry whose ETag is the MD5 of some content."""
    return Entry(size, md5(content, usedforsecurity=False).hexdigest().encode())


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing: keys and common prefixes together in order, and where to go on; None at the end."""

    keys: list[bytes]
    common: list[bytes]
    rest: bytes | None


class Bucket:
    """Objects by key. Keys are UTF-8, whose order is that of S3."""

    def __init__(self) -> None:
        """Begin without objects."""
        self.objects: dict[bytes, Entry] = {}
        self._sorted: list[bytes] = []
        self._new: list[bytes] = []

    def put(self, key: bytes, entry: Entry) -> None:
        """Take an object, in place of the one that was there."""
        if key not in self.objects:
            self._new.append(key)
        self.objects[key] = entry

    def remove(self, key: bytes) -> None:
        """Forget an object."""
        if self.objects.pop(key, None) is not None:
            keys = self._keys()
            del keys[bisect_left(keys, key)]

    def _keys(self) -> list[bytes]:
        """Give all keys in order; what was put since the last time is sorted in now."""
        if len(self._new) == 1:
            insort(self._sorted, self._new.pop())
        elif self._new:
            self._sorted += self._new
            self._sorted.sort()
            self._new = []
        return self._sorted

    def page(self, prefix: bytes, delimiter: bytes, after: bytes, most: int) -> Page:
        """List at most `most` keys and common prefixes behind `after`; `after` may itself end in the top of all bytes."""
        keys = self._keys()
        at = max(bisect_left(keys, prefix), bisect_right(keys, after) if after else 0)
        end = bisect_left(keys, prefix + _TOP)
        if delimiter:
            return _rolled_up(keys, at, end, len(prefix), delimiter, most)
        found = keys[at : min(end, at + most)]
        return Page(found, [], found[-1] if found and at + most < end else None)


def _rolled_up(keys: list[bytes], at: int, end: int, start: int, delimiter: bytes, most: int) -> Page:
    """List `keys[at:end]`, those alike up to the first delimiter behind `start` as one."""
    single: list[bytes] = []
    common: list[bytes] = []
    last = b""
    while at < end and len(single) + len(common) < most:
        cut = keys[at].find(delimiter, start)
        if cut < 0:
            last = keys[at]
            single.append(last)
            at += 1
        else:
            common.append(keys[at][: cut + len(delimiter)])
            last = common[-1] + _TOP
            at = bisect_left(keys, last, at)
    return Page(single, common, last if last and at < end else None)


class Throttle:
    """A token bucket for each partition, full at first."""

    def __init__(self, rate: float, characters: int, clock: Callable[[], float]) -> None:
        """Let `rate` requests a second pass."""
        self._rate = rate
        self._characters = characters
        self._clock = clock
        self._tokens: dict[tuple[bytes, str], tuple[float, float]] = {}

    def admits(self, bucket: bytes, key: bytes) -> bool:
        """Tell whether a request passes, and count it if so."""
        partition = (bucket, key.decode("utf-8", "surrogateescape")[: self._characters])
        now = self._clock()
        tokens, since = self._tokens.get(partition, (self._rate, now))
        tokens = min(self._rate, tokens + (now - since) * self._rate)
        self._tokens[partition] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1


# ------------------------------------------------------------------------------------------------------------- the answers

_REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found", 409: "Conflict", 412: "Precondition Failed"}
_REASONS |= {500: "Internal Server Error", 501: "Not Implemented", 503: "Slow Down"}
_COMMON = "x-amz-id-2: aW4gbWVtb3J5LCBpbiBvbmUgcHJvY2VzcywgYW5kIGNoZWFwIGVub3VnaCB0byBiZSBpZ25vcmVk\r\nServer: AmazonS3\r\n"
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_DATE = "2026-01-01T00:00:00.000Z"
_CHUNKED_HEAD = (
    f"HTTP/1.1 200 OK\r\nx-amz-request-id: 4D4F44454C000001\r\n{_COMMON}"
    "Content-Type: application/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
).encode()
_HTTP_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


def answer(status: int, body: bytes = b"", headers: str = "") -> bytes:
    """Write an answer; `headers` are whole lines."""
    kind = "Content-Type: application/xml\r\n" if body else ""
    length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nx-amz-request-id: 4D4F44454C000001\r\n{_COMMON}{headers}{kind}{length}\r\n"
    return head.encode() + body


def in_chunks(body: bytes) -> bytes:
    """Write a good answer as S3 sends listings: without a length, in chunks."""
    chunks = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return _CHUNKED_HEAD + coded


@cache
def error(status: int, code: str, condition: str = "") -> bytes:
    """Write a refusal; `condition` is the one that did not hold."""
    said = f"<Condition>{condition}</Condition>" if condition else ""
    return answer(status, f"{_XML}<Error><Code>{code}</Code><Message>{code}</Message>{said}</Error>".encode())


def _document(root: str, content: bytes = b"") -> bytes:
    return f"{_XML}<{root} {_NAMESPACE}>".encode() + content + f"</{root}>".encode()


# ETags are all of one length, so every answer to a copy is the same but for the ETag.
_COPIED = answer(
    200, _document("CopyObjectResult", f"<LastModified>{_DATE}</LastModified><ETag>&quot;{'-' * 32}&quot;</ETag>".encode())
)
_COPIED_HEAD, _COPIED_TAIL = _COPIED.split(b"-" * 32)
_COPY_FAILED = answer(200, f"{_XML}<Error><Code>InternalError</Code><Message>by chance</Message></Error>".encode())

_CONTENT = (
    b"<Contents><Key>%%b</Key><LastModified>%b</LastModified><ETag>&quot;%%b&quot;</ETag>"
    b"<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>%%d</Size>"
    b"<StorageClass>STANDARD</StorageClass></Contents>"
) % _DATE.encode()


def _url_encoded(key: bytes) -> bytes:
    return quote_plus(key, safe="/*").encode()


def _xml_encoded(key: bytes) -> bytes:
    return escape(key.decode(), {chr(n): f"&#x{n:x};" for n in (*range(32), 127)}).encode()


class Request(NamedTuple):
    """A request; names of headers are looked for in `lower`, which is as long as `head`."""

    method: bytes
    bucket: bytes
    key: bytes
    query: dict[str, str]
    head: bytes
    lower: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Give a header's value, empty where there is none; `name` is in lower case."""
        at = self.lower.find(b"\r\n" + name + b":")
        if at < 0:
            return b""
        start = at + len(name) + 3
        return self.head[start : self.head.index(b"\r\n", start)].strip()


_FIRST_LINE = re.compile(rb"([A-Z]+) /([^/ ?]*)/?([^ ?]*)(?:\?([^ ]*))? HTTP/1\.[01]\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)

#: What a bucket's sub-resources and an object's methods are called in the statistics.
_OF_BUCKET = {b"GET": "list", b"HEAD": "head_bucket", b"PUT": "put_bucket", b"DELETE": "delete_bucket"}
_OF_OBJECT = {b"GET": "get", b"HEAD": "head", b"PUT": "put", b"DELETE": "delete"}
_OF_LISTING = frozenset(
    {
        "list-type",
        "prefix",
        "delimiter",
        "start-after",
        "marker",
        "continuation-token",
        "max-keys",
        "encoding-type",
        "fetch-owner",
        "x-id",
    }
)


def read_request(head: bytes, lower: bytes, body: bytes) -> Request | None:
    """Read a request's first line; None where it is none."""
    found = _FIRST_LINE.match(head)
    if found is None:
        return None
    method, bucket, key, query = found.groups()
    if b"%" in key:
        key = unquote_to_bytes(key)
    parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {}
    return Request(method, bucket, key, parameters, head, lower, body)


def kind_of(request: Request) -> str:
    """Name a request's operation."""
    if request.key:
        if request.method == b"PUT" and b"\r\nx-amz-copy-source:" in request.lower:
            return "copy"
        return _OF_OBJECT.get(request.method, "other") if request.query.keys() <= {"x-id"} else "other"
    if request.method == b"GET" and "location" in request.query:
        return "location"
    if request.method == b"POST" and "delete" in request.query:
        return "delete_many"
    return _OF_BUCKET.get(request.method, "other") if request.query.keys() <= _OF_LISTING else "other"


class Model:
    """The store, and what it answers; knows no network."""

    def __init__(self, behaviour: Behaviour, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without buckets."""
        self.behaviour = behaviour
        self.stats = Stats()
        self.buckets: dict[bytes, Bucket] = {}
        self._chance = Random(behaviour.seed)  # noqa: S311 - it is to be repeatable, not secret
        self._throttle = Throttle(behaviour.rate_per_partition, behaviour.partition_characters, clock)
        self._limited = behaviour.rate_per_partition > 0
        self._fails = behaviour.fails
        self._asked_by: Counter[bytes] = Counter()
        self._operations: dict[str, Callable[[Bucket, Request], bytes]] = {
            "list": self._list,
            "location": self._location,
            "head_bucket": self._head_bucket,
            "delete_bucket": self._delete_bucket,
            "copy": self._copy,
            "head": self._head,
            "get": self._get,
            "put": self._put,
            "delete": self._delete,
            "delete_many": self._delete_many,
        }

    def fill(self, bucket: str, shape: str, count: int) -> None:
        """Make a bucket with that many objects."""
        filled = self.buckets.setdefault(bucket.encode(), Bucket())
        for key in map(str.encode, shaped_keys(shape, count)):
            filled.put(key, entry_of(key, OBJECT_BYTES))

    def serve(self, request: Request) -> tuple[str, bytes]:
        """Give the kind of a request, as far as its latency goes, and its answer; an empty one closes the connection."""
        if request.bucket == b"_model":
            return "control", self._control(request)
        kind = kind_of(request)
        self.stats.requests[kind] += 1
        if self._fails and (failed := self._failure(kind, request)) is not None:
            self.stats.failed[kind] += 1
            return kind, failed
        if self._limited and kind in WRITES and not self._throttle.admits(request.bucket, request.key):
            self.stats.slow_downs += 1
            return "refusal", error(503, "SlowDown")
        bucket = self.buckets.get(request.bucket)
        if bucket is None:
            return kind, self._without_bucket(kind, request)
        operation = self._operations.get(kind)
        if operation is None:
            return kind, answer(200) if kind == "put_bucket" else error(501, "NotImplemented")
        return kind, operation(bucket, request)

    def _failure(self, kind: str, request: Request) -> bytes | None:
        """Give an answer that fails, an empty one for a reset, None for no failure."""
        is_expired = self.behaviour.expire_after and self._is_expired(request)
        failed = error(400, "ExpiredToken") if is_expired else self._by_chance(kind)
        if failed and request.method == b"HEAD":
            return failed[: failed.index(b"\r\n\r\n") + 4]
        return failed

    def _is_expired(self, request: Request) -> bool:
        access_key = request.header(b"authorization").partition(b"Credential=")[2].partition(b"/")[0]
        self._asked_by[access_key] += 1
        return self._asked_by[access_key] > self.behaviour.expire_after

    def _by_chance(self, kind: str) -> bytes | None:
        behaviour, drawn = self.behaviour, self._chance.random()
        if drawn < behaviour.fail_reset:
            return b""
        drawn -= behaviour.fail_reset
        if drawn < behaviour.fail_503:
            self.stats.slow_downs += 1
            return error(503, "SlowDown")
        drawn -= behaviour.fail_503
        if drawn < behaviour.fail_500:
            return error(500, "InternalError")
        return _COPY_FAILED if kind == "copy" and drawn - behaviour.fail_500 < behaviour.fail_200 else None

    def _control(self, request: Request) -> bytes:
        if (request.method, request.key) == (b"POST", b"reset"):
            self.stats = Stats()
        elif (request.method, request.key) != (b"GET", b"stats"):
            return error(404, "NoSuchControl")
        buckets = {name.decode(): len(bucket.objects) for name, bucket in self.buckets.items()}
        return answer(200, json.dumps({**vars(self.stats), "cpu_seconds": time.process_time(), "buckets": buckets}).encode())

    # ------------------------------------------------------------------------------------------------------------- buckets

    def _without_bucket(self, kind: str, request: Request) -> bytes:
        if kind == "put_bucket":
            self.buckets[request.bucket] = Bucket()
            return answer(200)
        return answer(404) if request.method == b"HEAD" else error(404, "NoSuchBucket")

    def _head_bucket(self, _bucket: Bucket, _request: Request) -> bytes:
        return answer(200, headers="x-amz-bucket-region: us-east-1\r\n")

    def _delete_bucket(self, bucket: Bucket, request: Request) -> bytes:
        if bucket.objects:
            return error(409, "BucketNotEmpty")
        del self.buckets[request.bucket]
        return answer(204)

    def _location(self, _bucket: Bucket, _request: Request) -> bytes:
        return answer(200, _document("LocationConstraint"))

    def _list(self, bucket: Bucket, request: Request) -> bytes:
        query = request.query
        v2 = query.get("list-type") == "2"
        prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
        most = min(PAGE_KEYS, int(query.get("max-keys", PAGE_KEYS)))
        if self.behaviour.ignore_start_after:
            query = {**query, "start-after": ""}
        after = _after(query) if v2 else _behind(query.get("marker", "").encode(), prefix, delimiter)
        page = bucket.page(prefix, delimiter, after, most)
        url = query.get("encoding-type") == "url"
        encode = _url_encoded if url else _xml_encoded
        truncated = page.rest is not None
        parts = [f"<Name>{request.bucket.decode()}</Name><MaxKeys>{most}</MaxKeys>".encode()]
        parts += [b"<Prefix>%b</Prefix>" % encode(prefix), b"<IsTruncated>%b</IsTruncated>" % str(truncated).lower().encode()]
        parts += [b"<EncodingType>url</EncodingType>"] if url else []
        parts += [b"<KeyCount>%d</KeyCount>" % (len(page.keys) + len(page.common))] if v2 else []
        if page.rest is not None:
            parts.append(
                b"<NextContinuationToken>%b</NextContinuationToken>" % urlsafe_b64encode(page.rest)
                if v2
                else b"<NextMarker>%b</NextMarker>" % encode(page.rest.removesuffix(_TOP))
            )
        for key in reversed(page.keys) if self.behaviour.unordered else page.keys:
            size, etag = bucket.objects[key]
            parts.append(_CONTENT % (encode(key), etag, size))
        parts += [b"<CommonPrefixes><Prefix>%b</Prefix></CommonPrefixes>" % encode(one) for one in page.common]
        return in_chunks(_document("ListBucketResult", b"".join(parts)))

    def _delete_many(self, bucket: Bucket, request: Request) -> bytes:
        keys = _KEY.findall(request.body)
        for key in keys:
            bucket.remove(_unescaped(key))
        deleted = b"".join(b"<Deleted><Key>%b</Key></Deleted>" % key for key in keys)
        return answer(200, _document("DeleteResult", deleted))

    # ------------------------------------------------------------------------------------------------------------- objects

    def _copy(self, bucket: Bucket, request: Request) -> bytes:
        source = request.header(b"x-amz-copy-source").partition(b"?versionId=")[0]
        if b"%" in source:
            source = unquote_to_bytes(source)
        name, _, key = source.removeprefix(b"/").partition(b"/")
        origin = self.buckets.get(name)
        entry = origin.objects.get(key) if origin else None
        if entry is None:
            return error(404, "NoSuchKey" if origin else "NoSuchBucket")
        wanted = request.header(b"x-amz-copy-source-if-match")
        if wanted and wanted.strip(b'"') != entry.etag:
            return error(412, "PreconditionFailed", "x-amz-copy-source-If-Match")
        if request.key in bucket.objects and request.header(b"if-none-match") == b"*":
            return error(412, "PreconditionFailed", "If-None-Match")
        # The source's own key is shared where it is the same, which halves the memory of a whole copy.
        bucket.put(key if key == request.key else request.key, entry)
        if self.behaviour.fail_reset_after and self._chance.random() < self.behaviour.fail_reset_after:
            return b""
        return _COPIED_HEAD + entry.etag + _COPIED_TAIL

    def _head(self, bucket: Bucket, request: Request) -> bytes:
        entry = bucket.objects.get(request.key)
        return answer(404) if entry is None else _object_head(entry)

    def _get(self, bucket: Bucket, request: Request) -> bytes:
        entry = bucket.objects.get(request.key)
        return error(404, "NoSuchKey") if entry is None else _object_head(entry) + bytes(entry.size)

    def _put(self, bucket: Bucket, request: Request) -> bytes:
        if request.key in bucket.objects and request.header(b"if-none-match") == b"*":
            return error(412, "PreconditionFailed", "If-None-Match")
        entry = entry_of(request.body, len(request.body))
        bucket.put(request.key, entry)
        return answer(200, headers=f'ETag: "{entry.etag.decode()}"\r\n')

    def _delete(self, bucket: Bucket, request: Request) -> bytes:
        bucket.remove(request.key)
        return answer(204)


def _object_head(entry: Entry) -> bytes:
    length = b"Content-Length: %d\r\n\r\n" % entry.size
    headers = f'Last-Modified: {_HTTP_DATE}\r\nETag: "{entry.etag.decode()}"\r\nAccept-Ranges: bytes\r\n'
    return answer(200, headers=headers).removesuffix(b"Content-Length: 0\r\n\r\n") + length


def _after(query: dict[str, str]) -> bytes:
    """Give where a ListObjectsV2 answer begins."""
    token = query.get("continuation-token", "")
    return urlsafe_b64decode(token) if token else query.get("start-after", "").encode()


def _behind(marker: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """Give where a ListObjects answer begins: a marker that is a common prefix stands for all keys below it."""
    if delimiter and marker.startswith(prefix) and marker.endswith(delimiter) and len(marker) > len(prefix):
        return marker + _TOP
    return marker


def _unescaped(key: bytes) -> bytes:
    text = re.sub(r"&#x([0-9a-fA-F]+);|&#(\d+);", lambda m: chr(int(m[1], 16) if m[1] else int(m[2])), key.decode())
    for name, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(name, character)
    return text.encode()


# ------------------------------------------------------------------------------------------------------------- the network


class Connection(asyncio.Protocol):
    """Answers the requests of one connection, one after the other."""

    def __init__(self, server: Server) -> None:
        """Belong to a server."""
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._left = server.model.behaviour.close_after or -1
        self._closing = False
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]
        self._server.model.stats.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what has not been answered."""
        del exc
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Serve what is whole, unless a request waits for its time."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and not self._answering and self._transport is not None:
            if not self._serve_next():
                return

    def _serve_next(self) -> bool:
        """Serve the first request in the buffer; tell whether it was whole."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        head = buffer[:end]
        lower = head.lower()
        length = _LENGTH.search(lower)
        whole = end + int(length[1]) if length else end
        if len(buffer) < whole:
            if len(buffer) == end and b"\r\nexpect: 100-continue" in lower and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        self._buffer = buffer[whole:]
        request = read_request(head, lower, buffer[end:whole])
        self._left -= 1
        self._closing = request is None or self._left == 0 or b"\r\nconnection: close" in lower
        if request is None:
            self.send(error(400, "BadRequest"))
        else:
            self._answering = True
            self._server.serve(self, request)
        return True

    def send(self, reply: bytes) -> None:
        """Send an answer; an empty one closes the connection without a word."""
        self._answering = False
        if self._transport is None:
            return
        if not reply:
            self._transport.abort()
        elif self._closing:
            self._transport.write(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            self._transport.close()
        else:
            self._transport.write(reply)

    def go_on(self) -> None:
        """Serve what came in while a request waited."""
        if self._buffer:
            self.data_received(b"")


class Waiting:
    """Answers that wait for their time, which is the same for all of them: so they stay in order, and one timer serves them."""

    def __init__(self, seconds: float) -> None:
        """Let each wait this long."""
        self._seconds = seconds
        self._queue: deque[tuple[float, Connection, bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """Give how many wait."""
        return len(self._queue)

    def add(self, connection: Connection, reply: bytes) -> None:
        """Send an answer when its time has come."""
        due = self._loop.time() + self._seconds
        self._queue.append((due, connection, reply))
        if len(self._queue) == 1:
            self._loop.call_at(due, self._send)

    def _send(self) -> None:
        now = self._loop.time()
        queue = self._queue
        sent = []
        while queue and queue[0][0] <= now:
            _, connection, reply = queue.popleft()
            connection.send(reply)
            sent.append(connection)
        if queue:
            self._loop.call_at(max(queue[0][0], now + TICK_SECONDS), self._send)
        for connection in sent:
            connection.go_on()


class Server:
    """Brings a model to the network."""

    def __init__(self, model: Model) -> None:
        """Serve a model; needs a running loop."""
        self.model = model
        behaviour = model.behaviour
        seconds = {"copy": behaviour.copy_seconds, "list": behaviour.list_seconds, "refusal": behaviour.refusal_seconds}
        self._waiting = {kind: Waiting(wait) for kind, wait in seconds.items() if wait}

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer a request, now or when its time has come."""
        kind, reply = self.model.serve(request)
        waiting = self._waiting.get(kind)
        if waiting is not None:
            waiting.add(connection, reply)
        in_flight = sum(map(len, self._waiting.values())) + (waiting is None)
        stats = self.model.stats
        stats.peak_in_flight = max(stats.peak_in_flight, in_flight)
        if waiting is None:
            connection.send(reply)


async def serve(model: Model, port: int, tls: ssl.SSLContext | None, *, until_eof: bool) -> None:
    """Listen on the loopback and print the URL; serve until SIGTERM, SIGINT or, if so wished, the end of stdin."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if until_eof:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 1) else ended.set())
    server = Server(model)
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, ssl=tls, backlog=4096)
    print(f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    listening.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="port on the loopback, 0 for a free one")
    parser.add_argument(
        "--objects",
        action="append",
        default=[],
        type=_filling,
        metavar="BUCKET=SHAPE:COUNT",
        help="hex, date, seq, odd or long keys",
    )
    parser.add_argument("--list-ms", type=float, default=0.0, help="latency of list requests")
    parser.add_argument("--copy-ms", type=float, default=0.0, help="latency of copies")
    parser.add_argument("--refusal-ms", type=float, default=0.0, help="latency of a 503 for too many writes")
    parser.add_argument("--rate-per-partition", type=float, default=0.0, help="writes a second; 0 for no limit")
    parser.add_argument("--partition-chars", type=int, default=0, help="a partition is a bucket and so much of the key")
    for name in ("503", "500", "200", "reset", "reset-after"):
        parser.add_argument(f"--fail-{name}", type=float, default=0.0, metavar="PROBABILITY")
    parser.add_argument("--seed", type=int, default=1, help="of what fails by chance")
    parser.add_argument("--close-after", type=int, default=0, help="requests that a connection serves; 0 for any number")
    parser.add_argument("--expire-after", type=int, default=0, help="requests after which an access key expires; 0 for never")
    parser.add_argument("--ignore-start-after", action="store_true", help="begin a listing at its first key all the same")
    parser.add_argument("--unordered", action="store_true", help="turn the keys of each page around")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="serve https with these PEM files")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin ends")
    chosen = parser.parse_args(arguments)
    model = Model(
        Behaviour(
            list_seconds=chosen.list_ms / 1000,
            ignore_start_after=chosen.ignore_start_after,
            unordered=chosen.unordered,
            copy_seconds=chosen.copy_ms / 1000,
            refusal_seconds=chosen.refusal_ms / 1000,
            rate_per_partition=chosen.rate_per_partition,
            partition_characters=chosen.partition_chars,
            fail_503=chosen.fail_503,
            fail_500=chosen.fail_500,
            fail_200=chosen.fail_200,
            fail_reset=chosen.fail_reset,
            fail_reset_after=chosen.fail_reset_after,
            seed=chosen.seed,
            close_after=chosen.close_after,
            expire_after=chosen.expire_after,
        )
    )
    for bucket, shape, count in chosen.objects:
        model.fill(bucket, shape, count)
    tls = None
    if chosen.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*chosen.tls)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()  # what is there from the beginning stays
    asyncio.run(serve(model, chosen.port, tls, until_eof=chosen.until_eof))


def _filling(text: str) -> tuple[str, str, int]:
    bucket, _, rest = text.partition("=")
    shape, _, count = rest.partition(":")
    try:
        next(shaped_keys(shape, 1))
        return bucket, shape, int(count)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not BUCKET=SHAPE:COUNT: {text}") from None


# ------------------------------------------------------------------------------------------------------ for other programs


class ModelServer:
    """The server in a process of its own, which ends with the process that started it."""

    def __init__(self, *arguments: str, certificate: str | None = None) -> None:
        """Take what its command line takes; `certificate` is the one that `--tls` names, to trust it."""
        self._arguments = arguments
        self._certificate = certificate
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it and wait until it listens; raises RuntimeError if it does not."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--until-eof", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not self.url:
            raise RuntimeError(f"the model server ended at once, with {self._process.wait()}")

    def stop(self) -> None:
        """Stop it; may be repeated."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None

    def stats(self) -> dict[str, Any]:
        """Give what was counted, with the number of objects by bucket."""
        return self._control("GET", "stats")

    def reset(self) -> None:
        """Begin to count anew."""
        self._control("POST", "reset")

    def _control(self, method: str, name: str) -> dict[str, Any]:
        parts = urlsplit(self.url)
        host = parts.netloc
        connection = (
            HTTPSConnection(host, context=ssl.create_default_context(cafile=self._certificate))
            if parts.scheme == "https"
            else HTTPConnection(host)
        )
        with contextlib.closing(connection):
            connection.request(method, f"/_model/{name}")
            counted: dict[str, Any] = json.loads(connection.getresponse().read())
        return counted


if __name__ == "__main__":
    main()
