"""Finding and removing runs from names and tags alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.core import set_initial_no_auth_action_count
from moto.iam.access_control import IAMRequestBase

from s3bulkcopy.aws import bundle, policy
from s3bulkcopy.aws.deploy import deploy
from s3bulkcopy.aws.discover import find_run, find_runs
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.aws.teardown import TornDown, halt, teardown
from s3bulkcopy.errors import NotPermitted
from s3bulkcopy.settings import StackSettings
from tests.moto.conftest import REGION, RUN_ID, Aws, leftovers, refusal, silently, stack

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_a_queue_that_is_not_tagged_as_the_runs_is_left_alone(aws: Aws) -> None:
    boto3.client("sqs", region_name=REGION).create_queue(QueueName=f"{Names(RUN_ID).stem}-mine")

    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert done.removed == ()
    assert [(left.name, left.why) for left in done.left] == [
        (f"{Names(RUN_ID).stem}-mine", "not tagged as this run's, so left alone")
    ]


def test_a_mapping_and_its_function_that_both_stay_are_both_reported(aws: Aws) -> None:
    make(aws)

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name in ("lambda.delete_event_source_mapping", "lambda.delete_function"):
            raise refusal("AccessDeniedException", "not you", "DeleteFunction")

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    kept = ["delete-event-source-mapping"] * 2 + ["delete-function"] * 2
    assert sorted(left.command.split()[2] for left in done.left) == kept
    assert {thing.kind for found in find_runs(aws, REGION) for thing in found.resources} == {"mapping", "function"}


@pytest.mark.parametrize(
    ("operation", "action"),
    [("sqs.get_queue_url", "GetQueueUrl"), ("sqs.get_queue_attributes", "GetQueueAttributes"), ("sqs.list_queue_tags", "")],
)
def test_a_teardown_needs_no_right_to_look_at_the_queues(aws: Aws, operation: str, action: str) -> None:
    make(aws)

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == operation:
            raise refusal("AccessDenied", "not you", action)

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (done.left, leftovers()) == ((), [])


def test_a_teardown_removes_the_rest_where_one_kind_may_not_be_looked_for(aws: Aws) -> None:
    make(aws)
    aws.before = refuse_looking_for("sqs.list_queues", "ListQueues")

    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert sorted(leftovers()) == sorted(Names(RUN_ID).queues.values())
    (left,) = done.left
    assert left.name == f"queues of {RUN_ID}"
    assert "sqs:ListQueues is denied" in left.why
    assert left.command == f"s3bulkcopy teardown {RUN_ID} --region {REGION}"


def test_with_a_role_of_ones_own_a_teardown_needs_no_right_in_iam(aws: Aws) -> None:
    iam = boto3.client("iam")
    role = iam.create_role(RoleName="mine", AssumeRolePolicyDocument=json.dumps(policy.trust_policy("123456789012")))["Role"]
    deploy(stack(StackSettings(role_arn=role["Arn"])), aws, bundle.build(), say=silently, sleep=silently)
    aws.before = refuse_looking_for("iam.list_roles", "ListRoles")

    halt(aws, REGION, RUN_ID, say=silently, sleep=silently)
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (done.left, leftovers()) == ((), [])


def test_a_role_that_may_not_be_looked_for_is_reported(aws: Aws) -> None:
    make(aws)
    aws.before = refuse_looking_for("iam.list_roles", "ListRoles")

    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert leftovers() == [Names(RUN_ID).stem]
    assert [left.name for left in done.left] == [f"roles of {RUN_ID}"]


def test_where_nothing_may_be_looked_for_a_teardown_says_so_once(aws: Aws) -> None:
    def refuse(_name: str, _arguments: dict[str, Any]) -> None:
        raise refusal("ExpiredTokenException", "expired", "Any")

    aws.before = refuse

    (left,) = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently).left

    assert (left.name, "expired" in left.why) == (RUN_ID, True)


def test_a_teardown_in_another_region_spares_the_role_under_which_workers_may_be_running(aws: Aws) -> None:
    make(aws)

    (left,) = teardown(aws, "us-west-2", RUN_ID, say=silently, sleep=silently).left

    assert (left.name, left.why) == (Names(RUN_ID).stem, f"its run is in {REGION}")
    assert left.command == f"s3bulkcopy teardown {RUN_ID} --region {REGION}"
    assert len(leftovers()) == 12


def test_a_log_group_that_a_late_worker_brings_back_is_removed_too(aws: Aws) -> None:
    make(aws)
    late = iter([True])
    (group, _) = Names(RUN_ID).log_groups

    def write(name: str, _: dict[str, Any]) -> None:
        if name == "iam.delete_role" and next(late, False):
            tags = {"s3bulkcopy:run": RUN_ID}
            boto3.client("logs", region_name=REGION).create_log_group(logGroupName=group, tags=tags)

    aws.before = write
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (done.left, leftovers()) == ((), [])
    assert done.removed.count(group) == 1


def test_a_mapping_that_may_not_be_looked_at_does_not_keep_the_rest(aws: Aws) -> None:
    make(aws)

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.get_event_source_mapping":
            raise refusal("AccessDeniedException", "not you", "GetEventSourceMapping")

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert leftovers() == []
    assert {left.name for left in done.left} == set(Names(RUN_ID).functions)
    assert all("lambda:GetEventSourceMapping is denied" in left.why for left in done.left)


def test_a_mapping_that_is_busy_is_asked_again(aws: Aws) -> None:
    make(aws)
    busy = iter([True, True, True])

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.delete_event_source_mapping" and next(busy, False):
            raise refusal("ResourceInUseException", "in use", "DeleteEventSourceMapping")

    aws.before = refuse
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert (done.left, leftovers()) == ((), [])


def test_a_halt_says_where_nobody_who_follows_the_run_learns_of_it(aws: Aws) -> None:
    make(aws)

    def refuse_tags(name: str, _arguments: dict[str, Any]) -> None:
        if name == "sqs.tag_queue":
            raise refusal("AccessDenied")

    aws.before = refuse_tags
    said: list[str] = []
    halt(aws, REGION, RUN_ID, say=said.append, sleep=silently)

    (told,) = (line for line in said if "follows" in line)
    assert told.startswith(f"whoever follows {RUN_ID} is not told that it is stopped (tagging s3bulkcopy-{RUN_ID}-")


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


def refuse_looking_for(operation: str, action: str) -> Callable[[str, dict[str, Any]], None]:
    """Give a `before` that denies one look."""

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == operation:
            raise refusal("AccessDenied", "not you", action)

    return refuse


@pytest.fixture
def caller(
    aws: Aws,  # noqa: ARG001 - the account
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give a function that goes on as a user with a policy, in an account that enforces it."""
    iam = boto3.client("iam")
    # moto reckons the signature of a request without a body wrongly; what a policy allows is another matter.
    monkeypatch.setattr(IAMRequestBase, "check_signature", lambda _: None)
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


def test_the_callers_policy_suffices_to_make_find_halt_and_remove_a_run(caller: Any) -> None:
    aws = caller(policy.caller_policy())

    @set_initial_no_auth_action_count(0)
    def whole_life() -> tuple[int, TornDown]:
        make(aws)
        found = len(find_runs(aws, REGION))
        halt(aws, REGION, RUN_ID, say=silently, sleep=silently)
        return found, teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    found, done = whole_life()

    assert (found, done.left, leftovers()) == (1, (), [])
