"""A policy for properties, as S3 is told of it; each header by its name in S3's API reference."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import botocore.auth
import botocore.session
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.model import CopyTask, Item, Location, encode_task
from s3bulkcopy.worker.packing import Packer
from s3bulkcopy.worker.properties import (
    PRESERVE,
    STORAGE_CLASSES,
    Policy,
    class_headers,
    copy_headers,
    destination_headers,
    grant_headers,
    new_object_headers,
    source_headers,
)
from s3bulkcopy.worker.s3 import CopyRequests, read_page
from s3bulkcopy.worker.sigv4 import Credentials, amz_date
from tests.unit.worker.test_sigv4 import botocore_authorization
from tests.unit.worker.worker_fakes import JOB, NOW, item, items, listing, parse_request

if TYPE_CHECKING:
    from typing import Any

#: A value for each property, and what a CopyObject and a new object have for it.
TABLE: list[tuple[dict[str, Any], dict[str, str], dict[str, str] | None]] = [
    ({}, {}, None),
    ({"storage_class": "GLACIER_IR"}, {"x-amz-storage-class": "GLACIER_IR"}, None),
    ({"storage_class": PRESERVE}, {}, None),
    ({"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}, None),
    ({"sse": "aws:kms:dsse"}, {"x-amz-server-side-encryption": "aws:kms:dsse"}, None),
    (
        {"sse": "aws:kms", "kms_key_id": "alias/a", "bucket_key": True},
        {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "alias/a",
            "x-amz-server-side-encryption-bucket-key-enabled": "true",
        },
        None,
    ),
    ({"bucket_key": False}, {"x-amz-server-side-encryption-bucket-key-enabled": "false"}, None),
    ({"acl": "bucket-owner-full-control"}, {"x-amz-acl": "bucket-owner-full-control"}, None),
    ({"acl": PRESERVE}, {}, None),
    ({"tags": "drop"}, {"x-amz-tagging-directive": "REPLACE"}, {}),
    (
        {"tags": "replace", "tag_set": (("a b", "1&2"), ("c", ""))},
        {"x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "a%20b=1%262&c="},
        {"x-amz-tagging": "a%20b=1%262&c="},
    ),
    (
        {"metadata": "replace", "entries": (("Team", "x  y"), ("e", "")), "content_headers": (("content-type", "text/plain"),)},
        {
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-meta-team": "x  y",
            "x-amz-meta-e": "",
            "content-type": "text/plain",
        },
        {"x-amz-meta-team": "x  y", "x-amz-meta-e": "", "content-type": "text/plain"},
    ),
    ({"metadata": "replace"}, {"x-amz-metadata-directive": "REPLACE"}, {}),
    ({"checksum_algorithm": "CRC64NVME"}, {"x-amz-checksum-algorithm": "CRC64NVME"}, None),
    ({"annotations": "drop"}, {"x-amz-object-annotation-directive": "EXCLUDE"}, {}),
    ({"request_payer": True}, {"x-amz-request-payer": "requester"}, None),
    ({"source_owner": "111122223333"}, {"x-amz-source-expected-bucket-owner": "111122223333"}, {}),
    ({"destination_owner": "111122223333"}, {"x-amz-expected-bucket-owner": "111122223333"}, None),
]
RICH = Policy(
    storage_class=PRESERVE,
    sse="aws:kms",
    kms_key_id="arn:aws:kms:eu-west-1:111122223333:key/k",
    bucket_key=True,
    acl="bucket-owner-full-control",
    tags="replace",
    tag_set=(("a", "b c"),),
    metadata="replace",
    entries=(("note", "two  blanks "), ("empty", "")),
    content_headers=(("content-type", "text/plain;  charset=utf-8"), ("cache-control", "no-cache")),
    checksum_algorithm="SHA256",
    annotations="drop",
    request_payer=True,
    source_owner="111122223333",
    destination_owner="444455556666",
)
ME = Credentials("AKIDEXAMPLE", "secret", "token")
PLACE = Location("bucket", "", "eu-west-1", "https://bucket.s3.eu-west-1.amazonaws.com")


@pytest.mark.parametrize(("said", "copied", "made"), TABLE)
def test_each_property_has_its_headers(said: dict[str, Any], copied: dict[str, str], made: dict[str, str] | None) -> None:
    policy = Policy(**said)

    assert copy_headers(policy) == copied
    assert new_object_headers(policy) == (copied if made is None else made)


def members(operation: str) -> set[str]:
    """Give the names of the headers that an operation knows, as botocore's service model has them."""
    model = botocore.session.get_session().get_service_model("s3").operation_model(operation)
    return {str(shape.serialization.get("name", "")).lower() for shape in model.input_shape.members.values()}


