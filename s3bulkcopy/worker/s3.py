"""The S3 requests that workers send, and their answers.

`page_request`, `CopyRequests` and `read_page` know no network; `S3` sends over kept connections and puts every answer on
the axis of `failures`.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from hashlib import sha256
from itertools import groupby, islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from s3bulkcopy.worker import aio, urls
from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.failures import COPY_UNKNOWN, UNKNOWN_ANSWER, Fault, Next, lost, read_error
from s3bulkcopy.worker.http import AnswerTooLong
from s3bulkcopy.worker.model import clip, make_item
from s3bulkcopy.worker.packing import COPY_BYTES_PER_SECOND, COPY_SECONDS
from s3bulkcopy.worker.properties import DEFAULT, class_headers, copy_headers, grant_headers, source_headers
from s3bulkcopy.worker.regions import is_elsewhere, moved, told_region
from s3bulkcopy.worker.sigv4 import (
    EMPTY_SHA256,
    Credentials,
    Signer,
    amz_date,
    encode_path,
    encode_paths,
    encode_query,
    trimmed,
)
from s3bulkcopy.worker.xml import unescaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.model import Item, Job, Location, Trait
    from s3bulkcopy.worker.properties import Policy

_OK, _MULTIPLE_CHOICES, _BAD_REQUEST, _FORBIDDEN, _INTERNAL_SERVER_ERROR = 200, 300, 400, 403, 500

#: Most keys in one ListObjectsV2 answer (S3 API reference).
PAGE_KEYS = 1000

#: How long a request may take, in seconds; a copy gets more by the size of its object.
REQUEST_SECONDS = 20.0

#: Requests that are sent again at once in a row because an answer has told what was wrong with them.
_LESSONS = 4

#: Requests that are written ahead, since many at a time take a third less each, and for how long they are, in seconds.
_AHEAD = 32
_AHEAD_SECONDS = 30.0

#: How far a clock may be from S3's, in seconds (S3 API reference, RequestTimeTooSkewed).
SKEW_SECONDS = 900.0

#: How much longer than the estimate a copy may take.
COPY_PATIENCE = 4.0

#: How long the copy of an object may take: in seconds, and in seconds for each of its bytes.
PATIENCE_SECONDS = REQUEST_SECONDS + COPY_PATIENCE * COPY_SECONDS
PATIENCE_SECONDS_PER_BYTE = COPY_PATIENCE / COPY_BYTES_PER_SECOND


class Page(NamedTuple):
    """One ListObjectsV2 answer: its items in key order, whether more follow, and the token to ask for them with."""

    items: tuple[Item, ...]
    truncated: bool
    token: str = ""
    #: What else is said of each item; nothing where that was not asked for.
    traits: tuple[Trait, ...] = ()


#: What a listing is to tell of objects beside key, size and ETag: whether their traits, and whether those of a page that may
#: have archived ones, and which of these are restored. A plain tuple, since a class takes time to import.
Asked = tuple[bool, bool]

#: Nothing more.
PLAIN: Asked = (False, False)

# Patterns of listings: `re` compiles each when it is first used, so a worker that lists nothing starts without them.
#: An object as S3 writes it, its elements in S3's order, with those on checksums in between, mostly two; other stores may have
#: others: of these the groups are empty. Nothing is matched again otherwise ("+"), which takes a third less.
_OBJECT = (
    r"<Contents>(?:<Key>([^<]*+)</Key><LastModified>[^<]*+</LastModified><ETag>&quot;([^&]*+)&quot;</ETag>"
    r"(?:<C[^/]*+/C[^/]*+/C[^<]*+)?+(?:<C[^/]*+/C[^<]*+)*+<Size>(\d++)<)?+"
)
_CONTENTS = r"(?s)<Contents>(.*?)</Contents>"
_KEY = r"(?s)<Key>(.*?)</Key>"
_SIZE = r"<Size>\s*(\d+)\s*</Size>"
_ETAG = r"(?s)<ETag>(.*?)</ETag>"
_TRUNCATED = r"(?i)<IsTruncated>\s*true\s*</IsTruncated>"
_CONTINUATION = r"(?s)<NextContinuationToken>(.*?)</NextContinuationToken>"
_URL_ENCODED = r"<EncodingType>\s*url\s*</EncodingType>"
_LISTING = r"<ListBucketResult[\s>]"
_MODIFIED = r"<LastModified>\s*([^<]*?)\s*</LastModified>"
_CLASS = r"<StorageClass>\s*([^<\s]*)\s*</StorageClass>"
_RESTORING = r"(?i)<IsRestoreInProgress>\s*true\s*<"
_RESTORED = r"<RestoreExpiryDate>[^<]"
#: Escapes of characters that many keys hold, decoded for a whole page at once. The percent sign is not among them, so that none
#: can come out of decoding another.
_COMMON_ESCAPES = (("%2F", "/"), ("%3D", "="), ("%3A", ":"), ("%20", " "), ("%40", "@"), ("%2C", ","))


#: Classes of which no object can be read before it is restored (S3 user guide, "Working with archived objects"); what else is
#: archived, in tiers of INTELLIGENT_TIERING, no listing tells.
ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")

#: The header that has a listing tell which archived objects are restored; a store that does not know it passes over it.
_RESTORE_STATUS = {"x-amz-optional-object-attributes": "RestoreStatus"}


def archived_class(trait: Trait) -> str:
    """Give the class of an object that is archived and not restored, and nothing for any other.

    >>> archived_class(("", "GLACIER", False)), archived_class(("", "GLACIER", True)), archived_class(("", "STANDARD", False))
    ('GLACIER', '', '')
    """
    _, storage_class, is_restored = trait
    return storage_class if storage_class in ARCHIVE_CLASSES and not is_restored else ""


def read_page(body: bytes, *, with_classes: bool = False, asked: Asked = PLAIN) -> Page:
    """Read a listing, with storage classes in the items, and traits, where those are asked for.

    Raises ValueError where the document is none, or was cut off.
    """
    text = body.decode("utf-8", "surrogateescape")
    if not re.search(_LISTING, text[:400]) or not text.rstrip().endswith("</ListBucketResult>"):
        raise ValueError(f"not a whole listing: {body[:80]!r}")
    edges = f"{text[: text.find('<Contents>')]}{text[text.rfind('</Contents>') :]}"  # all there is beside the objects
    is_encoded = re.search(_URL_ENCODED, edges) is not None
    is_truncated = re.search(_TRUNCATED, edges) is not None
    token = re.search(_CONTINUATION, edges) if is_truncated else None
    more = is_truncated, unescaped(token[1]) if token else ""
    if is_encoded and "%" in text:
        for escape, character in _COMMON_ESCAPES:
            text = text.replace(escape, character)
    found = re.findall(_OBJECT, text)
    all_etags = "".join([etag for _, etag, _ in found])
    if "" in [size for _, _, size in found] or '"' in all_etags or "<" in all_etags:
        found = list(_elements(text))
    if not found:
        return Page((), *more)
    keys, etags, sizes = zip(*found, strict=True)
    all_keys = "".join(keys)
    if any(mark in all_keys for mark in ("&", "%", "+")):
        keys = tuple(map(_url_decoded if is_encoded else unescaped, keys))
    classes = _classes(text) if with_classes else repeat("", len(keys))
    items = tuple(map(make_item, zip(keys, map(int, sizes), etags, classes, strict=True)))
    has_traits, has_archives = asked
    is_told = has_traits or (has_archives and any(f"{name}<" in text for name in ARCHIVE_CLASSES))
    return Page(items, *more, tuple(map(_trait, re.findall(_CONTENTS, text))) if is_told else ())


def _trait(entry: str) -> Trait:
    """Read what an object's elements say beside key, size and ETag."""
    modified, storage_class = re.search(_MODIFIED, entry), re.search(_CLASS, entry)
    name = storage_class[1] if storage_class else ""
    is_restored = name in ARCHIVE_CLASSES and re.search(_RESTORED, entry) is not None and not re.search(_RESTORING, entry)
    return modified[1] if modified else "", name, is_restored


