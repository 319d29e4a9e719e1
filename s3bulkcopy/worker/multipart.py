"""The requests of a multipart copy, and their answers. Pure; imported only where there is a large object."""

from __future__ import annotations

import re
from base64 import b64encode
from calendar import timegm
from hashlib import md5
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from s3bulkcopy.worker.failures import UNKNOWN_ANSWER, Fault, Next, read_error
from s3bulkcopy.worker.properties import CHECKSUM_ALGORITHMS, destination_headers
from s3bulkcopy.worker.properties import tagging as tagging_of
from s3bulkcopy.worker.s3 import Bucket, JobCopies, copy_source, read_page, unquoted
from s3bulkcopy.worker.sigv4 import encode_path, encode_query
from s3bulkcopy.worker.xml import unescaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.model import Item, Job, PartTask
    from s3bulkcopy.worker.parts import Parts
    from s3bulkcopy.worker.properties import Policy
    from s3bulkcopy.worker.s3 import S3, Writer
    from s3bulkcopy.worker.sigv4 import Credentials

#: Headers of an object that a copy has as well: what CopyObject keeps, and multipart copy drops.
_KEPT = frozenset(
    {"content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires",
     "x-amz-website-redirect-location"}
)  # fmt: skip
_METADATA = "x-amz-meta-"

_CHECKSUM = "x-amz-checksum-"
#: Checksums that S3 computes of the whole of an object that is put in parts; all others it computes of the parts' checksums.
_WHOLE_CHECKSUMS = frozenset({"CRC64NVME", "CRC32", "CRC32C"})

#: Code of the fault that says that an upload is not there any more: completed, or aborted.
NO_SUCH_UPLOAD = "NoSuchUpload"

#: How S3 writes the parts' count behind the ETag of an object that was put in parts.
_COUNTED = re.compile(r"-(\d{1,5})$")


class Source(NamedTuple):
    """An object as a HEAD request shows it."""

    size: int
    etag: str
    #: Headers with which the copy is to begin.
    headers: dict[str, str]
    #: The size of its first part and how many there are, where that is told.
    first_part: int | None
    parts: int | None
    #: Entries of its metadata that no header can hold.
    missing: int
    storage_class: str = "STANDARD"


class Part(NamedTuple):
    """A part as ListParts shows it; `checksums` are elements, as they are."""

    etag: str
    size: int
    checksums: str = ""


class There(NamedTuple):
    """An object as a listing shows it; when it was written, in seconds since the epoch, or 0."""

    size: int
    etag: str
    written: int


def parts_in(etag: str) -> int | None:
    """Give how many parts the ETag of an object tells of; None where it was not put in parts.

    >>> parts_in("d41d8cd98f00b204e9800998ecf8427e-12"), parts_in("d41d8cd98f00b204e9800998ecf8427e")
    (12, None)
    """
    found = _COUNTED.search(etag)
    return int(found[1]) if found else None


# ------------------------------------------------------------------------------------------------------------ requests


def _path(bucket: Bucket, key: str) -> str:
    return f"{bucket.path}/{encode_path(key)}"


def head_request(bucket: Bucket, item: Item, date: str, *, of_first_part: bool) -> bytes:
    """Ask for an object's headers, as long as it is the listed one; of the first part's, which tell its size besides."""
    headers = {"x-amz-checksum-mode": "ENABLED"}
    if item.etag:
        headers["if-match"] = f'"{item.etag}"'
    return bucket.request("HEAD", _path(bucket, item.key), "partNumber=1" if of_first_part else "", headers, date)


def tags_request(bucket: Bucket, key: str, date: str) -> bytes:
    """Ask for an object's tags."""
    return bucket.request("GET", _path(bucket, key), "tagging=", {}, date)


def put_tags_request(bucket: Bucket, key: str, tagging: str, date: str) -> bytes:
    """Give an object tags, as a request's header has them."""
    rows = "".join(f"<Tag><Key>{_escaped(k)}</Key><Value>{_escaped(v)}</Value></Tag>" for k, v in read_tagging(tagging))
    body = f"<Tagging><TagSet>{rows}</TagSet></Tagging>".encode()
    digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    return bucket.request("PUT", _path(bucket, key), "tagging=", {"content-md5": digest}, date, body)


def begin_request(bucket: Bucket, key: str, headers: dict[str, str], date: str) -> bytes:
    """Begin a multipart upload of an object with these headers."""
    return bucket.request("POST", _path(bucket, key), "uploads=", headers, date)


