"""Our signatures are those that botocore makes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.model import Item, Job, Location
from s3bulkcopy.worker.s3 import Bucket, CopyRequests, page_request
from s3bulkcopy.worker.sigv4 import Credentials, amz_date
from s3bulkcopy.worker.sqs import Sqs
from tests.unit.worker.worker_fakes import etags, keys, parse_request, prefixes

if TYPE_CHECKING:
    from tests.unit.worker.worker_fakes import Request

NOW = 1_700_000_000.0

credentials = st.builds(
    Credentials,
    st.just("AKIDEXAMPLE"),
    st.text("abcXYZ019/+=", min_size=1, max_size=40),
    st.one_of(st.none(), st.text("abcXYZ019/+=", min_size=1, max_size=80)),
)
urls = st.sampled_from(
    [
        "https://bucket.s3.eu-west-1.amazonaws.com",
        "https://s3.eu-west-1.amazonaws.com/dotted.bucket",
        "http://127.0.0.1:9000/bucket",
        "http://localhost/bucket",
    ]
)
locations = st.builds(Location, st.just("bucket"), prefixes, st.sampled_from(["eu-west-1", "us-east-1"]), urls)
several = settings(max_examples=100, deadline=None)


def botocore_authorization(auth: type[Any], request: Request, mine: Credentials, service: str, region: str) -> str:
    """Sign a request again, with botocore, at the time that it names."""
    given_headers = dict(request.headers)
    given_headers.pop("authorization")
    given_headers.pop("content-length", None)  # botocore adds it after signing
    date = datetime.strptime(given_headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    again = AWSRequest(
        method=request.method,
        url=f"http://{given_headers['host']}{request.target}",
        data=request.body,
        headers=given_headers,
    )
    signer = auth(BotoCredentials(mine.access_key, mine.secret_key, mine.token), service, region)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *_: date)
        signer.add_auth(again)
    assert {name.lower(): value for name, value in again.headers.items() if name.lower() != "authorization"} == (given_headers)
    return str(again.headers["Authorization"])


@several
@given(locations, credentials, prefixes, st.one_of(st.just(""), keys), st.integers(1, 1000))
def test_a_list_request_is_signed_as_botocore_signs_it(
    location: Location, mine: Credentials, prefix: str, after: str, max_keys: int
) -> None:
    request = parse_request(page_request(Bucket(location, mine), prefix, after, max_keys, amz_date(NOW)))

    expected = botocore_authorization(botocore.auth.S3SigV4Auth, request, mine, "s3", location.region)
    assert request.headers["authorization"] == expected


@several
@given(locations, credentials, prefixes, st.one_of(st.just(""), keys), st.integers(1, 1000))
def test_a_list_request_says_what_it_was_asked(
    location: Location, mine: Credentials, prefix: str, after: str, max_keys: int
) -> None:
    request = parse_request(page_request(Bucket(location, mine), prefix, after, max_keys, amz_date(NOW)))

    expected = {"list-type": "2", "encoding-type": "url", "max-keys": str(max_keys), "prefix": prefix}
    assert request.query == expected | ({"start-after": after} if after else {})


@several
@given(source=locations, destination=locations, mine=credentials, key=keys, etag=etags, overwrite=st.booleans())
def test_a_copy_request_is_signed_as_botocore_signs_it(
    source: Location, destination: Location, mine: Credentials, key: str, etag: str, *, overwrite: bool
) -> None:
    job = Job("run", source, destination, overwrite=overwrite)
    request = parse_request(CopyRequests(job, mine).write([Item(source.prefix + key, 1, etag)], amz_date(NOW))[0])

    expected = botocore_authorization(botocore.auth.S3SigV4Auth, request, mine, "s3", destination.region)
    assert request.headers["authorization"] == expected


@several
@given(source=locations, destination=locations, key=keys, etag=etags, overwrite=st.booleans())
def test_a_copy_request_names_the_source_the_destination_and_its_conditions(
    source: Location, destination: Location, key: str, etag: str, *, overwrite: bool
) -> None:
    mine = Credentials("AKIDEXAMPLE", "secret")
    job = Job("run", source, destination, overwrite=overwrite)
    request = parse_request(CopyRequests(job, mine).write([Item(source.prefix + key, 1, etag)], amz_date(NOW))[0])

    bucket = "/" if "bucket.s3" in destination.url else f"/{destination.url.rpartition('/')[2]}/"
    assert request.path == bucket + job.destination_key(source.prefix + key)
    headers = dict(request.headers)
    assert CopySource(headers.pop("x-amz-copy-source")) == f"/bucket/{source.prefix}{key}"
    del headers["authorization"], headers["host"], headers["x-amz-content-sha256"]
    expected = {"x-amz-date": amz_date(NOW), "content-length": "0"}
    pin = {"x-amz-copy-source-if-match": f'"{etag}"'} if etag else {}
    assert headers == expected | pin | ({} if overwrite else {"if-none-match": "*"})


def CopySource(value: str) -> str:  # noqa: N802 - reads as what S3 makes of the header
    """Decode x-amz-copy-source as S3 does: as a path, in which + is a plus."""
    return parse_request(f"GET {value} HTTP/1.1\r\n\r\n".encode()).path


def test_one_writer_signs_with_the_date_it_is_given_each_time() -> None:
    mine = Credentials("AKIDEXAMPLE", "secret", "token")
    location = Location("bucket", "", "eu-west-1", "https://bucket.s3.eu-west-1.amazonaws.com")
    writer = CopyRequests(Job("run", location, location), mine)

    for seconds in (0.0, 1.0, 86_399.0, 86_400.0, 0.0):
        request = parse_request(writer.write([Item("a", 1, "e")], amz_date(NOW + seconds))[0])
        expected = botocore_authorization(botocore.auth.S3SigV4Auth, request, mine, "s3", "eu-west-1")
        assert (request.headers["x-amz-date"], request.headers["authorization"]) == (amz_date(NOW + seconds), expected)


@several
@given(credentials, st.text(max_size=50), st.sampled_from(["eu-west-1", "cn-north-1"]))
def test_a_queue_request_is_signed_as_botocore_signs_it(mine: Credentials, text: str, region: str) -> None:
    sqs = Sqs(lambda: mine, region, now=lambda: NOW)
    wire = sqs._write("sqs.eu-west-1.amazonaws.com", "SendMessageBatch", {"QueueUrl": "u", "Entries": [text]})
    request = parse_request(wire)

    expected = botocore_authorization(botocore.auth.SigV4Auth, request, mine, "sqs", region)
    assert request.headers["authorization"] == expected


def test_credentials_do_not_show_their_secrets() -> None:
    assert repr(Credentials("AKID", "secret", "token")) == "Credentials('AKID')"