def _classes(text: str) -> list[str]:
    """Give the storage class of each object of a listing; that of a store which tells none is the one that all stores have."""
    found = re.findall(_CLASS, text)
    if len(found) == text.count("<Contents>"):
        return found
    return [named[1] if (named := re.search(_CLASS, entry[1])) else "STANDARD" for entry in re.finditer(_CONTENTS, text)]


def _elements(text: str) -> Iterator[tuple[str, str, str]]:
    """Give key, ETag and size of each object, in whatever order its elements are."""
    for found in re.finditer(_CONTENTS, text):
        entry = found[1]
        key, size, etag = re.search(_KEY, entry), re.search(_SIZE, entry), re.search(_ETAG, entry)
        if key is None or size is None:
            raise ValueError(f"a listed object without a key or a size: {entry[:80]!r}")
        yield key[1], unquoted(unescaped(etag[1])) if etag else "", size[1]


def read_date(response: Response) -> float | None:
    """Give when an answer was given, in seconds since the epoch; None where it does not say."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - seldom needed, and slow to import

    try:
        return parsedate_to_datetime(response.header("date") or "").timestamp()
    except ValueError:
        return None


def unquoted(etag: str) -> str:
    """Take the quotes from an ETag that has them; give nothing for one that no condition can name, such as a weak one.

    >>> unquoted('"d41d8cd9"'), unquoted("d41d8cd9"), unquoted('W/"d41d8cd9"')
    ('d41d8cd9', 'd41d8cd9', '')
    """
    bare = etag[1:-1] if len(etag) > 1 and etag[0] == etag[-1] == '"' else etag
    return "" if '"' in bare else bare


def _url_decoded(text: str) -> str:
    from urllib.parse import unquote_plus  # noqa: PLC0415 - slow to import, and few keys need it

    text = unescaped(text)
    return unquote_plus(text, errors="surrogateescape") if "%" in text or "+" in text else text


class Bucket:
    """Builds the requests to one bucket: its host, the path to it, its signer."""

    def __init__(self, location: Location, credentials: Credentials, headers: dict[str, str] | None = None) -> None:
        """Take where the bucket is, as whom to ask, and headers that every request has."""
        self._headers = headers or {}
        _, self.host, path = urls.split(location.url)
        self.path = encode_path(path.rstrip("/"))
        self.signer = Signer(credentials, "s3", location.region)

    def request(self, method: str, path: str, query: str, headers: dict[str, str], date: str, body: bytes = b"") -> bytes:
        """Write a request; `path` is encoded and starts with a slash, `headers` have lower-case names."""
        body_sha256 = sha256(body).hexdigest() if body else EMPTY_SHA256
        headers = {**self._headers, **headers, "host": self.host, "x-amz-content-sha256": body_sha256, "x-amz-date": date}
        if self.signer.credentials.token:
            headers["x-amz-security-token"] = self.signer.credentials.token
        signed = {name: value if value.isascii() else _as_sent(value) for name, value in headers.items()}
        authorization = self.signer.sign(method, path, query, signed, body_sha256, date)
        target = f"{path}?{query}" if query else path
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = "" if method in ("GET", "HEAD") else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\n{lines}{length}Authorization: {authorization}\r\n\r\n"
        return head.encode("latin-1") + body


def _as_sent(value: str) -> str:
    """Give a header's value as its bytes read as UTF-8: so it is signed, whatever it is."""
    return value.encode("latin-1").decode("utf-8", "surrogateescape")