def parts_request(bucket: Bucket, key: str, upload_id: str, after: int, date: str) -> bytes:
    """List the parts of an upload behind a number."""
    query = {"uploadId": upload_id} | ({"part-number-marker": str(after)} if after else {})
    return bucket.request("GET", _path(bucket, key), encode_query(query), {}, date)


def complete_request(bucket: Bucket, task: PartTask, parts: dict[int, Part], date: str) -> bytes:
    """Make an object of the parts of an upload."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{_escaped(part.etag)}&quot;</ETag>{part.checksums}</Part>"
        for number, part in sorted(parts.items())
    )
    body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}</CompleteMultipartUpload>'
    conditions = {} if task.job.overwrite else {"if-none-match": "*"}
    key, query = task.job.destination_key(task.item.key), encode_query({"uploadId": task.upload_id})
    return bucket.request("POST", _path(bucket, key), query, conditions, date, body.encode())


def abort_request(bucket: Bucket, key: str, upload_id: str, date: str) -> bytes:
    """Give an upload up, and with it its parts."""
    return bucket.request("DELETE", _path(bucket, key), encode_query({"uploadId": upload_id}), {}, date)


def look_request(bucket: Bucket, key: str, date: str) -> bytes:
    """List the object with a key, if there is one: it is the first that begins with it."""
    query = {"list-type": "2", "encoding-type": "url", "max-keys": "1", "prefix": key}
    return bucket.request("GET", bucket.path or "/", encode_query(query), {}, date)


def part_request(bucket: Bucket, job: Job, item: Item, upload_id: str, number: int, span: tuple[int, int], date: str) -> bytes:
    """Copy a range of an object's bytes, both inclusive, as a part."""
    headers = {
        "x-amz-copy-source": copy_source(job.source.bucket, item.key),
        "x-amz-copy-source-range": f"bytes={span[0]}-{span[1]}",
    }
    if item.etag:
        headers["x-amz-copy-source-if-match"] = f'"{item.etag}"'
    if job.policy.source_owner:
        headers["x-amz-source-expected-bucket-owner"] = job.policy.source_owner
    query = encode_query({"partNumber": str(number), "uploadId": upload_id})
    return bucket.request("PUT", _path(bucket, job.destination_key(item.key)), query, headers, date)


class PartRequests:
    """Writes the requests that copy parts, each put as an item whose key is the part's number."""

    def __init__(self, task: PartTask, parts: Parts, credentials: Credentials) -> None:
        """Prepare for one upload and one access key."""
        self.credentials = credentials
        self._task, self._parts = task, parts
        self._bucket = Bucket(task.job.destination, credentials, destination_headers(task.job.policy))

    def write(self, items: Sequence[Item], date: str) -> list[bytes]:
        """Write the requests that copy these parts."""
        task = self._task
        return [
            part_request(self._bucket, task.job, task.item, task.upload_id, number, self._parts.span(number), date)
            for number in (int(item.key) for item in items)
        ]

    def write_one(self, item: Item, more: dict[str, str], date: str) -> bytes:
        """Raise: no part has more to say than others."""
        raise NotImplementedError(f"part {item.key} with {more} at {date}")


class PartCopies(JobCopies):
    """Writes the requests that copy the parts of one upload, and learns from the answers."""

    def __init__(self, s3: S3, task: PartTask, parts: Parts) -> None:
        """Prepare for a task."""
        self._task, self._parts = task, parts
        super().__init__(s3, task.job)

    def _writer(self, credentials: Credentials) -> Writer:
        return PartRequests(self._task._replace(job=self._job), self._parts, credentials)


# ------------------------------------------------------------------------------------------------------------- answers


def read_source(response: Response) -> Source:
    """Read the answer to a HEAD request; raises ValueError where it does not tell how large the object is."""
    pairs = [line.partition(":") for line in response.head.decode("latin-1").split("\r\n")[1:]]
    told = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(told.get("content-length", ""))
    whole = re.search(r"/(\d+)$", told.get("content-range", ""))
    count = told.get("x-amz-mp-parts-count", "")
    return Source(
        size=int(whole[1]) if whole else length,
        etag=unquoted(told.get("etag", "")),
        headers={name: value for name, value in told.items() if name in _KEPT or name.startswith(_METADATA)}
        | _checksum_headers(told),
        first_part=length if count.isdecimal() else None,
        parts=int(count) if count.isdecimal() else None,
        missing=_number(told.get("x-amz-missing-meta")),
        storage_class=told.get("x-amz-storage-class", "STANDARD"),
    )