@pytest.mark.parametrize(
    ("operation", "headers"),
    [
        ("CopyObject", copy_headers(RICH)),
        ("CreateMultipartUpload", new_object_headers(RICH, "GLACIER")),
        ("ListObjectsV2", source_headers(RICH)),
        ("GetObjectAcl", source_headers(RICH)),
        ("UploadPartCopy", destination_headers(RICH)),
    ],
)
def test_every_header_is_one_that_s3_knows_for_the_request(operation: str, headers: dict[str, str]) -> None:
    known = members(operation)

    # What is newer than the oldest botocore that we work with is not in its model.
    new = {"x-amz-object-annotation-directive"}
    assert {name for name in headers if not name.startswith("x-amz-meta-")} - known - new == set()


def test_a_class_that_is_preserved_is_asked_for_if_a_copy_can_have_it() -> None:
    preserving = Policy(storage_class=PRESERVE)

    assert class_headers(preserving, "GLACIER_IR") == {"x-amz-storage-class": "GLACIER_IR"}
    assert new_object_headers(preserving, "GLACIER_IR") == {"x-amz-storage-class": "GLACIER_IR"}
    for policy, name in ((preserving, "OUTPOSTS"), (preserving, ""), (Policy(), "GLACIER_IR")):
        assert class_headers(policy, name) == {}


@settings(max_examples=60, deadline=None)
@given(
    found=st.lists(items, min_size=1, max_size=6),
    classes=st.lists(st.sampled_from(["", *STORAGE_CLASSES]), min_size=6, max_size=6),
    policy=st.sampled_from([RICH, RICH._replace(storage_class=""), *(Policy(**said) for said, _, _ in TABLE)]),
    overwrite=st.booleans(),
)
def test_copies_by_any_policy_are_signed_as_botocore_signs_them(
    found: list[Item], classes: list[str], policy: Policy, *, overwrite: bool
) -> None:
    job = JOB._replace(source=PLACE, destination=PLACE, policy=policy, overwrite=overwrite)
    classed = [it._replace(storage_class=name) for it, name in zip(found, classes, strict=False)]

    for wire, it in zip(CopyRequests(job, ME).write(classed, amz_date(NOW)), classed, strict=True):
        request = parse_request(wire)
        expected = botocore_authorization(botocore.auth.S3SigV4Auth, request, ME, "s3", "eu-west-1")
        assert request.headers["authorization"] == expected
        said = copy_headers(policy) | class_headers(policy, it.storage_class)
        assert {name: request.headers[name].strip() for name in said} == {name: value.strip() for name, value in said.items()}
        assert ("x-amz-storage-class" in request.headers) == ("x-amz-storage-class" in said)


def test_by_the_default_policy_a_copy_says_what_it_always_said() -> None:
    request = parse_request(CopyRequests(JOB, ME).write([item("a")], amz_date(NOW))[0])

    assert set(request.headers) == {
        "host", "content-length", "authorization", "x-amz-content-sha256", "x-amz-copy-source", "x-amz-copy-source-if-match",
        "x-amz-date", "x-amz-security-token",
    }  # fmt: skip


