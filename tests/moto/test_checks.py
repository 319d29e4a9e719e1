"""The checks before anything is made: whose the buckets are, what may be read and written, and what lets us in otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from s3bulkcopy.aws.policy import Keys
from s3bulkcopy.aws.preflight import PROBE_NAME, first_page, look, preflight, put_arguments, what_lets_in
from s3bulkcopy.aws.session import AwsSession, bucket_region, bucket_url, elsewhere_url, encryption_key
from s3bulkcopy.errors import BucketRefused, NotPermitted, S3BulkCopyError, UsageError
from s3bulkcopy.settings import AwsSettings, BucketPrefix, CopySettings, PropertySettings, StackSettings
from s3bulkcopy.worker.model import Location
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.s3 import Page, archived_class
from tests.moto.conftest import REGION, RUN_ID, Aws, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNT = "123456789012"
POINT = f"arn:aws:s3:{REGION}:111122223333:accesspoint/point"


def copying(
    source: str = "source", destination: str = "destination", *, probe_write: bool = False, **said: Any
) -> CopySettings:
    return CopySettings(
        BucketPrefix(source, "in/"),
        BucketPrefix(destination, "out/"),
        properties=PropertySettings(**said),
        probe_write=probe_write,
    )


def fill(**more: Any) -> None:
    boto3.client("s3", region_name="us-east-1").put_object(Bucket="source", Key="in/a", Body=b"a", **more)


def asked_for(aws: Aws, *operations: str) -> list[str]:
    return [call for call in aws.calls if call.removeprefix("s3.") in operations]


def owned_by(owners: dict[str, str]) -> Callable[[str, dict[str, Any]], None]:
    """Give a `before` that refuses what expects another owner than a bucket has."""

    def before(name: str, arguments: dict[str, Any]) -> None:
        expected = arguments.get("ExpectedBucketOwner")
        if name.startswith("s3.") and expected not in (None, owners[arguments["Bucket"]]):
            raise refusal("403", "Forbidden", "HeadBucket")

    return before


# ------------------------------------------------------------------------------------------------------------------ owners


def test_by_default_the_checks_are_one_look_at_each_bucket_and_one_list(aws: Aws) -> None:
    fill()

    found = look(aws, copying(), RUN_ID)

    assert aws.calls == ["sts.get_caller_identity", "s3.head_bucket", "s3.head_bucket", "s3.list_objects_v2"]
    assert (found.job.policy, found.warnings) == (Policy(destination_owner=ACCOUNT), ())


@pytest.mark.parametrize(
    ("content", "others", "is_marker"), [(b"", ["dir/a"], True), (b"", [], True), (b"x", ["dir/a"], False)]
)
def test_a_marker_of_the_source_itself_is_warned_of(aws: Aws, content: bytes, others: list[str], *, is_marker: bool) -> None:
    fill()
    client = aws.client("s3", REGION)
    for key in ("dir/", *others):
        client.put_object(Bucket="source", Key=key, Body=content)
    job = CopySettings(BucketPrefix("source", "dir/"), BucketPrefix("destination"))

    assert ["marks a folder" in warning for warning in look(aws, job, RUN_ID).warnings] == [True] * is_marker
    assert not look(aws, job._replace(destination=BucketPrefix("destination", "dir/")), RUN_ID).warnings


def test_one_object_whose_copy_has_no_key_is_refused(aws: Aws) -> None:
    fill()
    aws.client("s3", REGION).put_object(Bucket="source", Key="dir/one", Body=b"1")

    with pytest.raises(UsageError, match="is one object") as error:
        look(aws, CopySettings(BucketPrefix("source", "dir/one"), BucketPrefix("destination")), RUN_ID)
    assert "s3://destination/dir/one" in error.value.hint


def test_the_lambda_engine_looks_at_both_keys_and_the_quota_besides(aws: Aws) -> None:
    fill()
    aws.before = lambda name, _: (
        None if name != "lambda.get_account_settings" else (_ for _ in ()).throw(refusal("AccessDeniedException"))
    )

    preflight(aws, AwsSettings(), copying(), RUN_ID, StackSettings())

    assert sorted(aws.calls) == sorted(
        ["sts.get_caller_identity", "s3.head_bucket", "s3.head_bucket", "s3.list_objects_v2", "lambda.get_account_settings",
         "s3.get_bucket_encryption", "s3.get_bucket_encryption"]
    )  # fmt: skip


def test_a_destination_that_is_someone_elses_is_not_pinned_and_that_is_said(aws: Aws) -> None:
    fill()
    aws.before = owned_by({"source": ACCOUNT, "destination": "111122223333"})

    found = look(aws, copying(), RUN_ID)

    assert found.job.policy.destination_owner == ""
    (warning,) = found.warnings
    assert "--expected-destination-owner" in warning


def test_owners_that_are_named_are_the_only_ones(aws: Aws) -> None:
    fill()
    aws.before = owned_by({"source": "444455556666", "destination": "111122223333"})

    found = look(aws, copying(source_owner="444455556666", destination_owner="111122223333"), RUN_ID)
    policy = found.job.policy
    assert (policy.source_owner, policy.destination_owner) == ("444455556666", "111122223333")

    with pytest.raises(BucketRefused, match="or does not belong to account 999999999999"):
        look(aws, copying(destination_owner="999999999999"), RUN_ID)


def test_another_store_has_no_owners(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - its environment
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    session = AwsSession(AwsSettings(region=REGION))
    monkeypatch.setattr("s3bulkcopy.aws.preflight.bucket_region", lambda _s, _b, owner: owner or REGION)
    monkeypatch.setattr("s3bulkcopy.aws.preflight.first_page", lambda *_, **__: Page((), truncated=False))
    monkeypatch.setattr("s3bulkcopy.aws.preflight.why_uncut", lambda *_: "")

    found = look(session, CopySettings(BucketPrefix("a"), BucketPrefix("b"), dry=True), RUN_ID)

    assert found.job.policy == Policy()
    assert found.job.source.region == REGION


# -------------------------------------------------------------------------------------------------------------- refusals


def statements(hint: str) -> list[dict[str, Any]]:
    """Read the statements that a hint says to paste."""
    found: list[dict[str, Any]] = json.loads(f"[{hint[hint.index('{') : hint.rindex('}') + 1]}]")
    return found


@pytest.mark.parametrize("bucket", ["source", "destination"])
def test_a_bucket_that_refuses_us_comes_with_the_statement_that_lets_us_in(aws: Aws, bucket: str) -> None:
    fill()

    def refuse(name: str, arguments: dict[str, Any]) -> None:
        if name == "s3.head_bucket" and arguments["Bucket"] == bucket:
            raise refusal("403", "Forbidden", "HeadBucket")

    aws.before = refuse
    with pytest.raises(BucketRefused, match=f"bucket '{bucket}' refuses these credentials") as error:
        preflight(aws, AwsSettings(), copying(), RUN_ID, StackSettings())

    listing, objects = statements(error.value.hint)
    assert ("s3:ListBucket" in listing["Action"], listing["Resource"]) == (True, f"arn:aws:s3:::{bucket}")
    assert ("s3:GetObject" if bucket == "source" else "s3:PutObject") in objects["Action"]
    assert objects["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert f"arn:aws:iam::{ACCOUNT}:role/s3bulkcopy/*" in objects["Condition"]["ArnLike"]["aws:PrincipalArn"]


def test_a_source_that_may_not_be_listed_comes_with_the_statement_too(aws: Aws) -> None:
    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "s3.list_objects_v2":
            raise refusal("AccessDenied", "Access Denied", "ListObjectsV2")

    aws.before = refuse
    with pytest.raises(NotPermitted, match="s3:ListBucket is denied") as error:
        look(aws, copying(), RUN_ID)
    assert [one["Resource"] for one in statements(error.value.hint[error.value.hint.index("{") :])] == [
        "arn:aws:s3:::source",
        "arn:aws:s3:::source/in/*",
    ]


@pytest.mark.parametrize(
    ("cause", "actions"),
    [
        ("Access Denied", {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}),
        ("not authorized to perform: kms:Decrypt on resource …", {"kms:Decrypt", "kms:GenerateDataKey"}),
    ],
)
def test_what_workers_are_denied_comes_with_the_statements_too(aws: Aws, cause: str, actions: set[str]) -> None:
    fill()
    found = look(aws, copying(), RUN_ID)

    said = what_lets_in(found, None, cause)
    assert {action for action in actions if f'"{action}"' in said} == actions
    assert "s3bulkcopy/*" not in said  # no role works here
    assert what_lets_in(replace(found, who=None), None, cause) == ""


# ------------------------------------------------------------------------------------------------------------------- tags


def denying_tags(name: str, arguments: dict[str, Any]) -> None:
    owned_by({"source": "111122223333", "destination": ACCOUNT})(name, arguments)
    if name == "s3.get_object_tagging":
        raise refusal("AccessDenied", "Access Denied", "GetObjectTagging")


def test_tags_are_looked_at_only_in_a_source_that_is_someone_elses_and_only_if_they_are_copied(aws: Aws) -> None:
    fill(Tagging="a=b")
    for owner, tags, expected in ((ACCOUNT, "copy", 0), ("111122223333", "copy", 1), ("111122223333", "drop", 0)):
        aws.calls.clear()
        aws.before = owned_by({"source": owner, "destination": ACCOUNT})
        look(aws, copying(tags=tags), RUN_ID)
        assert len(asked_for(aws, "get_object_tagging")) == expected


def test_tags_that_workers_on_this_machine_may_not_read_stop_the_run_and_name_two_ways_out(aws: Aws) -> None:
    fill()
    aws.before = denying_tags

    with pytest.raises(NotPermitted, match="s3:GetObjectTagging is denied") as error:
        look(aws, copying(), RUN_ID)
    assert "--tags drop" in error.value.hint
    assert "s3:GetObjectTagging" in statements(error.value.hint)[1]["Action"]


def test_tags_that_we_may_not_read_and_a_role_perhaps_may_are_a_warning(aws: Aws) -> None:
    fill()
    aws.before = denying_tags

    found = look(aws, copying(), RUN_ID, is_local=False)

    (warning,) = found.warnings
    assert "if the run's role is denied it, too" in warning
    assert statements(warning)


# ------------------------------------------------------------------------------------------------------------ --probe-write


def test_without_being_asked_nothing_is_written(aws: Aws) -> None:
    fill()

    look(aws, copying(), RUN_ID)

    assert asked_for(aws, "put_object", "delete_object") == []


def test_a_write_test_writes_as_the_copies_will_be_and_leaves_nothing(aws: Aws) -> None:
    fill()
    s3 = boto3.client("s3", region_name=REGION)
    s3.put_bucket_versioning(Bucket="destination", VersioningConfiguration={"Status": "Enabled"})
    seen: list[dict[str, Any]] = []

    def note(name: str, arguments: dict[str, Any]) -> None:
        if name == "s3.put_object":
            seen.append({key: value for key, value in arguments.items() if key != "Body"})

    aws.before = note
    look(aws, copying(probe_write=True, storage_class="STANDARD_IA", tags="replace", tag_set=(("a", "b"),)), RUN_ID)

    expected = {"Bucket": "destination", "Key": f"out/{PROBE_NAME}{RUN_ID}", "StorageClass": "STANDARD_IA", "Tagging": "a=b"}
    assert seen == [expected | {"ExpectedBucketOwner": ACCOUNT}]
    answer = s3.list_object_versions(Bucket="destination")
    assert ("Versions" in answer, "DeleteMarkers" in answer) == (False, False)


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("Access Denied", "s3:PutObject"),
        ("User x is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:…", "kms:GenerateDataKey"),
    ],
)
def test_a_write_test_that_is_denied_comes_with_the_statement_that_allows_it(aws: Aws, said: str, action: str) -> None:
    fill()

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "s3.put_object":
            raise refusal("AccessDenied", said, "PutObject")

    aws.before = refuse
    with pytest.raises(NotPermitted, match=f"writing to s3://destination/out/: {action} is denied") as error:
        look(aws, copying(probe_write=True), RUN_ID)
    assert any(action in one["Action"] for one in statements(error.value.hint))


def test_a_probe_that_cannot_be_deleted_is_named(aws: Aws) -> None:
    fill()

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "s3.delete_object":
            raise refusal("AccessDenied", "Access Denied", "DeleteObject")

    aws.before = refuse
    with pytest.raises(S3BulkCopyError, match=f"{PROBE_NAME}{RUN_ID}") as error:
        look(aws, copying(probe_write=True), RUN_ID)
    assert "still there" in error.value.hint


def test_what_a_write_test_says_is_known_to_boto3() -> None:
    rich = Policy(
        storage_class="GLACIER_IR", sse="aws:kms", kms_key_id="alias/a", bucket_key=False, acl="private", tags="replace",
        tag_set=(("a", "b"),), destination_owner=ACCOUNT,
    )  # fmt: skip
    known = boto3.client("s3", region_name=REGION).meta.service_model.operation_model("PutObject").input_shape.members

    assert len(put_arguments(rich)) == 7
    assert set(put_arguments(rich)) <= set(known)


# ------------------------------------------------------------------------------------------------ keys, payers, access points


def test_the_keys_are_those_of_the_buckets_and_of_the_options(aws: Aws) -> None:
    fill()
    key = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11"
    by_kms = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}
    boto3.client("s3", region_name="us-east-1").put_bucket_encryption(
        Bucket="source", ServerSideEncryptionConfiguration={"Rules": [by_kms]}
    )

    def keys(stack: StackSettings, **said: Any) -> Keys:
        return preflight(aws, AwsSettings(), copying(**said), RUN_ID, stack).keys

    other = key.replace("0b6", "1b6")
    assert keys(StackSettings()) == Keys((key,), ())
    assert keys(StackSettings(source_kms_keys=(other,)), kms_key_id="alias/a") == Keys((key, other), ("alias/a",))
    assert keys(StackSettings(role_arn="arn:aws:iam::123456789012:role/mine")) == Keys()


def test_a_bucket_whose_encryption_we_may_not_know_has_no_key_that_we_know_of(aws: Aws) -> None:
    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "s3.get_bucket_encryption":
            raise refusal("AccessDenied", "Access Denied", "GetBucketEncryption")

    aws.before = refuse
    assert encryption_key(aws, "source", "us-east-1") == ""


def test_a_key_of_another_region_is_bad_usage(aws: Aws) -> None:
    with pytest.raises(UsageError, match="names a key in us-east-1, and s3://destination/out/ is in eu-west-1"):
        look(aws, copying(kms_key_id=f"arn:aws:kms:us-east-1:{ACCOUNT}:key/k"), RUN_ID)


def test_whoever_pays_says_so_with_every_request_once(aws: Aws) -> None:
    fill()
    sent: list[list[tuple[str, str]]] = []
    look(aws, copying(request_payer=True), RUN_ID)
    client = AwsSession.client(aws, "s3", "us-east-1")
    client.meta.events.register_first("before-send.s3", lambda request, **_: sent.append(list(request.headers.items())))

    client.head_bucket(Bucket="source")
    client.list_objects_v2(Bucket="source", RequestPayer="requester")

    assert [[name.lower() for name, _ in headers].count("x-amz-request-payer") for headers in sent] == [1, 1]
    assert all("x-amz-request-payer" in str(dict(headers)["Authorization"]) for headers in sent)


def test_an_access_point_is_in_the_region_that_its_arn_names_and_is_looked_at_there(aws: Aws) -> None:  # noqa: ARG001
    session = AwsSession(AwsSettings(region="us-east-1"))
    with Stubber(session.client("s3", REGION)) as stub:
        stub.add_response("head_bucket", {"AccessPointAlias": True, "BucketRegion": REGION}, {"Bucket": POINT})

        assert bucket_region(session, POINT) == REGION
    assert bucket_url(session, POINT, REGION) == f"https://point-111122223333.s3-accesspoint.{REGION}.amazonaws.com"


def test_an_access_point_is_refused_by_its_arn_where_a_store_of_ones_own_is_asked(aws: Aws) -> None:  # noqa: ARG001
    session = AwsSession(AwsSettings(region=REGION, endpoint_url="http://127.0.0.1:1"))

    with pytest.raises(UsageError, match="the store at another endpoint has none"):
        look(session, copying(POINT), RUN_ID)


def test_through_an_access_point_nothing_is_copied_to_another_region(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3bulkcopy.aws.preflight.bucket_region", lambda _s, b, _o: REGION if b == POINT else "us-east-1")

    with pytest.raises(UsageError, match="within its region only"):
        look(aws, copying("source", POINT), RUN_ID)


@pytest.mark.parametrize(
    ("variables", "region", "bucket", "url"),
    [
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "us-gov-west-1", "bucket", "https://bucket.s3-fips.us-gov-west-1.amazonaws.com"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "eu-west-1", "bucket", "https://bucket.s3.dualstack.eu-west-1.amazonaws.com"),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "us-west-2",
            "bucket",
            "https://bucket.s3-fips.dualstack.us-west-2.amazonaws.com",
        ),
        ({}, "cn-north-1", "bucket", "https://bucket.s3.cn-north-1.amazonaws.com.cn"),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true"},
            "us-gov-west-1",
            "arn:aws-us-gov:s3:us-gov-west-1:111122223333:accesspoint/p",
            "https://p-111122223333.s3-accesspoint-fips.us-gov-west-1.amazonaws.com",
        ),
        (
            {},
            "cn-north-1",
            "arn:aws-cn:s3:cn-north-1:111122223333:accesspoint/p",
            "https://p-111122223333.s3-accesspoint.cn-north-1.amazonaws.com.cn",
        ),
        ({}, "eu-west-1", "p-hrzr-s3alias", "https://p-hrzr-s3alias.s3.eu-west-1.amazonaws.com"),
        ({}, "us-iso-east-1", "bucket", "https://bucket.s3.us-iso-east-1.c2s.ic.gov"),
        ({}, "eusc-de-east-1", "bucket", "https://bucket.s3.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_hosts_are_what_botocores_rules_make_them(
    aws: Aws,  # noqa: ARG001 - its environment
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    region: str,
    bucket: str,
    url: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    session = AwsSession(AwsSettings())
    assert bucket_url(session, bucket, region) == url
    elsewhere = "" if bucket.startswith("arn:") else url.replace(region, "{region}")
    assert elsewhere_url(session, bucket, region) == elsewhere
    assert bucket_url(session, bucket, region) == url  # as before


@pytest.mark.parametrize(
    ("style", "partitions"),
    [
        ({}, botocore.session.get_session().get_available_partitions()),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, ["aws", "aws-us-gov"]),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, ["aws", "aws-cn", "aws-us-gov"]),
    ],
)
def test_the_host_in_another_region_is_the_one_that_botocore_gives_there(
    aws: Aws,  # noqa: ARG001 - its environment
    monkeypatch: pytest.MonkeyPatch,
    style: dict[str, str],
    partitions: list[str],
) -> None:
    for name, value in style.items():
        monkeypatch.setenv(name, value)
    session = AwsSession(AwsSettings())
    known = botocore.session.get_session()
    for partition in partitions:
        first, *_, last = [*known.get_available_regions("s3", partition)] * 2
        for bucket in ("bucket", "with.dots"):
            elsewhere = elsewhere_url(session, bucket, first)
            assert elsewhere.replace("{region}", last) == bucket_url(session, bucket, last), partition


def test_a_store_of_ones_own_is_the_same_for_every_region(aws: Aws) -> None:  # noqa: ARG001
    for endpoint in ("http://127.0.0.1:9000", "https://vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com"):
        assert elsewhere_url(AwsSession(AwsSettings(endpoint_url=endpoint)), "bucket", "eu-west-1") == ""
    assert elsewhere_url(AwsSession(AwsSettings(endpoint_url="http://127.0.0.1:9000")), "bucket", "local") == ""


def test_the_first_page_tells_archived_objects_from_restored_ones(aws: Aws) -> None:  # noqa: ARG001 - its environment
    session, written = AwsSession(AwsSettings()), datetime(2026, 1, 1, tzinfo=UTC)
    status: list[dict[str, Any]] = [
        {},
        {"RestoreStatus": {"IsRestoreInProgress": True}},
        {"RestoreStatus": {"IsRestoreInProgress": False, "RestoreExpiryDate": written}},
    ]
    contents = [{"Key": f"{n}", "Size": 1, "StorageClass": "GLACIER", **more} for n, more in enumerate(status)]
    asked = {"Bucket": "b", "Prefix": "", "MaxKeys": 1000, "OptionalObjectAttributes": ["RestoreStatus"]}
    with Stubber(session.client("s3", REGION)) as stub:
        stub.add_response("list_objects_v2", {"IsTruncated": False, "Contents": contents}, asked)
        page = first_page(session, Location("b", "", REGION, ""), asked=(False, True))

    assert [archived_class(trait) for trait in page.traits] == ["GLACIER", "GLACIER", ""]


def test_storage_classes_come_with_the_first_page_only_where_they_are_preserved(aws: Aws) -> None:
    fill(StorageClass="GLACIER_IR")

    plain, preserving = look(aws, copying(), RUN_ID), look(aws, copying(storage_class="preserve"), RUN_ID)

    assert [found.first_page.items[0].storage_class for found in (plain, preserving)] == ["", "GLACIER_IR"]


def test_an_unreachable_sts_costs_the_local_engine_the_pin_only(aws: Aws) -> None:
    fill()

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name.startswith("sts."):
            raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPHeaders": {}}}, "GetCallerIdentity")

    aws.before = refuse
    found = look(aws, copying(), RUN_ID)

    assert (found.job.policy.destination_owner, found.warnings) == ("", ())
