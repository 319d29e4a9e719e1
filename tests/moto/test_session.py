"""The session: who we are, where buckets are, and AWS's errors in our words."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    UnauthorizedSSOTokenError,
)
from botocore.stub import Stubber

from s3bulkcopy.aws.session import (
    _SERVICES,
    AwsSession,
    Identity,
    Lack,
    action_of,
    bucket_region,
    bucket_url,
    free_concurrency,
    identity,
    lack,
    translate,
)
from s3bulkcopy.errors import BucketUnavailable, NotPermitted, S3BulkCopyError, UsageError
from s3bulkcopy.settings import AwsSettings
from tests.moto.conftest import REGION, Aws, refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refuse(operation: str, error: Exception) -> Callable[[str, dict[str, Any]], None]:
    """Give a `before` that lets one operation fail."""

    def before(name: str, _: dict[str, Any]) -> None:
        if name == operation:
            raise error

    return before


# -------------------------------------------------------------------------------------------------------------- clients


def test_certificates_that_cannot_be_read_are_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")

    with pytest.raises(UsageError, match=r"cannot be read: /nonexistent/bundle\.pem"):
        AwsSession(AwsSettings())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, "http://proxy.test:3128"),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": ".store.test"}, None),
        ({"HTTP_PROXY": "http://proxy.test:3128"}, None),
    ],
)
def test_workers_go_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert AwsSession(AwsSettings()).proxy("https://a.store.test", "https://b.store.test") == expected


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": "a.store.test"}, "different proxies for https://a"),
        ({"HTTPS_PROXY": "https://proxy.test:3128", "NO_PROXY": ""}, "does not speak https to a proxy"),
    ],
)
def test_a_proxy_that_workers_cannot_use_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match=words):
        AwsSession(AwsSettings()).proxy("https://a.store.test", "https://b.store.test")


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    session, sent = AwsSession(AwsSettings(endpoint_url="https://store.test")), []

    def distrust(request: Any, **_: Any) -> None:
        sent.append(request.url)
        raise SSLError(endpoint_url=request.url, error="certificate verify failed")

    session.client("s3").meta.events.register("before-send", distrust)
    with pytest.raises(S3BulkCopyError, match=r"looking at bucket 'here': https://store\.test/here is not trusted"):
        bucket_region(session, "here")
    assert sent == ["https://store.test/here"]


def test_an_unknown_profile_is_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")

    with pytest.raises(UsageError, match="no profile 'nobody'"):
        AwsSession(AwsSettings(profile="nobody"))


def test_an_endpoint_that_is_no_url_is_bad_usage(aws: Aws) -> None:  # noqa: ARG001 - its environment
    with pytest.raises(UsageError, match="cannot speak to sqs"):
        AwsSession(AwsSettings(region=REGION, endpoint_url="nowhere")).client("sqs")


def test_threads_share_one_client_for_each_service_and_region(aws: Aws) -> None:  # noqa: ARG001
    session = AwsSession(AwsSettings(region=REGION))

    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: session.client("sqs", REGION), range(16)))

    assert len(clients) == 1
    assert session.client("sqs", "us-west-2") not in clients


def test_requests_say_that_they_are_ours(aws: Aws) -> None:  # noqa: ARG001
    assert "s3bulkcopy/" in AwsSession(AwsSettings(region=REGION)).client("sqs").meta.config.user_agent


# -------------------------------------------------------------------------------------------------------------- answers


def test_aws_tells_who_we_are(aws: Aws) -> None:
    found = identity(aws)

    assert (found.account, found.partition) == ("123456789012", "aws")


def test_an_account_in_another_partition_is_known_by_its_arn() -> None:
    assert Identity("123456789012", "arn:aws-us-gov:iam::123456789012:user/someone").partition == "aws-us-gov"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoCredentialsError(), "no AWS credentials"),
        (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "no AWS credentials"),
        (refusal("ExpiredToken"), "have expired"),
        (refusal("InvalidClientTokenId"), "the credentials are not accepted"),
        (UnauthorizedSSOTokenError(), "SSO"),
    ],
)
def test_without_usable_credentials_nothing_is_permitted(aws: Aws, error: Exception, words: str) -> None:
    aws.before = refuse("sts.get_caller_identity", error)

    with pytest.raises(NotPermitted, match=words) as raised:
        identity(aws)
    assert raised.value.hint


@pytest.mark.parametrize(
    "error",
    [refusal("NotImplemented"), refusal(""), KeyError("GetCallerIdentityResult")],
)
def test_what_is_no_aws_is_told_with_the_engine_that_needs_none(aws: Aws, error: Exception) -> None:
    aws.before = refuse("sts.get_caller_identity", error)

    with pytest.raises(UsageError, match="is not AWS") as caught:
        identity(aws)
    assert "--engine local" in str(caught.value.hint)


def test_a_bucket_is_found_wherever_it_is(aws: Aws) -> None:
    assert [bucket_region(aws, name) for name in ("source", "destination")] == ["us-east-1", REGION]


def test_a_bucket_that_is_not_there_is_named(aws: Aws) -> None:
    with pytest.raises(BucketUnavailable, match="bucket 'nothing-here' does not exist"):
        bucket_region(aws, "nothing-here")


def test_a_bucket_that_refuses_us_is_named(aws: Aws) -> None:
    aws.before = refuse("s3.head_bucket", refusal("403", "Forbidden", "HeadBucket"))

    with pytest.raises(BucketUnavailable, match="bucket 'source' refuses these credentials") as error:
        bucket_region(aws, "source")
    assert "s3:ListBucket" in error.value.hint


def test_credentials_that_are_refused_are_told_rather_than_that_a_bucket_refuses_us(aws: Aws) -> None:
    def refused(name: str, _: dict[str, Any]) -> None:
        if name.startswith("s3."):  # a HEAD request has no answer to read
            raise refusal("403" if name == "s3.head_bucket" else "SignatureDoesNotMatch", "Check your key.", name[3:])

    aws.before = refused

    with pytest.raises(NotPermitted, match=r"bucket 'source': the credentials are not accepted \(SignatureDoesNotMatch"):
        bucket_region(aws, "source")


@pytest.mark.parametrize(("minutes", "said"), [(60, "60 minutes slow"), (-60, "60 minutes fast")])
def test_a_clock_that_is_wrong_is_told_rather_than_that_a_bucket_refuses_us(aws: Aws, minutes: int, said: str) -> None:
    refused = refusal("403", "Forbidden", "HeadBucket")
    refused.response["ResponseMetadata"] |= {
        "HTTPStatusCode": 403,
        "HTTPHeaders": {"date": formatdate(time.time() + 60 * minutes, usegmt=True)},
    }
    aws.before = refuse("s3.head_bucket", refused)

    with pytest.raises(NotPermitted, match=f"bucket 'source': refused, and this machine's clock is {said}"):
        bucket_region(aws, "source")


def test_a_redirection_tells_the_region(aws: Aws) -> None:
    elsewhere = refusal("301", "Moved Permanently", "HeadBucket")
    elsewhere.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] = "ap-southeast-2"
    aws.before = refuse("s3.head_bucket", elsewhere)

    assert bucket_region(aws, "source") == "ap-southeast-2"


def test_an_endpoint_where_nobody_answers_is_named(aws: Aws) -> None:
    aws.before = refuse("s3.head_bucket", EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))

    with pytest.raises(S3BulkCopyError, match=r"nobody answers: .*http://127\.0\.0\.1:1") as error:
        bucket_region(aws, "source")
    assert "--endpoint-url" in error.value.hint


@pytest.mark.parametrize(
    ("bucket", "region", "url"),
    [
        ("source", "eu-west-1", "https://source.s3.eu-west-1.amazonaws.com"),
        ("source", "cn-north-1", "https://source.s3.cn-north-1.amazonaws.com.cn"),
        ("with.dots", "eu-west-1", "https://s3.eu-west-1.amazonaws.com/with.dots"),
    ],
)
def test_a_buckets_url_is_what_botocore_makes_it(aws: Aws, bucket: str, region: str, url: str) -> None:
    assert bucket_url(aws, bucket, region) == url


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://localhost:9000/", "https://s3.example.com"])
def test_with_an_endpoint_of_ones_own_the_bucket_stands_in_the_path(
    aws: Aws,  # noqa: ARG001
    endpoint: str,
) -> None:
    session = AwsSession(AwsSettings(region=REGION, endpoint_url=endpoint))

    assert bucket_url(session, "bucket", REGION) == f"{endpoint.rstrip('/')}/bucket"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_from_the_environment_counts_as_well(aws: Aws, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://localhost:9000")

    assert bucket_url(aws, "bucket", REGION) == "http://localhost:9000/bucket"


NAMED_BY_PROFILE = """
[default]
endpoint_url = http://localhost:9000
[profile of-s3]
aws_access_key_id = a
aws_secret_access_key = b
services = ours
[services ours]
s3 =
  endpoint_url = http://localhost:9000
