"""The requests of a multipart copy, and answers as S3 writes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.worker import multipart
from s3bulkcopy.worker.failures import Fault, Next
from s3bulkcopy.worker.http import Response
from s3bulkcopy.worker.model import Item, PartTask
from s3bulkcopy.worker.multipart import Part, Source, There, read_tagging, write_tagging
from s3bulkcopy.worker.s3 import Bucket, read_date
from tests.unit.worker.worker_fakes import CREDENTIALS, DESTINATION, JOB, answer, error, keys, parse_request

DATE = "20260101T000000Z"
BUCKET = Bucket(DESTINATION, CREDENTIALS)
TASK = PartTask("x.0", JOB, Item("big", 20, "etag"), "an/upload+=", 10, 1, 2, reports=True, begun=0)

HEAD = Response(
    206,
    b"HTTP/1.1 206 Partial Content\r\nx-amz-id-2: x\r\nx-amz-request-id: y\r\nDate: Thu, 01 Jan 2026 00:00:05 GMT\r\n"
    b'Last-Modified: Wed, 31 Dec 2025 23:00:00 GMT\r\nETag: "3858f62230ac3c915f300c664312c11f-9"\r\n'
    b"x-amz-server-side-encryption: AES256\r\nCache-Control: no-cache\r\n"
    b"x-amz-meta-Some: a  b: c\r\nx-amz-mp-parts-count: 9\r\n"
    b"x-amz-checksum-crc32c: FkC6tw==\r\nx-amz-checksum-type: COMPOSITE\r\nAccept-Ranges: bytes\r\n"
    b"Content-Range: bytes 0-8388607/70254592\r\nContent-Type: binary/octet-stream\r\nContent-Length: 8388608\r\n",
    b"",
)

LIST = """<?xml version="1.0" encoding="UTF-8"?>
<ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>
<Initiator><ID>arn:aws:sts::123456789012:assumed-role/r/s</ID><DisplayName>s</DisplayName></Initiator>
<StorageClass>STANDARD</StorageClass><PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>2</NextPartNumberMarker>
<MaxParts>2</MaxParts><IsTruncated>true</IsTruncated><ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>COMPOSITE</ChecksumType>
<Part><PartNumber>1</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"7778aef83f66abc1fa1e8477f296d394"</ETag>
<Size>10485760</Size><ChecksumSHA256>abc=</ChecksumSHA256></Part>
<Part><PartNumber>2</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;aaaa18db4cc2f85cedef654fccc4a4x8&quot;</ETag>
<Size>5</Size><ChecksumSHA256>d/+=</ChecksumSHA256></Part></ListPartsResult>"""


def test_the_first_part_of_an_object_tells_of_all() -> None:
    assert multipart.read_source(HEAD) == Source(
        size=70_254_592,
        etag="3858f62230ac3c915f300c664312c11f-9",
        headers={
            "cache-control": "no-cache",
            "content-type": "binary/octet-stream",
            "x-amz-meta-some": "a  b: c",
            "x-amz-checksum-algorithm": "CRC32C",
            "x-amz-checksum-type": "COMPOSITE",
        },
        first_part=8_388_608,
        parts=9,
        missing=0,
    )
    assert read_date(HEAD) == 1_767_225_605


def test_a_page_of_parts_is_read_with_their_checksums() -> None:
    parts, after = multipart.read_parts(answer(200, LIST))

    assert after == 2
    assert parts == {
        1: Part("7778aef83f66abc1fa1e8477f296d394", 10_485_760, "<ChecksumSHA256>abc=</ChecksumSHA256>"),
        2: Part("aaaa18db4cc2f85cedef654fccc4a4x8", 5, "<ChecksumSHA256>d/+=</ChecksumSHA256>"),
    }


def test_a_completion_names_each_part_in_order_with_its_checksum() -> None:
    parts, _ = multipart.read_parts(answer(200, LIST))
    request = parse_request(multipart.complete_request(BUCKET, TASK, dict(reversed(parts.items())), DATE))

    assert (request.method, request.path, request.query) == ("POST", "/destination/big", {"uploadId": "an/upload+="})
    named = r"<PartNumber>(\d)</PartNumber><ETag>&quot;(\w+)&quot;</ETag><ChecksumSHA256>(.*?)<"
    assert re.findall(named, request.body.decode()) == [
        ("1", "7778aef83f66abc1fa1e8477f296d394", "abc="),
        ("2", "aaaa18db4cc2f85cedef654fccc4a4x8", "d/+="),
    ]  # fmt: skip
    assert "if-none-match" not in request.headers


def test_a_completion_does_not_overwrite_where_the_job_does_not() -> None:
    task = TASK._replace(job=JOB._replace(overwrite=False))

    assert parse_request(multipart.complete_request(BUCKET, task, {}, DATE)).headers["if-none-match"] == "*"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"  \n\n<CompleteMultipartUploadResult><ETag>&quot;x-2&quot;</ETag></CompleteMultipartUploadResult>", "x-2"),
        (b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>", ""),
        (b"  " + error(500, "InternalError").body, Fault(Next.RETRY, "InternalError", "because")),
        (error(503, "SlowDown").body, Fault(Next.SLOW_DOWN, "SlowDown", "because")),
        (b"    ", Fault(Next.RETRY, "IncompleteAnswer", "a 200 without a result")),
    ],
)
def test_the_document_decides_how_a_completion_ended(body: bytes, fault: Fault | str) -> None:
    assert multipart.read_completion(answer(200, body)) == fault


def test_what_is_at_the_destination_is_told_with_its_time() -> None:
    entry = (
        "<Contents><Key>a%2Bb</Key><LastModified>2026-01-01T00:00:05.000Z</LastModified><ETag>&quot;x-2&quot;</ETag>"
        "<Size>7</Size></Contents>"
    )
    page = answer(
        200, f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>"
    )

    assert multipart.read_there(page, "a+b") == There(7, "x-2", 1_767_225_605)
    assert multipart.read_there(page, "a+") is None


@pytest.mark.parametrize("read", [multipart.read_source, multipart.read_parts, multipart.read_upload_id])
def test_what_is_no_answer_is_not_taken_for_one(read: object) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read(answer(200, error(500, "InternalError").body))  # type: ignore[operator]


_texts = st.text(max_size=8)


@given(st.dictionaries(_texts, _texts, max_size=4))
def test_tags_survive_on_their_way_through_a_header(tags: dict[str, str]) -> None:
    written = write_tagging(tags.items())

    assert written.isascii()
    assert read_tagging(written) == sorted((key, value) for key, value in tags.items())


@given(keys, st.integers(1, 10_000))
def test_a_part_is_asked_for_by_range_and_version(key: str, number: int) -> None:
    wire = multipart.part_request(BUCKET, JOB, Item(key, 100, "e"), "u/+=", number, (10, 19), DATE)
    request = parse_request(wire)

    assert (request.method, request.path) == ("PUT", f"/destination/{key}")
    assert request.query == {"partNumber": f"{number}", "uploadId": "u/+="}
    assert request.headers["x-amz-copy-source-range"] == "bytes=10-19"
    assert request.headers["x-amz-copy-source-if-match"] == '"e"'


def test_header_values_are_sent_as_they_came_and_signed_as_s3_reads_them() -> None:
    headers = {"content-disposition": "a  b \u00c3\u00b8", "x-amz-meta-x": "\u00ff"}
    wire = multipart.begin_request(BUCKET, "k", headers, DATE)

    assert b"content-disposition: a  b \xc3\xb8\r\n" in wire
    assert b"x-amz-meta-x: \xff\r\n" in wire