def page_request(
    bucket: Bucket,
    prefix: str,
    after: str,
    max_keys: int,
    date: str,
    token: str = "",
    headers: dict[str, str] | None = None,
) -> bytes:
    """Write a ListObjectsV2 request for the keys with this prefix behind `after`, or where the page with a token ended."""
    parameters = {"list-type": "2", "encoding-type": "url", "max-keys": str(max_keys), "prefix": prefix}
    if token:
        parameters["continuation-token"] = token
    elif after:
        parameters["start-after"] = after
    return bucket.request("GET", bucket.path or "/", encode_query(parameters), headers or {}, date)


def copy_source(bucket: str, key: str) -> str:
    """Name an object as the source of a copy, percent-encoded: an access point's ARN has its own form (S3 API, CopyObject).

    >>> copy_source("b", "a b"), copy_source("arn:x:accesspoint/p", "k")
    ('/b/a%20b', 'arn%3Ax%3Aaccesspoint/p/object/k')
    """
    root = f"{bucket}/object" if bucket.startswith("arn:") else f"/{bucket}"
    return encode_path(f"{root}/{key}")


class _Template(NamedTuple):
    """A request to copy without what an object's key adds to the path and to the source, and without its ETag.

    What is signed of it, and what is sent.
    """

    canonical: tuple[str, str, str, str]
    wire: tuple[str, str, str, str]