sqs =
  endpoint_url = http://localhost:9001
"""


@pytest.mark.parametrize("profile", [None, "of-s3"])
def test_an_endpoint_from_a_profile_counts_as_well(
    aws: Aws,  # noqa: ARG001 - its environment
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    profile: str | None,
) -> None:
    (tmp_path / "config").write_text(NAMED_BY_PROFILE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    session = AwsSession(AwsSettings(region=REGION, profile=profile))

    assert session.has_other_store
    assert bucket_url(session, "bucket", REGION) == "http://localhost:9000/bucket"


def test_an_endpoint_that_boto3_is_told_to_pass_over_does_not_count(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")

    assert not aws.has_other_store
    assert bucket_url(aws, "bucket", REGION) == f"https://bucket.s3.{REGION}.amazonaws.com"


def test_the_account_tells_its_free_concurrency(aws: Aws) -> None:  # noqa: ARG001
    session = AwsSession(AwsSettings(region=REGION))
    with Stubber(session.client("lambda", REGION)) as stub:
        stub.add_response("get_account_settings", {"AccountLimit": {"UnreservedConcurrentExecutions": 10}})

        assert free_concurrency(session, REGION) == 10


def test_an_account_that_may_not_tell_its_free_concurrency_does_not_stop_us(aws: Aws) -> None:
    aws.before = refuse("lambda.get_account_settings", refusal("AccessDeniedException"))

    assert free_concurrency(aws, REGION) is None


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("ListObjectsV2", "s3:ListBucket"),
        ("HeadBucket", "s3:ListBucket"),
        ("Invoke", "lambda:InvokeFunction"),
        ("SendMessageBatch", "sqs:SendMessage"),
        ("CreateFunction", "lambda:CreateFunction"),
        ("PutRolePolicy", "iam:PutRolePolicy"),
        ("CreateLogGroup", "logs:CreateLogGroup"),
    ],
)
def test_a_refused_operation_is_named_as_iam_names_it(operation: str, action: str) -> None:
    assert action_of(refusal("AccessDenied", "Access Denied", operation)) == action


def test_what_aws_itself_names_comes_first() -> None:
    said = "User: arn:aws:iam::1:user/x is not authorized to perform: lambda:TagResource on resource: arn:aws:lambda:…"

    assert action_of(refusal("AccessDeniedException", said, "CreateFunction")) == "lambda:TagResource"


@pytest.mark.parametrize("service", sorted(_SERVICES))
def test_every_operation_that_is_told_by_its_service_is_one_of_it(service: str) -> None:
    known = boto3.client(service, region_name=REGION).meta.service_model.operation_names

    assert _SERVICES[service] <= set(known)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refusal("AccessDenied", "no", "CreateRole"), NotPermitted, "doing it: iam:CreateRole is denied: no"),
        (refusal("403", "Forbidden", "HeadBucket"), NotPermitted, "doing it: s3:ListBucket is denied: Forbidden"),
        (refusal("RequestExpired"), NotPermitted, "doing it: the credentials have expired"),
        (refusal("Throttling", "slower"), S3BulkCopyError, "doing it: Throttling: slower"),
        (NoRegionError(), UsageError, "doing it: no region"),
        (ParamValidationError(report="bad"), UsageError, "doing it: Parameter validation failed:\nbad"),
        (ValueError("odd"), S3BulkCopyError, "doing it: odd"),
        (
            SSLError(endpoint_url="https://store.test/b", error="certificate verify failed"),
            S3BulkCopyError,
            "doing it: https://store.test/b is not trusted: certificate verify failed",
        ),
    ],
)
def test_an_error_is_put_into_our_words(error: Exception, kind: type[S3BulkCopyError], message: str) -> None:
    found = translate(error, "doing it")

    assert (type(found), found.message) == (kind, message)


def test_a_timeout_points_to_the_way_to_aws() -> None:
    found = translate(ConnectTimeoutError(endpoint_url="http://example.com"), "doing it")

    assert (type(found), "nobody answers" in found.message) == (S3BulkCopyError, True)


def test_what_is_in_our_words_already_stays() -> None:
    ours = UsageError("no")

    assert translate(ours, "doing it") is ours


def test_a_refusal_without_a_message_is_still_named() -> None:
    bare = ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteQueue")

    assert translate(bare, "doing it").message.startswith("doing it: sqs:DeleteQueue is denied")


def test_credentials_that_were_looked_for_anew_stay_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = s\n")
    session = AwsSession(AwsSettings())
    before = session.credentials().access_key
    file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = s\n")

    renewed = session.renewed_credentials().access_key

    assert (before, renewed, session.credentials().access_key) == ("old", "new", "new")


# -------------------------------------------------------------------------------------------------------- while we watch


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (EndpointConnectionError(endpoint_url="https://sqs"), Lack.NETWORK),
        (ConnectTimeoutError(endpoint_url="https://sqs"), Lack.NETWORK),
        (refusal("ServiceUnavailable"), Lack.NETWORK),
        (refusal("RequestThrottled"), Lack.NETWORK),
        (refusal("ExpiredToken"), Lack.CREDENTIALS),
        (refusal("com.amazon#ExpiredTokenException"), Lack.CREDENTIALS),
        (refusal("UnrecognizedClientException"), Lack.CREDENTIALS),
        (UnauthorizedSSOTokenError(), Lack.CREDENTIALS),
        (NoCredentialsError(), Lack.CREDENTIALS),
        (refusal("AccessDenied"), None),
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), None),
        (UsageError("no"), None),
        (ValueError("no"), None),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(error: Exception, what: Lack | None) -> None:
    assert lack(error) is what
    told = S3BulkCopyError("in our words")
    told.__cause__ = error
    assert lack(told) is what


def test_credentials_are_looked_for_again_where_a_session_is_renewed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\n")
    session = AwsSession(AwsSettings(region=REGION))
    before = session.client("sqs", REGION)
    file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = x\n")

    session.renew()

    assert session.credentials().access_key == "new"
    assert session.client("sqs", REGION) is not before


def test_who_asks_again_is_told_soon_that_nobody_answers(aws: Aws) -> None:  # noqa: ARG001 - its environment
    session = AwsSession(AwsSettings(region=REGION))
    patient = session.client("sqs", REGION)
    with session.hasty():
        hasty = session.client("sqs", REGION)

    assert session.client("sqs", REGION) is patient
    assert hasty.meta.config.retries["total_max_attempts"] < patient.meta.config.retries["total_max_attempts"]
