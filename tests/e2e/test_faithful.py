"""What becomes of properties, as far as the emulator shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3bulkcopy.failures import Header, write
from s3bulkcopy.worker.model import Failure, Job
from s3bulkcopy.worker.properties import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cloud

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
    for key, storage_class in (("a", "STANDARD"), ("b", "GLACIER_IR")):
        s3.put_object(
            Bucket=source, Key=key, Body=b"x", Metadata={"old": "1"}, ContentType="text/plain", CacheControl="no-cache",
            StorageClass=storage_class, Tagging="team=old",
        )  # fmt: skip
    for bucket in buckets:
        ownership = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
        s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=ownership)
    friend = "0f" * 32
    s3.put_object_acl(Bucket=source, Key="a", GrantFullControl=f"id={'5e' * 32}", GrantRead=f"id={friend}")
    s3.put_object_annotation(Bucket=source, Key="a", AnnotationName="note", AnnotationPayload=b"of a")
    local = ("--engine", "local", "--processes", "1", "--output", "json")

    kept = cloud.run("run", source, f"s3://{destination}/kept/", *local, "--storage-class", "preserve", "--acl", "preserve")
    replaced = cloud.run(
        "run", source, f"s3://{destination}/new/", *local, "--storage-class", "STANDARD_IA", "--tags", "replace",
        "--object-tag", "team=new one", "--metadata", "replace", "--metadata-entry", "note=two  blanks",
        "--content-type", "text/html", "--content-language", "en", "--sse-kms-key-id", KEY, "--bucket-key", "--probe-write",
    )  # fmt: skip
    dropped = cloud.run("run", source, f"s3://{destination}/bare/", *local, "--tags", "drop", "--annotations", "drop")

    place = cloud.store.location(source)
    job = Job(
        "r", place, place._replace(bucket=destination, prefix="again/"), policy=Policy(storage_class="preserve", tags="drop")
    )
    write(tmp_path / "f", Header("20260101-000000-aaaaaa", "local", job), [Failure("b", 1, "SlowDown", "x")])
    retried = cloud.run("retry", "--failures", str(tmp_path / "f"), *local)

    for ended, number in ((kept, 2), (replaced, 2), (dropped, 2), (retried, 1)):
        assert (ended.code, ended.summary["copied"]) == (0, number), ended.err
    old = {"Metadata": {"old": "1"}, "ContentType": "text/plain", "CacheControl": "no-cache"}
    assert seen(cloud, destination, "kept/a") == seen(cloud, source, "a")
    assert seen(cloud, destination, "kept/b") == seen(cloud, source, "b")
    assert seen(cloud, destination, "kept/b")["StorageClass"] == "GLACIER_IR"
    names = [notes(cloud, destination, f"{place}/a") for place in ("kept", "new", "bare")]
    assert names == [["note"], ["note"], []]
    assert (friend, "READ") in grants(cloud, destination, "kept/a")
    for key in ("a", "b"):
        assert grants(cloud, destination, f"kept/{key}") == grants(cloud, source, key)
        assert grants(cloud, destination, f"bare/{key}") == grants(cloud, source, "b")
    assert seen(cloud, destination, "new/a") == seen(cloud, destination, "new/b") == {
        "Metadata": {"note": "two  blanks"}, "ContentType": "text/html", "ContentLanguage": "en", "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY, "tags": {"team": "new one"},
    }  # fmt: skip
    assert old.items() <= seen(cloud, destination, "bare/a").items()
    assert seen(cloud, destination, "bare/a")["tags"] == {}
    again = seen(cloud, destination, "again/b")
    assert (again["StorageClass"], again["tags"], again["Metadata"]) == ("GLACIER_IR", {}, {"old": "1"})
    assert not [key for key in cloud.store.items(destination) if "probe" in key]