def test_headers_of_one_item_are_signed_too() -> None:
    job = JOB._replace(source=PLACE, destination=PLACE, policy=RICH)
    more = {"x-amz-grant-read": 'id="a"'}
    request = parse_request(CopyRequests(job, ME).write_one(item("a"), more, amz_date(NOW)))

    assert request.headers["x-amz-grant-read"] == 'id="a"'
    expected = botocore_authorization(botocore.auth.S3SigV4Auth, request, ME, "s3", "eu-west-1")
    assert request.headers["authorization"] == expected


# -------------------------------------------------------------------------------------------------------- what is listed


def test_storage_classes_are_read_only_where_they_are_wanted() -> None:
    found = tuple(item(f"k{n}")._replace(storage_class=name) for n, name in enumerate(STORAGE_CLASSES))
    body = listing(found, truncated=False)

    assert read_page(body, with_classes=True).items == found
    assert read_page(body).items == tuple(it._replace(storage_class="") for it in found)


def test_a_store_that_tells_some_classes_only_means_standard_by_the_others() -> None:
    found = [item(f"k{n}")._replace(storage_class="GLACIER_IR") for n in range(3)]
    body = listing(found, truncated=False).replace(b"<StorageClass>GLACIER_IR</StorageClass>", b"", 1)

    assert [it.storage_class for it in read_page(body, with_classes=True).items] == ["STANDARD", "GLACIER_IR", "GLACIER_IR"]


def test_batches_with_storage_classes_fit_their_messages() -> None:
    job = JOB._replace(policy=Policy(storage_class=PRESERVE), message_bytes=20_000, batch_keys=5000)
    found = [item(f"k{n}")._replace(storage_class="INTELLIGENT_TIERING") for n in range(1000)]
    packer = Packer(job)

    batches = [*packer.add(found), *packer.rest()]

    assert [it for batch in batches for it in batch] == found
    assert max(len(encode_task(CopyTask("x" * 40, job, batch))) for batch in batches) <= job.message_bytes


# ------------------------------------------------------------------------------------------------------------------ ACLs


def acl(*grants: tuple[str, str]) -> bytes:
    """Write an ACL as S3 does: each grant an element of its grantee and a permission."""
    inner = "".join(f"<Grant><Grantee>{who}</Grantee><Permission>{what}</Permission></Grant>" for who, what in grants)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Owner><ID>o</ID></Owner><AccessControlList>{inner}</AccessControlList></AccessControlPolicy>"
    ).encode()


def test_an_acl_becomes_the_headers_that_grant_the_same() -> None:
    body = acl(
        ("<ID>one</ID><DisplayName>x</DisplayName>", "FULL_CONTROL"),
        ("<ID>two</ID>", "READ"),
        ("<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>", "READ"),
        ("<ID>two</ID>", "READ_ACP"),
        ("<ID>three</ID>", "WRITE_ACP"),
    )

    assert grant_headers(body) == {
        "x-amz-grant-full-control": 'id="one"',
        "x-amz-grant-read": 'id="two", uri="http://acs.amazonaws.com/groups/global/AllUsers"',
        "x-amz-grant-read-acp": 'id="two"',
        "x-amz-grant-write-acp": 'id="three"',
    }
    assert set(grant_headers(body)) <= members("CopyObject")


def test_an_acl_that_grants_nothing_becomes_the_closest_there_is() -> None:
    assert grant_headers(acl()) == {"x-amz-acl": "private"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>AccessDenied</Code></Error>",
        acl(("<ID>one</ID>", "READ"))[:-5],
        acl(("<ID>one</ID>", "WRITE")),
        acl(("<Group>one</Group>", "READ")),
    ],
)
def test_what_is_no_acl_is_never_taken_for_one_that_grants_less(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"ACL|grant"):
        grant_headers(body)


def test_the_table_names_every_property_once() -> None:
    said = {name for one, _, _ in TABLE for name in one}

    assert said == set(Policy._fields)
    assert all(one != other for one, other in pairwise(TABLE))
