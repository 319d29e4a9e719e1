"""S3's answers, read."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.failures import Fault, Next, classify, read_error
from s3bulkcopy.worker.http import Response
from s3bulkcopy.worker.model import Item
from s3bulkcopy.worker.s3 import S3, Page, read_copy, read_page
from s3bulkcopy.worker.sigv4 import encode_path
from tests.unit.worker.worker_fakes import (
    COPIED,
    CREDENTIALS,
    JOB,
    NOW,
    SOURCE,
    answer,
    error,
    fake_host,
    item,
    items,
    listing,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.worker.worker_fakes import Request

REAL_PAGE = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix><StartAfter>a%2B</StartAfter>\
<KeyCount>2</KeyCount><MaxKeys>2</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>\
1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken><Contents><Key>a+b%2Bc/%C3%B8%25%0A</Key><LastModified>\
2026-10-12T17:50:30.000Z</LastModified><ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><ChecksumAlgorithm>CRC64NVME\
</ChecksumAlgorithm><Size>434234</Size><StorageClass>STANDARD</StorageClass></Contents><Contents><Key>b%26</Key><Size>0</Size>\
<Owner><ID>7</ID></Owner><ETag>"d41d8cd98f00b204e9800998ecf8427e-3"</ETag></Contents></ListBucketResult>
"""


def test_a_page_of_s3_is_read() -> None:
    assert read_page(REAL_PAGE) == Page(
        (
            Item("a b+c/ø%\n", 434234, "fba9dede5f27731c9771645a39863328"),
            Item("b&", 0, "d41d8cd98f00b204e9800998ecf8427e-3"),
        ),
        truncated=True,
        token="1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=",
    )


def test_a_page_without_objects_is_empty() -> None:
    assert read_page(listing([], truncated=False)) == Page((), truncated=False)


@settings(max_examples=100, deadline=None)
@given(found=st.lists(items, max_size=5), truncated=st.booleans())
def test_what_s3_encodes_is_read_as_it_was(found: list[Item], *, truncated: bool) -> None:
    assert read_page(listing(found, truncated=truncated)) == Page(tuple(found), truncated)


@settings(max_examples=100, deadline=None)
@given(st.lists(items, max_size=5))
def test_a_store_that_writes_spaces_as_percent_20_is_read_too(found: list[Item]) -> None:
    body = listing(found, truncated=False, encode=lambda key: quote(key, safe="/"))
    body = body.replace(b"<MaxKeys>", b"<EncodingType>url</EncodingType><MaxKeys>")

    assert read_page(body) == Page(tuple(found), truncated=False)


def _as_references(key: str) -> str:
    return "".join(f"&#{ord(c)};" if c < " " else f"&#x{ord(c):X};" if c > "~" else escape(c) for c in key)


def _as_surrogates(key: str) -> str:
    """Write what needs two units of UTF-16 as a reference to each."""
    units = memoryview(key.encode("utf-16-le")).cast("H")
    return "".join(f"&#{unit};" for unit in units)


@settings(max_examples=100, deadline=None)
@given(st.lists(items, max_size=5), st.sampled_from([escape, _as_references, _as_surrogates]))
def test_a_store_that_ignores_the_encoding_type_is_read_as_xml(found: list[Item], encode: Callable[[str], str]) -> None:
    body = listing(found, truncated=False, encode=encode)

    assert read_page(body) == Page(tuple(found), truncated=False)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=10))
def test_a_reference_to_half_a_character_gives_a_key_that_a_request_can_name(key: str) -> None:
    body = listing([item("x")], truncated=False, encode=lambda _: "&amp;" + "".join(f"&#{ord(c)};" for c in key))
    [found] = read_page(body).items

    whole = key.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")  # joins halves
    assert unquote_to_bytes(encode_path(found.key)) == b"&" + whole.encode("utf-8", "surrogatepass")


def test_a_reference_to_no_character_stays_as_it_is() -> None:
    assert read_error(500, b"<Error><Code>a&#9999999;b</Code></Error>").code == "a&#9999999;b"


def test_an_escaped_reference_is_not_decoded_twice() -> None:
    found = item("&copy &amp; &#x41; &lt;")

    assert read_page(listing([found], truncated=False, encode=escape)).items == (found,)


def test_a_page_that_was_cut_off_anywhere_is_refused() -> None:
    for end in range(len(REAL_PAGE.rstrip())):
        with pytest.raises(ValueError, match="not a whole listing"):
            read_page(REAL_PAGE[:end])