def kept_headers(source: Source, policy: Policy) -> dict[str, str]:
    """Give the headers of a source that a copy by a policy begins with, too."""
    is_replaced = policy.metadata == "replace"
    return {
        name: value
        for name, value in source.headers.items()
        if not (policy.checksum_algorithm if name.startswith(_CHECKSUM) else is_replaced)
    }


def _checksum_headers(told: dict[str, str]) -> dict[str, str]:
    """Ask for the kind of checksum that an object has, if it has one."""
    algorithm = next((name for name in CHECKSUM_ALGORITHMS if _CHECKSUM + name.lower() in told), None)
    if algorithm is None:
        return {}
    is_whole = algorithm in _WHOLE_CHECKSUMS and told.get("x-amz-checksum-type") == "FULL_OBJECT"
    kind = "FULL_OBJECT" if is_whole or algorithm == "CRC64NVME" else "COMPOSITE"  # of CRC64NVME there is no other
    return {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind}


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def read_tags(response: Response) -> str | Fault:
    """Read an object's tags; gives them as a request's header has them, in the order of their keys."""
    text = response.body.decode("utf-8", "surrogateescape")
    if "<TagSet" not in text:  # it may be the object itself; and it may have tags
        return Fault(Next.RECORD, UNKNOWN_ANSWER, "the store answers what are none")
    found = re.findall(r"(?s)<Tag>\s*<Key>(.*?)</Key>\s*(?:<Value>(.*?)</Value>|<Value\s*/>)\s*</Tag>", text)
    return write_tagging((unescaped(key), unescaped(value)) for key, value in found)


def write_tagging(tags: Iterable[tuple[str, str]]) -> str:
    """Write tags as the header of a request has them, in the order of their keys.

    >>> write_tagging([("b", ""), ("a", "x y&z")]), read_tagging("a=x%20y%26z&b=")
    ('a=x%20y%26z&b=', [('a', 'x y&z'), ('b', '')])
    """
    return tagging_of(sorted(tags))


def read_tagging(tagging: str) -> list[tuple[str, str]]:
    """Read what `write_tagging` wrote."""
    return parse_qsl(tagging, keep_blank_values=True)


def read_upload_id(response: Response) -> str:
    """Read which upload has begun; raises ValueError where the answer does not tell."""
    found = re.search(rb"<UploadId>([^<]+)</UploadId>", response.body)
    if found is None:
        raise ValueError(f"no upload in {response.body[:80]!r}")
    return unescaped(found[1].decode())


def read_parts(response: Response) -> tuple[dict[int, Part], int | None]:
    """Read a page of parts; gives them, and the number behind which more follow. Raises ValueError where it is no such page."""
    text = response.body.decode("utf-8", "surrogateescape")
    if "</ListPartsResult>" not in text:
        raise ValueError(f"not a whole list of parts: {text[:80]!r}")
    parts = {}
    for found in re.finditer(r"(?s)<Part>(.*?)</Part>", text):
        number, size = (_number(_element(found[1], name)) for name in ("PartNumber", "Size"))
        checksums = "".join(one[0] for one in re.finditer(r"<(Checksum[A-Z0-9]+)>[^<]*</\1>", found[1]))
        parts[number] = Part(unquoted(unescaped(_element(found[1], "ETag") or "")), size, checksums)
    is_truncated = (_element(text, "IsTruncated") or "").lower() == "true"
    return parts, max(parts) if is_truncated and parts else None


def read_completion(response: Response) -> str | Fault:
    """Read the answer to a completion: the object's ETag where it is there, if that is told. The document decides."""
    document = response.body.lstrip()[:400]
    if b"CompleteMultipartUploadResult" in document:
        return unquoted(unescaped(_element(response.body.decode("utf-8", "replace"), "ETag") or ""))
    if b"<Error" in document:
        return read_error(500, response.body)
    return Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result")


def read_there(response: Response, key: str) -> There | None:
    """Read the answer to `look_request`; None where there is no such object. Raises ValueError where it is no listing."""
    found = next((item for item in read_page(response.body).items if item.key == key), None)
    if found is None:
        return None
    written = re.search(rb"<LastModified>\s*(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)", response.body)
    return There(found.size, found.etag, timegm(tuple(map(int, written.groups()))) if written else 0)


def _element(text: str, name: str) -> str | None:
    found = re.search(rf"(?s)<{name}>\s*(.*?)\s*</{name}>", text)
    return found[1] if found else None


def _escaped(text: str) -> str:
    for character, reference in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, reference)
    return text
