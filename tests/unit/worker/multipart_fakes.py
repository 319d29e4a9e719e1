"""A model of multipart uploads between the two buckets of the fakes, as the worker's own bytes ask for them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from s3bulkcopy.worker.model import Item
from tests.unit.worker import worker_fakes as fakes

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.http import Response
    from tests.unit.worker.worker_fakes import Request

NO_SUCH_UPLOAD = fakes.error(404, "NoSuchUpload", "The specified upload does not exist.")
CHANGED = fakes.error(412, "PreconditionFailed", extra="<Condition>x-amz-copy-source-If-Match</Condition>")
EXISTS = fakes.error(412, "PreconditionFailed", extra="<Condition>If-None-Match</Condition>")
INVALID_PART = fakes.error(400, "InvalidPart", "One or more of the specified parts could not be found.")

Tags = tuple[tuple[str, str], ...]


@dataclass
class Copied:
    """A part, as it was copied: which bytes of which version of which object."""

    key: str
    version: str
    first: int
    last: int
    #: How often it was copied before.
    number: int = 0

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    @property
    def etag(self) -> str:
        return md5(f"{self.version} {self.first} {self.last}".encode(), usedforsecurity=False).hexdigest()


@dataclass
class Upload:
    """An upload that has begun."""

    target: str
    headers: dict[str, str]
    begun: float
    by: str = ""
    parts: dict[int, Copied] = field(default_factory=dict)


@dataclass
class Made:
    """An object that was made of parts; its version is the source's."""

    size: int
    etag: str
    written: float
    version: str
    headers: dict[str, str]
    tags: Tags = ()
    #: Annotations, each with the checksum that came with it.
    annotations: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Multipart:
    """Uploads, and what they came to."""

    #: Gives the object of a key at the source, and what the destination has under one that was not made of parts.
    find: Callable[[str], Item | None]
    there: Callable[[str], Item | None]
    #: Is told of an object that was made: where, and of which key.
    put: Callable[[str, str, str], None] = lambda _target, _key, _version: None
    now: Callable[[], float] = lambda: fakes.NOW
    uploads: dict[str, Upload] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    #: Of objects at the source: headers, tags, and the size of the parts they were put in.
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    tags: dict[str, Tags] = field(default_factory=dict)
    part_sizes: dict[str, int] = field(default_factory=dict)
    #: ACLs of objects at the source, as GetObjectAcl shows them.
    acls: dict[str, str] = field(default_factory=dict)
    #: Annotations of objects at the source, by their names.
    annotations: dict[str, dict[str, str]] = field(default_factory=dict)
    #: How many annotations a page of them has.
    page_annotations: int = 1000
    #: Faults that requests of a kind meet first, in order.
    faults: dict[str, list[fakes.Scripted]] = field(default_factory=dict)
    #: A fault for any request, from its kind and the number of the part, or 0.
    rule: Callable[[str, int], fakes.Scripted | None] = lambda _kind, _number: None
    #: Whether tags that come with the beginning of an upload are taken.
    takes_tags: bool = True
    #: How many parts a page of them has.
    page_parts: int = 1000
    #: The kinds of requests, in order.
    asked: list[str] = field(default_factory=list)
    #: How often each part of an upload was copied.
    copies: dict[tuple[str, int], int] = field(default_factory=dict)
    number: int = 0

    def serve(self, request: Request, by: str = "") -> Response | None:
        """Answer a request, if it is one of these."""
        bucket, _, key = request.path[1:].partition("/")
        kind = self._kind(request, bucket, key)
        if kind is None:
            return None
        self.asked.append(kind)
        number = int(request.query.get("partNumber", "0")) if kind == "part" else 0
        if self.faults.get(kind):
            return fakes._raised(self.faults[kind].pop(0))
        if (ruled := self.rule(kind, number)) is not None:
            return fakes._raised(ruled)
        return self.answer(kind, request, key, by)

    def answer(self, kind: str, request: Request, key: str, by: str) -> Response:
        """Answer a request of a kind."""
        answer: Response = getattr(self, f"_{kind}")(request, key, by)
        return answer

    @staticmethod
    def _kind(request: Request, bucket: str, key: str) -> str | None:  # noqa: C901, PLR0911 - a table
        query, method = request.query, request.method
        match method:
            case "HEAD":
                return "head"
            case "POST":
                return "begin" if "uploads" in query else "complete"
            case "DELETE":
                return "abort"
            case "PUT" if "partNumber" in query:
                return "part"
            case "PUT" | "GET" if key and "tagging" in query:
                return ("put" if method == "PUT" else "get") + "_tags"
            case "GET" if key and "acl" in query:
                return "acl"
            case "PUT" | "GET" if "annotation" in query:
                if method == "PUT":
                    return "put_annotation"
                return "get_annotation" if "annotationName" in query else "annotations"
            case "GET" if "uploadId" in query:
                return "list"
            case "GET" if bucket == "destination" and not key:
                return "look"
        return None

    def _head(self, request: Request, key: str, _by: str) -> Response:
        found = self.find(key)
        if found is None:
            return fakes.answer(404)
        if request.headers.get("if-match", f'"{found.etag}"') != f'"{found.etag}"':
            return fakes.answer(412)
        told = {"ETag": f'"{found.etag}"', **self.headers.get(key, {})}
        size = self.part_sizes.get(key)
        if size is not None and request.query.get("partNumber") == "1":
            first = min(size, found.size)
            told |= {"Content-Length": str(first), "Content-Range": f"bytes 0-{first - 1}/{found.size}"}
            told.setdefault("x-amz-mp-parts-count", str(-(-found.size // size)))
            return fakes.answer(206, **told)
        return fakes.answer(200, **{"Content-Length": str(found.size), **told})

    def _get_tags(self, request: Request, key: str, _by: str) -> Response:
        made = self.made.get(key)
        tags = self.tags.get(key, ()) if request.path.startswith("/source/") else made.tags if made else ()
        rows = "".join(f"<Tag><Key>{_xml(k)}</Key><Value>{_xml(v)}</Value></Tag>" for k, v in tags)
        return fakes.answer(200, f"<Tagging><TagSet>{rows}</TagSet></Tagging>")

    def _acl(self, _request: Request, key: str, _by: str) -> Response:
        return fakes.answer(200, self.acls[key]) if key in self.acls and self.find(key) is not None else fakes.NO_SUCH_KEY

    def _annotations(self, request: Request, key: str, _by: str) -> Response:
        if self.find(key) is None:
            return fakes.NO_SUCH_KEY
        names = sorted(self.annotations.get(key, {}), key=str.encode)
        first = int(request.query.get("continuation-token", "0"))
        last = first + min(self.page_annotations, int(request.query["max-annotation-results"]))
        rows = "".join(
            f"<AnnotationEntry><AnnotationName>{_xml(name)}</AnnotationName><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
            "<ETag>&quot;e&quot;</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></AnnotationEntry>"
            for name in names[first:last]
        )
        more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < len(names) else ""
        body = f"<Annotations>{rows}</Annotations><Bucket>source</Bucket><Key>{_xml(key)}</Key>{more}"
        return fakes.answer(200, f"<ListObjectAnnotationsOutput>{body}</ListObjectAnnotationsOutput>")

    def _get_annotation(self, request: Request, key: str, _by: str) -> Response:
        text = self.annotations.get(key, {}).get(request.query["annotationName"])
        if text is None:
            return fakes.error(404, "NoSuchAnnotation")
        checksum = f"sum of {len(text)}" if request.headers.get("x-amz-checksum-mode") == "ENABLED" else ""
        told = {"x-amz-checksum-crc64nvme": checksum, "x-amz-checksum-type": "FULL_OBJECT"}
        return fakes.answer(200, text, ETag='"e"', **told)

    def _put_annotation(self, request: Request, key: str, _by: str) -> Response:
        made = self.made.get(key)
        if made is None:
            return fakes.NO_SUCH_KEY
        if request.headers.get("x-amz-object-if-match", f'"{made.etag}"') != f'"{made.etag}"':
            return fakes.error(412, "PreconditionFailed")
        checksum = request.headers["x-amz-checksum-crc64nvme"]
        made.annotations[request.query["annotationName"]] = request.body.decode(), checksum
        return fakes.answer(200, "<PutObjectAnnotationOutput></PutObjectAnnotationOutput>")

    def _put_tags(self, request: Request, key: str, _by: str) -> Response:
        found = re.findall(r"<Key>(.*?)</Key><Value>(.*?)</Value>", request.body.decode())
        self.made[key].tags = tuple((unescape(k), unescape(v)) for k, v in found)
        return fakes.answer(200)

    def _begin(self, request: Request, key: str, by: str) -> Response:
        self.number += 1
        name = f"upload/{self.number}+="
        self.uploads[name] = Upload(key, request.headers, self.now(), by)
        date = formatdate(self.now(), usegmt=True)
        body = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
        return fakes.answer(200, body, Date=date)

    def _upload(self, request: Request, key: str) -> Upload | None:
        found = self.uploads.get(request.query["uploadId"])
        assert found is None or found.target == key
        return found

    def _part(self, request: Request, key: str, _by: str) -> Response:
        upload, query, headers = self._upload(request, key), request.query, request.headers
        if upload is None:
            return NO_SUCH_UPLOAD
        source = unquote(headers["x-amz-copy-source"])
        assert source.startswith("/source/")
        found = self.find(source[8:])
        if found is None:
            return fakes.NO_SUCH_KEY
        if headers.get("x-amz-copy-source-if-match", f'"{found.etag}"') != f'"{found.etag}"':
            return CHANGED
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", headers["x-amz-copy-source-range"])
        assert span is not None
        if int(span[2]) >= found.size:
            assert "x-amz-copy-source-if-match" not in headers, "a part that the object does not have"
            return fakes.error(416, "InvalidRange")
        assert int(span[1]) <= int(span[2])
        number = int(query["partNumber"])
        assert 1 <= number <= 10_000
        place = query["uploadId"], number
        self.copies[place] = self.copies.get(place, 0) + 1
        upload.parts[number] = Copied(source[8:], found.etag, int(span[1]), int(span[2]), self.copies[place])
        return fakes.answer(200, f"<CopyPartResult><ETag>&quot;{upload.parts[number].etag}&quot;</ETag></CopyPartResult>")

    def _list(self, request: Request, key: str, _by: str) -> Response:
        upload = self._upload(request, key)
        if upload is None:
            return NO_SUCH_UPLOAD
        after = int(request.query.get("part-number-marker", "0"))
        numbers = sorted(number for number in upload.parts if number > after)
        shown = numbers[: self.page_parts]
        rows = "".join(
            f"<Part><PartNumber>{n}</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{upload.parts[n].etag}&quot;</ETag><Size>{upload.parts[n].size}</Size></Part>"
            for n in shown
        )
        more = "true" if len(shown) < len(numbers) else "false"
        return fakes.answer(200, f"<ListPartsResult><IsTruncated>{more}</IsTruncated>{rows}</ListPartsResult>")

    def _complete(self, request: Request, key: str, _by: str) -> Response:
        upload = self._upload(request, key)
        if upload is None:
            return NO_SUCH_UPLOAD
        if "if-none-match" in request.headers and (key in self.made or self.there(key) is not None):
            return EXISTS
        named = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>&quot;(\w+)&quot;</ETag>", request.body.decode())
        if any(int(n) not in upload.parts or upload.parts[int(n)].etag != etag for n, etag in named):
            return INVALID_PART
        self._make(request.query["uploadId"], upload, [upload.parts[int(n)] for n, _ in named])
        told = f"<ETag>&quot;{self.made[key].etag}&quot;</ETag>"
        return fakes.answer(200, f"  \n<CompleteMultipartUploadResult>{told}</CompleteMultipartUploadResult>")

    def _make(self, name: str, upload: Upload, parts: list[Copied]) -> None:
        """Make an object of parts, which are a whole object of one version."""
        source = parts[0]
        position = 0
        for part in parts:
            assert (part.key, part.version, part.first) == (source.key, source.version, position), f"corrupt: {parts}"
            position = part.last + 1
        tagging = parse_qsl(upload.headers.get("x-amz-tagging", ""), keep_blank_values=True) if self.takes_tags else []
        etag = f"{md5(''.join(part.etag for part in parts).encode(), usedforsecurity=False).hexdigest()}-{len(parts)}"
        self.made[upload.target] = Made(position, etag, self.now(), source.version, upload.headers, tuple(tagging))
        del self.uploads[name]
        self.put(upload.target, source.key, source.version)

    def _abort(self, request: Request, key: str, _by: str) -> Response:
        if self._upload(request, key) is None:
            return NO_SUCH_UPLOAD
        del self.uploads[request.query["uploadId"]]
        return fakes.answer(204)

    def _look(self, request: Request, _key: str, _by: str) -> Response:
        key = request.query["prefix"]
        made, found = self.made.get(key), self.there(key)
        if made is not None:
            found = Item(key, made.size, made.etag)
        if found is None:
            return fakes.answer(200, fakes.listing([], truncated=False))
        written = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(made.written if made else 0))
        page = fakes.listing([found._replace(key=key)], truncated=False)
        return fakes.answer(200, page.replace(b"2026-01-01T00:00:00.000Z", written.encode()))


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