@pytest.mark.parametrize(
    "body",
    [
        b"<ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated>",
        b"<html><ListBucketResultx></ListBucketResult>",
        b"<Error><Code>SlowDown</Code></Error>",
        b'<s3:ListBucketResult xmlns:s3="x"><s3:Contents><s3:Key>a</s3:Key></s3:Contents></s3:ListBucketResult>',
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_refused_rather_than_taken_for_an_empty_one(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a whole listing|without a key or a size"):
        read_page(body)


# ------------------------------------------------------------------------------------------------------------------ copies


def test_a_copy_that_s3_confirms_is_made() -> None:
    assert read_copy(COPIED) is None


@pytest.mark.parametrize("blanks", [1, 399, 5000])
def test_white_space_before_the_document_changes_nothing(blanks: int) -> None:
    padding = b" \n" * blanks
    failed = error(200, "InternalError", "We encountered an internal error.")

    assert read_copy(Response(200, b"", padding + COPIED.body)) is None
    assert read_copy(Response(200, b"", padding + failed.body)) == Fault(
        Next.RETRY, "InternalError", "We encountered an internal error."
    )


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (error(200, "InternalError", "m"), Fault(Next.RETRY, "InternalError", "m")),
        (error(200, "SlowDown", "m"), Fault(Next.SLOW_DOWN, "SlowDown", "m")),
        (error(200, "AccessDenied", "m"), Fault(Next.DENIED, "AccessDenied", "m")),
        (error(200, "NoSuchKey", "m"), Fault(Next.VANISHED, "NoSuchKey", "m")),
        (answer(200), Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result")),
        (answer(200, b" \n "), Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result")),
        (
            Response(200, b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 0\r\n', b""),
            Fault(Next.RECORD, "CopyUnknown", "the store has taken the copy for an upload of nothing"),
        ),
        (
            Response(200, b'HTTP/1.1 200 OK\r\netag: "e"\r\n', b""),
            Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result"),
        ),
        (
            error(412, "PreconditionFailed", "m", "<Condition>If-None-Match</Condition>"),
            Fault(Next.EXISTS, "PreconditionFailed", "m"),
        ),
        (
            error(412, "PreconditionFailed", "m", "<Condition>x-amz-copy-source-If-Match</Condition>"),
            Fault(Next.CHANGED, "PreconditionFailed", "m"),
        ),
        (error(404, "NoSuchKey", "m"), Fault(Next.VANISHED, "NoSuchKey", "m")),
        (answer(404, "<html>not here</html>"), Fault(Next.RECORD, "HTTP 404", "")),
        (error(404, "NoSuchBucket", "m"), Fault(Next.STOP, "NoSuchBucket", "m")),
        (answer(503), Fault(Next.SLOW_DOWN, "HTTP 503", "")),
        (answer(503, "<html>busy</html>"), Fault(Next.SLOW_DOWN, "HTTP 503", "")),
        (error(503, "ServiceUnavailable", "m"), Fault(Next.SLOW_DOWN, "ServiceUnavailable", "m")),
        (error(403, "AccessDenied", "a &lt; b &amp; c"), Fault(Next.DENIED, "AccessDenied", "a < b & c")),
        (error(400, "ExpiredToken", "m"), Fault(Next.EXPIRED, "ExpiredToken", "m")),
    ],
)
def test_an_answer_to_a_copy_is_put_on_the_axis(response: Response, expected: Fault) -> None:
    assert read_copy(response) == expected


#: status, code, message, condition -> what next.
TRUTH = [
    (503, "SlowDown", "", "", Next.SLOW_DOWN),
    (503, "", "", "", Next.SLOW_DOWN),
    (400, "ThrottlingException", "", "", Next.SLOW_DOWN),
    (400, "KMS.ThrottlingException", "You have exceeded the rate", "", Next.SLOW_DOWN),
    (400, "ThrottlingException", "AWS KMS throttled", "", Next.SLOW_DOWN),
    (400, "KmsThrottled", "", "", Next.SLOW_DOWN),
    (403, "RequestThrottled", "", "", Next.SLOW_DOWN),
    (500, "InternalError", "", "", Next.RETRY),
    (500, "", "", "", Next.RETRY),
    (502, "", "", "", Next.RETRY),
    (504, "", "", "", Next.RETRY),
    (400, "RequestTimeout", "", "", Next.RETRY),
    (403, "RequestTimeTooSkewed", "", "", Next.RETRY),
    (409, "OperationAborted", "", "", Next.RETRY),
    (409, "ConditionalRequestConflict", "", "", Next.RETRY),
    (409, "", "", "", Next.RETRY),
    (307, "TemporaryRedirect", "", "", Next.RETRY),
    (408, "", "", "", Next.RETRY),
    (429, "", "", "", Next.RETRY),
    (403, "AccessDenied", "", "", Next.DENIED),
    (403, "", "", "", Next.DENIED),
    (401, "", "", "", Next.DENIED),
    (400, "AccessDeniedException", "", "", Next.DENIED),
    (404, "NoSuchKey", "", "", Next.VANISHED),
    (404, "", "", "", Next.RECORD),
    (412, "PreconditionFailed", "", "If-None-Match", Next.EXISTS),
    (412, "PreconditionFailed", "", "x-amz-copy-source-If-Match", Next.CHANGED),
    (412, "PreconditionFailed", "", "", Next.PRECONDITION),
    (412, "", "", "", Next.PRECONDITION),
    (403, "InvalidObjectState", "", "", Next.RECORD),
    (400, "KMS.DisabledException", "", "", Next.RECORD),
    (400, "InvalidRequest", "", "", Next.RECORD),
    (
        400,
        "InvalidRequest",
        "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
        "",
        Next.CHANGED,
    ),
    (400, "KeyTooLongError", "", "", Next.RECORD),
    (501, "NotImplemented", "", "", Next.RECORD),
    (400, "ExpiredToken", "", "", Next.EXPIRED),
    (404, "NoSuchBucket", "", "", Next.STOP),
    (301, "PermanentRedirect", "", "", Next.STOP),
    (301, "", "", "", Next.STOP),
    (403, "InvalidAccessKeyId", "", "", Next.STOP),
    (403, "SignatureDoesNotMatch", "", "", Next.STOP),
    (400, "AuthorizationHeaderMalformed", "", "", Next.STOP),
]


@pytest.mark.parametrize(("status", "code", "cause", "condition", "expected"), TRUTH)
def test_what_comes_next_follows_from_the_answer(status: int, code: str, cause: str, condition: str, expected: Next) -> None:
    assert classify(status, code, cause, condition) == Fault(expected, code or f"HTTP {status}", cause)


@settings(max_examples=100, deadline=None)
@given(st.integers(300, 599), st.binary(max_size=100))
def test_any_error_body_has_a_place_on_the_axis(status: int, body: bytes) -> None:
    assert isinstance(read_error(status, b"<Error><Code>" + body + b"</Code><Message>" + body), Fault)


# ------------------------------------------------------------------------------------------------------------------ client


def test_the_time_is_learned_from_an_answer_that_calls_ours_skewed() -> None:
    dates = []
    skewed = error(403, "RequestTimeTooSkewed")
    skewed = Response(403, skewed.head + b"Date: Tue, 14 Nov 2023 23:13:20 GMT\r\n", skewed.body)

    def serve(request: Request) -> Response:
        dates.append(request.headers["x-amz-date"])
        return skewed if len(dates) == 1 else COPIED

    async def main() -> list[Fault | None]:
        copies = S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(serve)).copies(JOB)
        return [await copies.copy(item("a")), await copies.copy(item("a"))]

    assert run(main()) == [None, None]
    assert dates == ["20231114T221320Z", "20231114T231320Z", "20231114T231320Z"]


def test_a_date_that_is_none_teaches_nothing() -> None:
    skewed = error(403, "RequestTimeTooSkewed")

    async def main() -> str:
        s3 = S3(
            lambda: CREDENTIALS,
            now=lambda: NOW,
            host=lambda _: fake_host(lambda _: Response(403, b"X\r\nDate: soon", skewed.body)),
        )
        await s3.copies(JOB).copy(item("a"))
        return s3.date()

    assert run(main()) == "20231114T221320Z"


@pytest.mark.parametrize("fault", [TimeoutError("late"), ConnectionResetError("reset"), OSError("no route")])
def test_no_answer_is_a_fault_to_retry(fault: Exception) -> None:
    def serve(_: object) -> Response:
        raise fault

    async def main() -> Page | Fault:
        return await S3(lambda: CREDENTIALS, host=lambda _: fake_host(serve)).page(SOURCE, "", "")

    answered = run(main())
    assert isinstance(answered, Fault)
    assert answered.next is Next.RETRY


def test_a_page_that_was_cut_off_is_a_fault_to_retry() -> None:
    async def main() -> Page | Fault:
        s3 = S3(lambda: CREDENTIALS, host=lambda _: fake_host(lambda _: answer(200, REAL_PAGE[:400])))
        return await s3.page(SOURCE, "", "")

    answered = run(main())
    assert isinstance(answered, Fault)
    assert answered.next is Next.RETRY