class CopyRequests:
    """Writes the CopyObject requests of a job.

    Of a signed request only the path, the source and its ETag differ from one object to the next (and the storage class, where
    that is preserved); the rest is put together once a second, when the date changes.
    """

    def __init__(self, job: Job, credentials: Credentials) -> None:
        """Prepare for one job and one access key."""
        self.credentials = credentials
        self._job = job
        self._bucket = Bucket(job.destination, credentials)
        self._date = ""
        self._source_head = copy_source(job.source.bucket, job.source.prefix)
        self._target_head = f"{self._bucket.path}/{encode_path(job.destination.prefix)}"
        self._cut = len(job.source.prefix)
        self._constant = copy_headers(job.policy) | ({} if job.overwrite else {"if-none-match": "*"})
        self._has_classes = job.policy.preserves_class
        #: By what else the requests of this second say: the headers of a storage class.
        self._templates: dict[str, _Template] = {}

    def _template(self, storage_class: str) -> _Template:
        headers = {"host": self._bucket.host, "x-amz-content-sha256": EMPTY_SHA256}
        headers |= {"x-amz-copy-source": f"{self._source_head}\0", "x-amz-copy-source-if-match": '"\1"'}
        headers |= {"x-amz-date": self._date} | self._constant | class_headers(self._job.policy, storage_class)
        if self.credentials.token:
            headers["x-amz-security-token"] = self.credentials.token
        names = sorted(headers)
        signed = ";".join(names)
        canonical = "".join(f"{name}:{trimmed(headers[name])}\n" for name in names) + f"\n{signed}\n{EMPTY_SHA256}"
        authorization = self._bucket.signer.authorization_head(signed, self._date)
        wire = (
            "".join(f"{name}: {headers[name]}\r\n" for name in names) + f"Content-Length: 0\r\nAuthorization: {authorization}"
        )
        return _Template(
            _around_blanks(f"PUT\n{self._target_head}\0\n\n{canonical}"),
            _around_blanks(f"PUT {self._target_head}\0 HTTP/1.1\r\n{wire}"),
        )

    def write(self, items: Sequence[Item], date: str) -> list[bytes]:
        """Write the requests that copy these items, as they were when listed; many at a time take a third less each."""
        if date != self._date:
            self._date = date
            self._templates.clear()
        if not self._has_classes:
            return self._write_alike(items, "")
        return [
            request for name, several in groupby(items, itemgetter(3)) for request in self._write_alike(list(several), name)
        ]

    def _write_alike(self, items: Sequence[Item], storage_class: str) -> list[bytes]:
        """Write the requests for items of one storage class, or of any where that is not preserved."""
        if storage_class not in self._templates:
            self._templates[storage_class] = self._template(storage_class)
        (put, before, between, behind), (wire_put, wire_before, wire_between, wire_behind) = self._templates[storage_class]
        cut = self._cut
        signature = self._bucket.signer.dated(self._date)
        requests = []
        for tail, item in zip(encode_paths([item[0][cut:] for item in items]), items, strict=True):
            etag = item[2]
            if not etag:
                requests.append(self.write_one(item, {}, self._date))
                continue
            signed = signature(f"{put}{tail}{before}{tail}{between}{etag}{behind}".encode())
            words = f"{wire_put}{tail}{wire_before}{tail}{wire_between}{etag}{wire_behind}{signed}\r\n\r\n"
            requests.append(words.encode("latin-1"))
        return requests

    def write_one(self, item: Item, more: dict[str, str], date: str) -> bytes:
        """Write the request that copies an item and has more to say than others."""
        tail = encode_path(item.key[self._cut :])
        headers = {"x-amz-copy-source": self._source_head + tail} | self._constant | more
        headers |= class_headers(self._job.policy, item.storage_class)
        if item.etag:
            headers["x-amz-copy-source-if-match"] = f'"{item.etag}"'
        return self._bucket.request("PUT", self._target_head + tail, "", headers, date)


