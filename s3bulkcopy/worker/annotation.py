"""Annotations of objects: named texts of up to 1 MiB each, up to 1,000 an object, which multipart copy drops. Pure.

The requests that list, read and write them, and their answers (S3 API reference, ListObjectAnnotations and its kin). A store
that knows none takes a request for them for one for the object itself, which may be large: a range keeps that short.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.s3 import unquoted
from s3bulkcopy.worker.sigv4 import encode_path, encode_query
from s3bulkcopy.worker.xml import unescaped

if TYPE_CHECKING:
    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.s3 import Bucket

#: Annotations in a page; and in the first look, whose answer fits the range that is asked for whatever the names are.
_PAGE = 1000
_LOOK = 1
_RANGE = "bytes=0-32767"

_PARTIAL_CONTENT = 206
_CHECKSUM = re.compile(r"(?im)^(x-amz-checksum-(?!type)[a-z0-9]+):[ \t]*([^\r\n]*?)[ \t]*\r?$")
#: The root of a list, whatever exactly it is called.
_LIST = re.compile(r"<(?:\w+:)?List\w*Annotation")


class Annotation(NamedTuple):
    """An annotation: its text, and the headers that tell a checksum of it."""

    text: bytes
    checksum: dict[str, str]


def _request(
    bucket: Bucket, method: str, key: str, query: dict[str, str], headers: dict[str, str], date: str, body: bytes
) -> bytes:
    path = f"{bucket.path}/{encode_path(key)}"
    return bucket.request(method, path, encode_query({"annotation": "", **query}), headers, date, body)


def look_request(bucket: Bucket, key: str, date: str) -> bytes:
    """Ask whether an object has annotations."""
    return _request(bucket, "GET", key, {"max-annotation-results": f"{_LOOK}"}, {"range": _RANGE}, date, b"")


def list_request(bucket: Bucket, key: str, token: str, date: str) -> bytes:
    """Ask for the names of an object's annotations, of which there are some; those that follow a page with a token."""
    query = {"max-annotation-results": f"{_PAGE}"} | ({"continuation-token": token} if token else {})
    return _request(bucket, "GET", key, query, {}, date, b"")


def get_request(bucket: Bucket, key: str, name: str, date: str) -> bytes:
    """Ask for an annotation."""
    return _request(bucket, "GET", key, {"annotationName": name}, {"x-amz-checksum-mode": "ENABLED"}, date, b"")


def put_request(bucket: Bucket, key: str, etag: str, name: str, annotation: Annotation, date: str) -> bytes:
    """Give an object an annotation, as long as the object has this ETag, if that is known."""
    headers = annotation.checksum | ({"x-amz-object-if-match": f'"{etag}"'} if etag else {})
    return _request(bucket, "PUT", key, {"annotationName": name}, headers, date, annotation.text)


def has_some(response: Response, etag: str) -> bool:
    """Read the answer to `look_request`; `etag` is the object's. Raises ValueError for what is neither list nor object."""
    text = response.body.decode("utf-8", "replace")
    if _LIST.search(text[:400]):
        return "<AnnotationName>" in text
    if response.status == _PARTIAL_CONTENT or unquoted(response.header("etag") or "") == etag != "":
        return False  # the object itself
    raise ValueError(f"no list of annotations: {text[:80]!r}")


def read_list(response: Response) -> tuple[list[str], str]:
    """Read the answer to `list_request`: names, and the token of the page that follows. Raises ValueError where it is none."""
    text = response.body.decode("utf-8", "surrogateescape")
    if not _LIST.search(text[:400]):
        raise ValueError(f"no list of annotations: {text[:80]!r}")
    token = re.search(r"(?s)<NextContinuationToken>(.*?)</NextContinuationToken>", text)
    names = re.findall(r"(?s)<AnnotationName>(.*?)</AnnotationName>", text)
    return [unescaped(name) for name in names], unescaped(token[1]) if token else ""


def read_annotation(response: Response) -> Annotation:
    """Read the answer to `get_request`."""
    told = _CHECKSUM.search(response.head.decode("latin-1"))
    return Annotation(response.body, {told[1].lower(): told[2]} if told else {})
