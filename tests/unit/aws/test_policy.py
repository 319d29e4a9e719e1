"""IAM policies: nothing beyond what a run needs, and prefixes taken literally."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.aws.policy import braked_policy, caller_policy, literal, trust_policy, worker_policy
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.worker.model import Job, Location

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
        "Action": ["s3:GetObject", "s3:GetObjectTagging", "s3:GetObjectAnnotation"],
        "Resource": ["arn:aws:s3:::source/in/*"],
    }
    assert found["Write"] == {
        "Effect": "Allow",
        "Action": ["s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectAnnotation"],
        "Resource": ["arn:aws:s3:::destination/out/*"],
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
