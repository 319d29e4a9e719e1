"""Bad input and trouble: a clear error with a hint, its own exit code, and nothing left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from s3bulkcopy.aws import policy

if TYPE_CHECKING:
    from tests.e2e.conftest import Cloud


@pytest.fixture
def filled(cloud: Cloud, buckets: tuple[str, str]) -> tuple[str, str]:
    """A source with a few objects, and an empty destination."""
    cloud.store.fill(buckets[0], iter(["a", "b", "c"]))
    return buckets


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "s3://bucket", "Not_A_Bucket"], 2, ["Not_A_Bucket", "bucket name"]),
        (["run", "gs://bucket/x", "bucket"], 2, ["gs://bucket/x", "s3://bucket/prefix"]),
        (["run", "bucket/prefix", "other-bucket"], 2, ["s3://bucket/prefix"]),
        (["run", "bucket--use1-az4--x-s3", "other-bucket"], 2, ["directory bucket"]),
        (["run", "same-bucket", "s3://same-bucket"], 2, ["same"]),
        (["run", "s3://same-bucket/a", "s3://same-bucket/a/b"], 2, ["overlap"]),
        (["run", "only-one"], 2, ["DST"]),
        (["run", "a-bucket", "b-bucket", "--tag", "x"], 2, ["KEY=VALUE"]),
        (["teardown"], 2, ["--all"]),
        (["teardown", "nonsense"], 2, ["nonsense", "not a run id"]),
        (["status", "nonsense"], 2, ["nonsense", "not a run id"]),
        (["teardown", "--all", "20260101-000000-000000"], 2, ["not both"]),
        (["status", "20260101-000000-000000"], 2, ["no run 20260101-000000-000000"]),
        (["attach", "20260101-000000-000000"], 2, ["no journal of that run on this machine", "no run 20260101-000000-000000"]),
        (["halt", "20260101-000000-000000"], 2, ["no run 20260101-000000-000000"]),
        (["failures", "20260101-000000-000000"], 2, ["no journal of that run on this machine"]),
        (["retry"], 2, ["--failures FILE"]),
        (["teardown", "--older-than", "2w", "--all"], 2, ["2w", "12h"]),
        (["run", "a-bucket", "b-bucket", "--engine", "local", "--detach"], 2, ["--detach", "lambda engine"]),
    ],
)
def test_bad_usage_is_named(cloud: Cloud, arguments: list[str], code: int, words: list[str]) -> None:
    ended = cloud.run(*arguments)

    assert ended.code == code, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err


def test_a_full_disk_under_the_output_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "s3bulkcopy", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )

    assert (done.returncode, done.stderr) == (1, "error: what was asked for cannot be written: No space left on device\n")


def test_a_missing_bucket_is_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    for arguments in (["no-such-bucket-here", filled[1]], [filled[0], "no-such-bucket-here"]):
        ended = cloud.run("run", *arguments)
        assert (ended.code, "no-such-bucket-here" in ended.err) == (4, True), ended.err


def test_no_credentials_are_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    ended = cloud.run("run", *filled, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)

    assert (ended.code, "credentials" in ended.err) == (5, True), ended.err


def test_unknown_credentials_are_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    ended = cloud.run("run", *filled, AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE")

    assert ended.code == 5, ended.err


def test_an_unknown_profile_is_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    ended = cloud.run("run", *filled, "--profile", "nobody")

    assert (ended.code, "nobody" in ended.err) == (2, True), ended.err


def test_the_wrong_region_is_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    ended = cloud.run("run", *filled, "--region", "eu-west-1")

    assert ended.code == 2, ended.err
    assert "us-east-1" in ended.err


def test_an_endpoint_where_nobody_answers_is_named(cloud: Cloud, filled: tuple[str, str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ended = cloud.run("run", *filled, "--endpoint-url", url)

    assert (ended.code, url in ended.err) == (1, True), ended.err


def test_more_workers_than_the_quota_allows_are_refused(cloud: Cloud, filled: tuple[str, str]) -> None:
    ended = cloud.run("run", *filled, "--workers", "1000")

    assert ended.code == 6, ended.err
    assert "--workers" in ended.err
    assert cloud.leftovers() == []


def test_a_port_in_use_is_named(cloud: Cloud) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = cloud.run("demo", "--port", port)

    assert (ended.code, port in ended.err) == (2, True), ended.err


#: Actions that the emulator knows under names of its own.
ALIASES = {
    "lambda:PutFunctionRecursionConfig": "lambda:UpdateFunctionCode",
    "sqs:SendMessage": "sqs:SendMessageBatch",
}


@pytest.mark.parametrize(
    "action",
    [
        "sqs:CreateQueue",
        "logs:CreateLogGroup",
        "iam:CreateRole",
        "iam:PutRolePolicy",
        "lambda:CreateFunction",
        "lambda:CreateEventSourceMapping",
        "lambda:InvokeFunction",
        "lambda:PutFunctionRecursionConfig",
        "sqs:SendMessage",
        "sqs:ReceiveMessage",
    ],
)
def test_a_denied_action_is_named_and_what_was_made_is_gone_again(
    cloud: Cloud, filled: tuple[str, str], caller: Any, action: str
) -> None:
    ended = cloud.run("run", *filled, **caller(ALIASES.get(action, action)))

    assert ended.code == 5, ended.err
    assert any(name in ended.err for name in (action, ALIASES.get(action, action)))
    assert "Traceback" not in ended.err
    assert cloud.leftovers() == []


def test_the_permissions_of_the_readme_are_enough(cloud: Cloud, filled: tuple[str, str], caller: Any) -> None:
    allowed = policy.caller_policy(*filled)
    allowed["Statement"].append({"Sid": "Aliases", "Effect": "Allow", "Action": list(ALIASES.values()), "Resource": "*"})
    for statement in allowed["Statement"]:
        if statement["Sid"] not in ("LookAtBuckets", "OwnQueues"):
            statement["Resource"] = "*"  # the emulator has ARNs of its own for roles, functions and log groups to be made

    ended = cloud.run("run", *filled, **caller(allowed=allowed))

    assert ended.code == 0, ended.err
    assert cloud.leftovers() == []


def test_a_bucket_that_refuses_is_named(cloud: Cloud, filled: tuple[str, str], caller: Any) -> None:
    ended = cloud.run("run", *filled, **caller("s3:ListBucket"))

    assert (ended.code, filled[0] in ended.err) == (4, True), ended.err


def test_a_teardown_that_is_not_permitted_says_what_is_left(cloud: Cloud, filled: tuple[str, str], caller: Any) -> None:
    ended = cloud.run("run", *filled, **caller("sqs:DeleteQueue"))

    assert ended.code == 7, ended.err
    assert "sqs:DeleteQueue" in ended.out
    assert "aws sqs delete-queue" in ended.out
    assert cloud.leftovers()
    assert cloud.run("teardown", "--all", "--everyone").code == 0
    assert cloud.leftovers() == []
