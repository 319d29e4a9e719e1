"""What becomes of properties, and access points in the place of buckets, as far as the emulator shows it."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from s3bulkcopy.emulator import REGION
from s3bulkcopy.failures import Header, write
from s3bulkcopy.worker.model import Failure, Job
from s3bulkcopy.worker.properties import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cloud, Ended

KEY = "arn:aws:kms:us-east-1:000000000000:key/0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11"


def seen(cloud: Cloud, bucket: str, key: str) -> dict[str, Any]:
    """Give the properties of an object."""
    s3 = cloud.client("s3")
    head = s3.head_object(Bucket=bucket, Key=key)
    names = (
        "Metadata",
        "ContentType",
        "CacheControl",
        "ContentLanguage",
        "StorageClass",
        "ServerSideEncryption",
        "SSEKMSKeyId",
    )
    tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {name: head[name] for name in names if name in head} | {"tags": {tag["Key"]: tag["Value"] for tag in tags}}


def grants(cloud: Cloud, bucket: str, key: str) -> list[tuple[str, str]]:
    """Give who may do what with an object."""
    found = cloud.client("s3").get_object_acl(Bucket=bucket, Key=key)["Grants"]
    return [(grant["Grantee"]["ID"], grant["Permission"]) for grant in found]


def notes(cloud: Cloud, bucket: str, key: str) -> list[str]:
    """Name the annotations of an object."""
    found = cloud.client("s3").list_object_annotations(Bucket=bucket, Key=key).get("Annotations", ())
    return [annotation["AnnotationName"] for annotation in found]


def test_copies_have_the_properties_that_were_asked_for(cloud: Cloud, buckets: tuple[str, str], tmp_path: Path) -> None:
    source, destination = buckets
    s3 = cloud.client("s3")
    for key, storage_class, size in (("a", "STANDARD", 1), ("b", "GLACIER_IR", 1), ("large", "GLACIER_IR", 100_000)):
        s3.put_object(
            Bucket=source, Key=key, Body=b"x" * size, Metadata={"old": "1"}, ContentType="text/plain", CacheControl="no-cache",
            StorageClass=storage_class, Tagging="team=old",
        )  # fmt: skip
    for bucket in buckets:
        ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
        s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=ownership)
    friend = "0f" * 32
    s3.put_object_acl(Bucket=source, Key="a", GrantFullControl=f"id={'5e' * 32}", GrantRead=f"id={friend}")
    s3.put_object_annotation(Bucket=source, Key="a", AnnotationName="note", AnnotationPayload=b"of a")
    local = ("--engine", "local", "--processes", "1", "--output", "json")

    def copy(prefix: str, *options: str) -> Ended:
        parts = ("--multipart-threshold", "50000", "--part-size", "30000")
        return cloud.run("run", source, f"s3://{destination}/{prefix}/", *local, *parts, *options, S3BULKCOPY_TINY_PARTS="1")

    kept = copy("kept", "--storage-class", "preserve", "--acl", "preserve")
    replaced = copy(
        "new", "--storage-class", "STANDARD_IA", "--tags", "replace",
        "--object-tag", "team=new one", "--metadata", "replace", "--metadata-entry", "note=two  blanks",
        "--content-type", "text/html", "--content-language", "en", "--sse-kms-key-id", KEY, "--bucket-key", "--probe-write",
    )  # fmt: skip
    dropped = copy("bare", "--tags", "drop", "--annotations", "drop")

    place = cloud.store.location(source)
    job = Job(
        "r", place, place._replace(bucket=destination, prefix="again/"), policy=Policy(storage_class="preserve", tags="drop")
    )
    write(tmp_path / "f", Header("20260101-000000-aaaaaa", "local", job), [Failure("b", 1, "SlowDown", "x")])
    retried = cloud.run("retry", "--failures", str(tmp_path / "f"), *local)

    for ended, number in ((kept, 3), (replaced, 3), (dropped, 3), (retried, 1)):
        assert (ended.code, ended.summary["copied"]) == (0, number), ended.err
    old = {"Metadata": {"old": "1"}, "ContentType": "text/plain", "CacheControl": "no-cache"}
    for key in ("a", "b", "large"):
        assert seen(cloud, destination, f"kept/{key}") == seen(cloud, source, key)
        assert old.items() <= seen(cloud, destination, f"bare/{key}").items()
        assert seen(cloud, destination, f"bare/{key}")["tags"] == {}
    assert seen(cloud, destination, "kept/b")["StorageClass"] == "GLACIER_IR"
    names = [notes(cloud, destination, f"{place}/a") for place in ("kept", "new", "bare")]
    assert names == [["note"], ["note"], []]
    assert (friend, "READ") in grants(cloud, destination, "kept/a")
    for key in ("a", "b"):
        assert grants(cloud, destination, f"kept/{key}") == grants(cloud, source, key)
        assert grants(cloud, destination, f"bare/{key}") == grants(cloud, source, "b")
    new = [seen(cloud, destination, f"new/{key}") for key in ("a", "b", "large")]
    assert new[0] == new[1] == new[2] == {
        "Metadata": {"note": "two  blanks"}, "ContentType": "text/html", "ContentLanguage": "en", "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY, "tags": {"team": "new one"},
    }  # fmt: skip
    again = seen(cloud, destination, "again/b")
    assert (again["StorageClass"], again["tags"], again["Metadata"]) == ("GLACIER_IR", {}, {"old": "1"})
    assert not [key for key in cloud.store.items(destination) if "probe" in key]


def access_point(cloud: Cloud, bucket: str) -> str:
    """Make an access point of a bucket; gives its alias. boto3 asks for this at a host that only AWS has."""
    body = f'<CreateAccessPointRequest xmlns="http://awss3control.amazonaws.com/doc/2018-08-20/"><Bucket>{bucket}</Bucket>'
    url = f"{cloud.emulator.url}/v20180820/accesspoint/ap-{bucket}"
    headers = {"x-amz-account-id": "000000000000"}
    request = AWSRequest("PUT", url, data=f"{body}</CreateAccessPointRequest>", headers=headers)
    SigV4Auth(Credentials("test", "test"), "s3", REGION).add_auth(request)
    sent = urllib.request.Request(url, request.data.encode(), dict(request.headers), method="PUT")  # noqa: S310 - on this machine
    with urllib.request.urlopen(sent) as answered:  # noqa: S310
        found = re.search("<Alias>(.*?)</Alias>", answered.read().decode())
    assert found is not None
    return found[1]


BOTH = pytest.mark.parametrize(
    "engine", [("--engine", "local", "--processes", "1"), ("--function-timeout", "20")], ids=["local", "lambda"]
)


@BOTH
def test_buckets_are_found_in_their_regions_and_workers_are_in_the_destinations(
    cloud: Cloud, buckets: tuple[str, str], engine: tuple[str, ...]
) -> None:
    here, there = (f"{buckets[0]}-{region}" for region in ("eu-west-1", "ap-southeast-2"))
    for bucket, region in ((here, "eu-west-1"), (there, "ap-southeast-2")):
        where = {"LocationConstraint": region}
        client = boto3.client(
            "s3", endpoint_url=cloud.emulator.url, region_name=region, aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
    s3 = cloud.client("s3")
    for key in ("a", "b", "c"):
        s3.put_object(Bucket=here, Key=key, Body=b"x" * 40_000)
    s3.put_object(Bucket=here, Key="large", Body=b"x" * 100_000)
    parts = ("--multipart-threshold", "50000", "--part-size", "30000", "--output", "json")

    ended = cloud.run("run", here, there, *engine, *parts, S3BULKCOPY_TINY_PARTS="1")

    assert (ended.code, ended.summary["copied"]) == (0, 4), ended.err
    plan = next(line for line in map(json.loads, ended.out.splitlines()) if line["event"] == "plan")
    assert "eu-west-1 to ap-southeast-2" in str(plan)
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=there)["Contents"]] == ["a", "b", "c", "large"]
    assert ("resources in ap-southeast-2" in ended.out) == ("--engine" not in engine)


@BOTH
def test_access_points_are_copied_from_and_to_by_their_aliases(
    cloud: Cloud, buckets: tuple[str, str], engine: tuple[str, ...]
) -> None:
    source, destination = buckets
    s3 = cloud.client("s3")
    for key in ("in/a", "in/b"):
        s3.put_object(Bucket=source, Key=key, Body=b"x", Tagging="team=one")
    s3.put_object(Bucket=source, Key="in/large", Body=b"x" * 100_000)
    here, there = access_point(cloud, source), access_point(cloud, destination)

    parts = ("--multipart-threshold", "50000", "--part-size", "30000")
    ended = cloud.run(
        "run", f"s3://{here}/in/", f"s3://{there}/out/", *engine, *parts, "--output", "json", S3BULKCOPY_TINY_PARTS="1"
    )

    assert (ended.code, ended.summary["copied"]) == (0, 3), ended.err
    assert [*cloud.store.items(destination)] == ["out/a", "out/b", "out/large"]
    assert s3.head_object(Bucket=destination, Key="out/large")["ETag"].endswith('-4"')
    assert cloud.leftovers() == []