class Writer(Protocol):
    """Writes the requests that copy items, or parts of one that are put as items."""

    credentials: Credentials

    def write(self, items: Sequence[Item], date: str) -> list[bytes]:
        """Write a request for each, signed for a date."""

    def write_one(self, item: Item, more: dict[str, str], date: str) -> bytes:
        """Write the request for an item that has more to say than others."""


def _around_blanks(text: str) -> tuple[str, str, str, str]:
    path, source, rest = text.split("\0")
    between, behind = rest.split("\1")
    return path, source, between, behind


def is_copied(response: Response) -> bool:
    """Tell whether an answer to a copy says, as S3 writes it, that the object is at the destination."""
    status, _, body = response
    return status == _OK and b"<CopyObjectResult" in body  # in a text, "<" would be escaped


def read_copy(response: Response) -> Fault | None:
    """Read the answer to a copy: None where the object is at the destination.

    Of a part the result has another name. S3 may send the head of a 200 and white space before it knows how the copy ends, so
    the document decides.
    """
    if is_copied(response):
        return None
    if response.status != _OK:
        return read_error(response.status, response.body)
    document = response.body.lstrip()[:400]
    if b"CopyObjectResult" in document or b"CopyPartResult" in document:
        return None
    if b"<Error" in document:
        return read_error(_INTERNAL_SERVER_ERROR, response.body)
    if response.header("content-length") == "0" and response.header("etag"):
        return Fault(Next.RECORD, COPY_UNKNOWN, "the store has taken the copy for an upload of nothing")
    return Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result")


