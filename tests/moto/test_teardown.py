"""Finding and removing runs from names and tags alone."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from moto.core import set_initial_no_auth_action_count

from s3bulkcopy.aws import bundle, policy
from s3bulkcopy.aws.deploy import deploy
from s3bulkcopy.aws.discover import find_run, find_runs
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.aws.teardown import halt, teardown
from s3bulkcopy.errors import NotPermitted
from tests.moto.conftest import REGION, RUN_ID, Aws, leftovers, refusal, silently, stack

OTHER = "20261123-121633-aaaaaa"


def make(aws: Aws, run_id: str = RUN_ID) -> None:
    deploy(stack(run_id=run_id), aws, bundle.build(), say=silently, sleep=silently)


def test_a_run_is_found_with_all_that_names_and_tags_tell(aws: Aws) -> None:
    make(aws)

    (found,) = find_runs(aws, REGION)

    assert (found.run_id, found.source, found.destination) == (RUN_ID, "s3://source/in/ø", "s3://destination/out/")
    assert (found.created, found.version, found.halted) == ("2026-11-23T12:16:32Z", "0.1.0", "")
    kinds = sorted(thing.kind for thing in found.resources)
    assert kinds == ["function"] * 2 + ["log group"] * 2 + ["mapping"] * 2 + ["queue"] * 5 + ["role"]
    assert {(d.waiting, d.in_flight) for d in found.depths.values()} == {(0, 0)}
    assert set(found.mappings.values()) == {"Enabled"}


def test_a_teardown_removes_one_run_and_no_other(aws: Aws) -> None:
    make(aws)
    make(aws, OTHER)

    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (len(done.removed), done.left) == (12, ())
    assert [found.run_id for found in find_runs(aws, REGION)] == [OTHER]
    assert find_run(aws, REGION, RUN_ID) is None


def test_a_teardown_may_be_repeated(aws: Aws) -> None:
    make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    again = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (again.removed, again.left) == ((), ())


def test_a_teardown_goes_on_past_a_failure_and_says_what_is_left(aws: Aws) -> None:
    make(aws)

    def refuse(name: str, arguments: dict[str, Any]) -> None:
        if name == "sqs.delete_queue" and arguments["QueueUrl"].endswith("-copy"):
            raise refusal("AccessDenied", "not you", "DeleteQueue")

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert leftovers() == [Names(RUN_ID).queues["copy"]]
    (left,) = done.left
    assert "sqs:DeleteQueue is denied: not you" in left.why
    assert left.command.startswith("aws sqs delete-queue --queue-url https://")


def test_a_mapping_that_is_busy_is_asked_again(aws: Aws) -> None:
    make(aws)
    busy = iter([True, True, True])

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.delete_event_source_mapping" and next(busy, False):
            raise refusal("ResourceInUseException", "in use", "DeleteEventSourceMapping")

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (done.left, leftovers()) == ((), [])


def test_a_halt_disables_the_mappings_takes_the_right_to_write_and_empties_the_queues(aws: Aws) -> None:
    make(aws)
    purged: list[str] = []
    aws.before = lambda name, arguments: purged.append(arguments["QueueUrl"]) if name == "sqs.purge_queue" else None

    halt(aws, REGION, RUN_ID, say=silently, sleep=silently)

    found = find_run(aws, REGION, RUN_ID)
    assert found is not None
    assert found.halted
    assert set(found.mappings.values()) == {"Disabled"}
    assert sorted(url.rsplit("-", 1)[-1] for url in purged) == ["copy", "list"]
    document = boto3.client("iam").get_role_policy(RoleName=Names(RUN_ID).stem, PolicyName="s3bulkcopy")["PolicyDocument"]
    actions = [action for statement in document["Statement"] for action in statement["Action"]]
    assert not [action for action in actions if action.startswith("s3:") or "Send" in action]


def test_halting_what_is_not_there_does_nothing(aws: Aws) -> None:
    halt(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert leftovers() == []


@pytest.fixture
def caller(
    aws: Aws,  # noqa: ARG001 - the account
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give a function that goes on as a user with a policy, in an account that enforces it."""
    iam = boto3.client("iam")
    iam.create_user(UserName="caller")
    key = iam.create_access_key(UserName="caller")["AccessKey"]

    def become(document: dict[str, Any]) -> Aws:
        # moto knows the actions of these services, but not the resources that they are about.
        statements = [{**s, "Resource": "*"} for s in document["Statement"] if s["Action"]]
        document = {**document, "Statement": statements}
        iam.put_user_policy(UserName="caller", PolicyName="p", PolicyDocument=json.dumps(document))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        return Aws()

    return become


@pytest.mark.parametrize("action", ["sqs:CreateQueue", "iam:CreateRole", "lambda:CreateFunction", "logs:CreateLogGroup"])
def test_an_action_that_the_callers_policy_lacks_is_named(caller: Any, action: str) -> None:
    document = policy.caller_policy()
    for statement in document["Statement"]:
        statement["Action"] = [a for a in statement["Action"] if a != action]
    aws = caller(document)

    with pytest.raises(NotPermitted, match=action):
        set_initial_no_auth_action_count(0)(make)(aws)
