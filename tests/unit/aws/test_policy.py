"""IAM policies: nothing beyond what a run needs, and prefixes taken literally."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.aws.policy import (
    PARTS,
    Keys,
    braked_policy,
    caller_policy,
    destination_statements,
    key_statement,
    literal,
    principals,
    source_statements,
    trust_policy,
    worker_policy,
)
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.worker.model import Job, Location
from s3bulkcopy.worker.properties import Policy as Properties

RUN_ID = "20261123-121632-k3f9xa"
STEM = f"s3bulkcopy-{RUN_ID}"
PLACE: dict[str, Any] = {"account": "123456789012", "partition": "aws", "region": "eu-west-1"}

#: Short texts of the characters that IAM could misread, among others.
texts = st.text("ab/*?${}ø", max_size=12)


def rights(source_prefix: str = "in/", destination_prefix: str = "out/") -> dict[str, dict[str, Any]]:
    source = Location("source", source_prefix, "us-east-1", "https://source.s3.amazonaws.com")
    destination = Location("destination", destination_prefix, "eu-west-1", "https://destination.s3.eu-west-1.amazonaws.com")
    document = worker_policy(Job(RUN_ID, source, destination), Names(RUN_ID), **PLACE)
    return {statement.pop("Sid"): statement for statement in document["Statement"]}


def allows(pattern: str, text: str) -> bool:
    """Match as IAM does: `*` and `?` are wildcards, `${*}`, `${?}` and `${$}` the characters themselves."""
    parts = re.findall(r"\$\{[*?$]\}|.", pattern, re.DOTALL)
    wild = {"*": ".*", "?": "."}
    regex = "".join(wild.get(part) or re.escape(part[2] if len(part) > 1 else part) for part in parts)
    return re.fullmatch(regex, text, re.DOTALL) is not None


@given(texts, texts)
def test_a_prefix_allows_the_keys_below_it_and_no_others(prefix: str, key: str) -> None:
    assert allows(f"{literal(prefix)}*", key) == key.startswith(prefix)
    assert allows(f"{literal(prefix)}*", prefix + key)


def test_the_worker_may_list_and_read_the_source_and_write_the_destination() -> None:
    found = rights()

    assert found["List"] == {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": ["arn:aws:s3:::source"],
        "Condition": {"StringLike": {"s3:prefix": "in/*"}},
    }
    assert found["Read"] == {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:GetObjectTagging", "s3:GetObjectAnnotation", "s3:ListObjectAnnotations"],
        "Resource": ["arn:aws:s3:::source/in/*"],
    }
    assert found["Write"] == {
        "Effect": "Allow",
        "Action": [
            "s3:PutObject",
            "s3:PutObjectTagging",
            "s3:PutObjectAnnotation",
            "s3:ListMultipartUploadParts",
            "s3:AbortMultipartUpload",
            "s3:GetObjectTagging",
        ],
        "Resource": ["arn:aws:s3:::destination/out/*"],
    }
    assert found["Look"] == {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": ["arn:aws:s3:::destination"],
        "Condition": {"StringLike": {"s3:prefix": "out/*"}},
    }


def test_a_whole_bucket_is_listed_without_a_condition() -> None:
    found = rights("", "")

    assert "Condition" not in found["List"]
    assert found["Read"]["Resource"] == ["arn:aws:s3:::source/*"]
    assert found["Write"]["Resource"] == ["arn:aws:s3:::destination/*"]


def test_wildcards_in_a_prefix_are_escaped_wherever_it_stands() -> None:
    found = rights("a*b?c$", "d*")

    assert found["List"]["Condition"] == {"StringLike": {"s3:prefix": "a${*}b${?}c${$}*"}}
    assert found["Read"]["Resource"] == ["arn:aws:s3:::source/a${*}b${?}c${$}*"]
    assert found["Write"]["Resource"] == ["arn:aws:s3:::destination/d${*}*"]


def test_the_worker_sends_to_three_queues_of_its_run_and_receives_from_two() -> None:
    found, queue = rights(), f"arn:aws:sqs:eu-west-1:123456789012:{STEM}"

    assert found["Send"]["Resource"] == [f"{queue}-list", f"{queue}-copy", f"{queue}-reports"]
    assert found["Receive"]["Resource"] == [f"{queue}-list", f"{queue}-copy"]


def test_the_worker_writes_to_its_log_groups_and_makes_none() -> None:
    group = f"arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/{STEM}"

    assert rights()["Log"] == {
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": [f"{group}-lister:*", f"{group}-copier:*"],
    }


def test_the_brake_keeps_the_rights_to_receive_and_to_log_only() -> None:
    braked = braked_policy(Names(RUN_ID), **PLACE)["Statement"]

    found = rights()
    assert {s["Sid"]: {k: v for k, v in s.items() if k != "Sid"} for s in braked} == {
        "Receive": found["Receive"],
        "Log": found["Log"],
    }


def test_lambda_alone_may_take_on_the_role_and_for_this_account_only() -> None:
    (statement,) = trust_policy("123456789012")["Statement"]

    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
    }


def test_the_callers_policy_changes_nothing_that_is_not_named_as_ours() -> None:
    wide = [
        action for s in caller_policy()["Statement"] if s["Resource"] == ["*"] for action in s["Action"]
    ]  # fmt: skip
    reading = re.compile(r"\w+:(List|Describe|Get)")

    assert [action for action in wide if not reading.match(action)] == [
        "lambda:CreateEventSourceMapping",  # AWS gives a mapping's ARN no name
        "lambda:UpdateEventSourceMapping",
        "lambda:DeleteEventSourceMapping",
    ]


def test_the_callers_policy_takes_the_names_of_a_place() -> None:
    document = json.dumps(caller_policy("a", "b", account="123456789012", partition="aws-cn", region="cn-north-1"))

    assert '"arn:aws-cn:s3:::a", "arn:aws-cn:s3:::b"' in document
    assert "arn:aws-cn:sqs:cn-north-1:123456789012:s3bulkcopy-*" in document
    assert "arn:aws:" not in document


def test_the_longest_plain_prefixes_fit_what_iam_takes_inline() -> None:
    most_chars = 10_240  # all of a role's inline policies together, white space not counted (IAM quotas)
    source, destination = (Location("b" * 63, "p" * 1024, "eu-west-1", "") for _ in range(2))

    document = worker_policy(Job(RUN_ID, source, destination), Names(RUN_ID), **PLACE)

    assert len(re.sub(r"\s", "", json.dumps(document))) <= most_chars


# ------------------------------------------------------------------------------- properties, keys, access points, accounts

POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/point"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11"


def rights_of(
    policy: Properties | None = None, keys: Keys | None = None, source: str = "source", destination: str = "destination"
) -> dict[str, dict[str, Any]]:
    job = Job(
        RUN_ID,
        Location(source, "in/", "eu-west-1", ""),
        Location(destination, "out/", "eu-west-1", ""),
        policy=policy or Properties(),
    )
    document = worker_policy(job, Names(RUN_ID), **PLACE, keys=keys)
    return {statement["Sid"]: statement for statement in document["Statement"]}


@pytest.mark.parametrize(
    ("policy", "reading", "writing"),
    [
        (Properties(tags="drop", annotations="drop"), ["s3:GetObject"], ["s3:PutObject"]),
        (
            Properties(tags="replace", tag_set=(("a", "b"),), annotations="drop"),
            ["s3:GetObject"],
            ["s3:PutObject", "s3:PutObjectTagging"],
        ),
        (
            Properties(tags="drop", annotations="drop", acl="preserve"),
            ["s3:GetObject", "s3:GetObjectAcl"],
            ["s3:PutObject", "s3:PutObjectAcl"],
        ),
        (Properties(tags="drop", annotations="drop", acl="private"), ["s3:GetObject"], ["s3:PutObject", "s3:PutObjectAcl"]),
    ],
)
def test_the_worker_has_the_rights_that_its_properties_need_and_no_others(
    policy: Properties, reading: list[str], writing: list[str]
) -> None:
    found = rights_of(policy)

    parts = [*PARTS, *(["s3:GetObjectTagging"] if policy.tags != "drop" else [])]
    assert (found["Read"]["Action"], found["Write"]["Action"]) == (reading, writing + parts)


def test_keys_are_named_as_iam_knows_them() -> None:
    found = rights_of(keys=Keys((KEY,), ("0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11",)))

    assert (found["Decrypt"]["Action"], found["Decrypt"]["Resource"]) == (["kms:Decrypt"], [KEY])
    assert found["Encrypt"]["Action"] == ["kms:GenerateDataKey", "kms:Encrypt", "kms:Decrypt"]
    assert found["Encrypt"]["Resource"] == ["arn:aws:kms:eu-west-1:123456789012:key/0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11"]


@pytest.mark.parametrize("alias", ["alias/a/b", "arn:aws:kms:eu-west-1:111122223333:alias/a/b"])
def test_an_alias_is_a_condition_and_then_only_s3_may_use_the_key(alias: str) -> None:
    found = rights_of(keys=Keys((), (alias,)))

    assert "Encrypt" not in found
    assert found["EncryptByAlias"]["Resource"] == ["arn:aws:kms:eu-west-1:*:key/*"]
    assert found["EncryptByAlias"]["Condition"] == {
        "ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/a/b"]},
        "StringLike": {"kms:ViaService": "s3.*"},
    }


def test_without_keys_nothing_is_said_of_kms() -> None:
    assert "kms" not in json.dumps(rights_of())


def test_an_access_point_and_what_is_behind_it_through_it_alone() -> None:
    found = rights_of(source=POINT)

    assert found["List"]["Resource"] == [POINT]
    assert found["List"]["Condition"] == {"StringLike": {"s3:prefix": "in/*"}}
    assert found["Read"]["Resource"] == [f"{POINT}/object/in/*"]
    through = {"ArnLike": {"s3:DataAccessPointArn": POINT}}
    assert (found["ListBehind"]["Resource"], found["ListBehind"]["Condition"]) == (
        ["arn:aws:s3:::*"],
        {"StringLike": {"s3:prefix": "in/*"}} | through,
    )
    assert (found["ReadBehind"]["Resource"], found["ReadBehind"]["Condition"]) == (["arn:aws:s3:::*/in/*"], through)
    assert "WriteBehind" not in found


def test_an_alias_of_an_access_point_is_named_as_far_as_it_tells() -> None:
    found = rights_of(destination="point-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias")

    assert found["Write"]["Resource"] == ["arn:aws:s3:eu-west-1:*:accesspoint/point*/object/out/*"]
    assert found["WriteBehind"]["Condition"] == {
        "ArnLike": {"s3:DataAccessPointArn": "arn:aws:s3:eu-west-1:*:accesspoint/point*"}
    }


@pytest.mark.parametrize(
    ("caller", "role", "is_local", "expected"),
    [
        ("arn:aws:iam::1:user/x", None, True, ["arn:aws:iam::1:user/x"]),
        ("arn:aws:iam::1:user/x", None, False, ["arn:aws:iam::1:user/x", "arn:aws:iam::1:role/s3bulkcopy/*"]),
        ("arn:aws:iam::1:user/x", "arn:aws:iam::1:role/r", False, ["arn:aws:iam::1:user/x", "arn:aws:iam::1:role/r"]),
        ("arn:aws:sts::1:assumed-role/Admin/me@x", None, True, ["arn:aws:iam::1:role/Admin", "arn:aws:iam::1:role/*/Admin"]),
    ],
)
def test_a_statement_names_who_asks_and_who_works(
    caller: str, role: str | None, expected: list[str], *, is_local: bool
) -> None:
    who = principals(caller, "1", "aws", role, is_local=is_local)

    assert who["Principal"] == {"AWS": "arn:aws:iam::1:root"}
    assert who["Condition"] == {"ArnLike": {"aws:PrincipalArn": expected}}


def test_statements_to_paste_name_the_rights_of_the_job_in_its_partition() -> None:
    who = principals("arn:aws-cn:iam::1:user/x", "1", "aws-cn", None, is_local=False)
    job = Job(
        RUN_ID,
        Location("a", "in*/", "cn-north-1", ""),
        Location(POINT, "out/", "cn-north-1", ""),
        policy=Properties(tags="drop"),
    )

    reading, writing = source_statements(job, "aws-cn", who), destination_statements(job, "aws-cn", who)
    assert [(s["Action"], s["Resource"]) for s in reading] == [
        (["s3:ListBucket"], "arn:aws-cn:s3:::a"),
        (["s3:GetObject", "s3:GetObjectAnnotation", "s3:ListObjectAnnotations"], "arn:aws-cn:s3:::a/in${*}/*"),
    ]
    assert [s["Resource"] for s in writing] == [POINT, f"{POINT}/object/out/*"]
    assert writing[0]["Action"] == ["s3:ListBucket", "s3:ListBucketMultipartUploads"]  # to find uploads that workers have left
    assert {json.dumps(s["Principal"]) for s in reading + writing} == {'{"AWS": "arn:aws-cn:iam::1:root"}'}
    assert key_statement(who, decrypts=True)["Action"] == ["kms:Decrypt"]
    assert "kms:GenerateDataKey" in key_statement(who, decrypts=False)["Action"]