class S3:
    """Sends requests to S3; one per environment, kept across invocations."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        *,
        now: Callable[[], float] = time.time,
        host: Callable[[str], Host] = lambda url: Host(url=url),
    ) -> None:
        """Take where credentials and the time (seconds since the epoch) come from.

        `host` opens the connections to a URL's host; tests give their own.
        """
        self.credentials = credentials
        self._now = now
        self._open_host = host
        self._hosts: dict[str, Host] = {}
        self._skew_seconds = 0.0
        #: Where the buckets are that were not where they were asked for: where each was looked for, in order.
        self._places: dict[str, list[Location]] = {}
        #: What writes the requests to each place, with the credentials that were last used.
        self._buckets: dict[Location, Bucket] = {}

    def close(self) -> None:
        """Drop the idle connections."""
        for host in self._hosts.values():
            host.close()

    def date(self) -> str:
        """Give the time as S3 knows it, as x-amz-date has it."""
        return amz_date(self._now() + self._skew_seconds)

    def date_and_rest(self) -> tuple[str, float]:
        """Give the date, and the seconds for which it remains the right one."""
        seconds = self._now() + self._skew_seconds
        return amz_date(seconds), 1 - seconds % 1

    def host(self, location: Location) -> Host:
        """Give the connections to a location's host."""
        scheme, host, _ = urls.split(location.url)
        root = f"{scheme}://{host}"
        if root not in self._hosts:
            self._hosts[root] = self._open_host(root)
        return self._hosts[root]

    def seconds(self) -> float:
        """Give the time as S3 knows it, in seconds since the epoch."""
        return self._now() + self._skew_seconds

    async def page(
        self,
        location: Location,
        prefix: str,
        after: str,
        max_keys: int = PAGE_KEYS,
        token: str = "",
        policy: Policy = DEFAULT,
        asked: Asked = PLAIN,
    ) -> Page | Fault:
        """List one page of the keys that start with `prefix` and lie behind `after`, or follow the page with a token."""
        headers = source_headers(policy) | (_RESTORE_STATUS if asked[1] else {})

        def write(bucket: Bucket, date: str) -> bytes:
            return page_request(bucket, prefix, after, max_keys, date, token, headers)

        answer = await self.ask_about(location, write)
        if isinstance(answer, Fault):
            return answer
        try:
            return read_page(answer.body, with_classes=policy.preserves_class, asked=asked)
        except ValueError as error:
            return lost(error)

    async def grants(self, location: Location, key: str, policy: Policy) -> dict[str, str] | Fault:
        """Read the ACL of a source's object, as the headers that give a copy the same grants."""
        headers = source_headers(policy)

        def write(bucket: Bucket, date: str) -> bytes:
            return bucket.request("GET", f"{bucket.path}/{encode_path(key)}", "acl=", headers, date)

        answer = await self.ask_about(location, write)
        try:
            return answer if isinstance(answer, Fault) else grant_headers(answer.body)
        except ValueError as error:
            return Fault(Next.RECORD, UNKNOWN_ANSWER, clip(f"asked for its ACL, the store answers {error}"))

    async def ask_about(
        self,
        location: Location,
        write: Callable[[Bucket, str], bytes],
        timeout_seconds: float = REQUEST_SECONDS,
        headers: dict[str, str] | None = None,
    ) -> Response | Fault:
        """Send what `write` gives for a location's bucket and a date to it, again where an answer told what was wrong.

        Any answer but a 2xx is a fault. `headers` are those of every request to that bucket.
        """
        for _ in range(_LESSONS):
            at = self.where(location)
            request = write(self._bucket(at, headers), self.date())
            answer = await self.ask(self.host(at), request, timeout_seconds)
            if isinstance(answer, Fault) or _OK <= answer.status < _MULTIPLE_CHOICES:
                return answer
            fault = read_error(answer.status, answer.body)
            if answer.status == _BAD_REQUEST and not answer.body and told_region(answer, at) not in (None, at.region):
                fault = fault._replace(code="PermanentRedirect")  # so it is said in answer to a HEAD
            fault = self.learn(answer, fault, at)
            if fault.next is not Next.MENDED:
                return fault
        return fault._replace(next=Next.RETRY)

    def _bucket(self, at: Location, headers: dict[str, str] | None) -> Bucket:
        """Give what writes requests to a place; it is kept, since the key that they are signed with is for a day."""
        credentials = self.credentials()
        if headers:
            return Bucket(at, credentials, headers)
        found = self._buckets.get(at)
        if found is None or found.signer.credentials is not credentials:
            found = self._buckets[at] = Bucket(at, credentials)
        return found

    def copies(self, job: Job) -> JobCopies:
        """Give what copies the items of a job."""
        return JobCopies(self, job)

    async def ask(self, host: Host, request: bytes, timeout_seconds: float) -> Response | Fault:
        """Send a request; what keeps an answer away is a fault too."""
        try:
            return await host.exchange(request, timeout_seconds)
        except AnswerTooLong as error:
            return Fault(Next.RECORD, UNKNOWN_ANSWER, f"{error}")
        except OSError as error:
            return lost(error)

    def learn(self, response: Response, fault: Fault, at: Location, *, is_stale: bool = False) -> Fault:
        """Learn what was wrong with a request that was sent to `at`: the time, or the place.

        Gives the fault as it is to be taken: MENDED where asking again is asking something else. `is_stale` says that the
        request was sent before the bucket was known to be at `at`.
        """
        if response.status == _FORBIDDEN and self._learn_time(response, fault):
            return fault._replace(next=Next.MENDED)
        if not is_elsewhere(response.status, fault.code):
            return fault
        if is_stale or self._learn_place(response, at):
            return fault._replace(next=Next.MENDED)
        where = told_region(response, at) or "another region without naming it"
        return fault._replace(cause=clip(f"asked for bucket '{at.bucket}' in {at.region}, S3 points to {where}. {fault.cause}"))

    def _learn_time(self, response: Response, fault: Fault) -> bool:
        """Set the clock by an answer that says that it is wrong, or that says nothing and is dated far from it."""
        if fault.code != "RequestTimeTooSkewed" and response.body:
            return False
        answered_at = read_date(response)
        if answered_at is None:
            return False
        skew_seconds = answered_at - self._now()
        if not response.body and abs(skew_seconds - self._skew_seconds) < SKEW_SECONDS:
            return False
        self._skew_seconds = skew_seconds
        return True

    def where(self, location: Location) -> Location:
        """Give a location where its bucket is known to be by now."""
        places = self._places.get(location.bucket)
        return location._replace(region=places[-1].region, url=places[-1].url) if places else location

    def _learn_place(self, response: Response, at: Location) -> bool:
        """Take note of where a bucket is said to be; tell whether that is where it was not yet looked for."""
        if self.where(at) != at:
            return True
        region = told_region(response, at)
        places = self._places.setdefault(at.bucket, [at])
        if region is None or any((there := moved(at, region)).url == place.url and region == place.region for place in places):
            return False
        places.append(there)
        return True


class JobCopies:
    """Writes the requests that copy the items of one job, and learns from the answers."""

    def __init__(self, s3: S3, job: Job) -> None:
        """Prepare for a job."""
        self._s3 = s3
        self._date, self._dated_until = "", -math.inf
        self._go(job, -math.inf)

    def _go(self, job: Job, now: float) -> None:
        """Ask from now on where the destination is known to be."""
        self._job = job._replace(destination=self._s3.where(job.destination))
        self._there_since = now
        self.host = self._s3.host(self._job.destination)
        self._requests = self._writer(self._s3.credentials())
        self._ahead: deque[bytes] = deque()
        self._ahead_until = -math.inf

    def _writer(self, credentials: Credentials) -> Writer:
        """Give what writes the requests."""
        return CopyRequests(self._job, credentials)

    def take(self, items: deque[Item], most: int, now: float) -> list[tuple[Item, bytes | None]]:
        """Take the next items, `most` of them or fewer, each with the request that copies it, which was written ahead.

        None in its place where one of them cannot be written; then `write` tells of which. Other items are only to be added
        at the end, and taken only here. `now` as in `write`.
        """
        ahead = self._ahead
        if not ahead or now >= self._ahead_until:
            try:
                ahead = self._ahead = deque(self._write([*islice(items, _AHEAD)], now))
            except ValueError:
                return [(items.popleft(), None)]
            self._ahead_until = now + _AHEAD_SECONDS
        return [(items.popleft(), ahead.popleft()) for _ in range(min(most, len(ahead)))]

    def write(self, item: Item, now: float, more: dict[str, str] | None = None) -> bytes:
        """Write the request that copies an item, signed for `now`: seconds of a clock that does not jump.

        `more` are headers of this item alone.
        """
        if more:
            self._turn(now)
            return self._requests.write_one(item, more, self._date)
        return self._write([item], now)[0]

    def _write(self, items: list[Item], now: float) -> list[bytes]:
        self._turn(now)
        return self._requests.write(items, self._date)

    def _turn(self, now: float) -> None:
        """Have the credentials and the date that are valid now."""
        credentials = self._s3.credentials()
        if credentials is not self._requests.credentials:
            self._requests = self._writer(credentials)
        if now >= self._dated_until:
            self._date, seconds = self._s3.date_and_rest()
            self._dated_until = now + seconds

    def learn(self, response: Response, fault: Fault, sent_at: float, now: float) -> Fault:
        """Learn from the answer to a request that was sent at `sent_at`, as S3.learn does; times as in `write`."""
        fault = self._s3.learn(response, fault, self._job.destination, is_stale=sent_at < self._there_since)
        if fault.next is Next.MENDED:
            self._dated_until = -math.inf
            self._ahead.clear()
            if self._s3.where(self._job.destination) != self._job.destination:
                self._go(self._job, now)
        return fault

    async def copy(self, item: Item, more: dict[str, str] | None = None) -> Fault | None:
        """Copy one item and wait; None where it is at the destination now. `more` as in `write`."""
        patience = PATIENCE_SECONDS + item.size * PATIENCE_SECONDS_PER_BYTE
        clock = aio.get_running_loop().time
        for _ in range(_LESSONS):
            sent_at = clock()
            answer = await self._s3.ask(self.host, self.write(item, sent_at, more), patience)
            fault = answer if isinstance(answer, Fault) else read_copy(answer)
            if fault is None or isinstance(answer, Fault):
                return fault
            fault = self.learn(answer, fault, sent_at, clock())
            if fault.next is not Next.MENDED:
                return fault
        return fault and fault._replace(next=Next.RETRY)
