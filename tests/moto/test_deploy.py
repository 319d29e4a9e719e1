"""Making a stack: what is made, what is retried, and what is taken back."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from typing import Any

import boto3
import pytest

from s3bulkcopy.aws import bundle
from s3bulkcopy.aws.deploy import Deployed, _Maker, deploy
from s3bulkcopy.aws.policy import trust_policy
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.aws.teardown import teardown
from s3bulkcopy.errors import DeployFailed, NameTaken, NotPermitted, S3BulkCopyError
from s3bulkcopy.settings import StackSettings
from tests.moto.conftest import REGION, RUN_ID, Aws, leftovers, refusal, silently, stack

NAMES = Names(RUN_ID)


def make(aws: Aws, settings: StackSettings | None = None) -> Deployed:
    return deploy(stack(settings), aws, bundle.build(), say=silently, sleep=silently)


def test_everything_planned_is_made_and_tagged(aws: Aws) -> None:
    made = make(aws, StackSettings(tags=(("team", "storage"),)))

    assert set(made.queue_urls) == {"list", "copy", "list-dead", "copy-dead", "reports"}
    assert made.message_bytes == 1_048_576
    functions = boto3.client("lambda", region_name=REGION)
    found = functions.get_function(FunctionName=NAMES.copy_function)
    assert (
        found["Tags"].items()
        >= {"s3bulkcopy:run": RUN_ID, "s3bulkcopy:destination": "s3://destination/out/", "team": "storage"}.items()
    )
    configuration = found["Configuration"]
    assert (configuration["Runtime"], configuration["Architectures"]) == ("python3.13", ["arm64"])
    variables = configuration["Environment"]["Variables"]
    assert variables["S3BULKCOPY_REPORTS_QUEUE"] == made.queue_urls["reports"]
    assert variables["S3BULKCOPY_SQS_ENDPOINT"] == aws.client("sqs", REGION).meta.endpoint_url
    mappings = functions.list_event_source_mappings()["EventSourceMappings"]
    assert {m["FunctionArn"].rsplit(":", 1)[-1]: m["ScalingConfig"]["MaximumConcurrency"] for m in mappings} == {
        NAMES.list_function: 2,
        NAMES.copy_function: 6,
    }
    assert all(m["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for m in mappings)
    groups = boto3.client("logs", region_name=REGION).describe_log_groups()["logGroups"]
    assert {g["logGroupName"]: g["retentionInDays"] for g in groups} == dict.fromkeys(NAMES.log_groups, 14)


def test_queues_keep_messages_for_14_days_and_dead_letters_after_five_deliveries(aws: Aws) -> None:
    made = make(aws)

    sqs = boto3.client("sqs", region_name=REGION)
    attributes = {
        kind: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        for kind, url in made.queue_urls.items()
    }
    assert {a["MessageRetentionPeriod"] for a in attributes.values()} == {"1209600"}
    assert attributes["copy"]["VisibilityTimeout"] == "150"
    assert json.loads(attributes["list"]["RedrivePolicy"]) == {
        "deadLetterTargetArn": attributes["list-dead"]["QueueArn"],
        "maxReceiveCount": 5,
    }


def test_both_functions_opt_out_of_the_loop_detection(aws: Aws) -> None:
    asked: list[dict[str, Any]] = []
    aws.before = lambda name, arguments: asked.append(arguments) if name == "lambda.put_function_recursion_config" else None

    make(aws)

    assert sorted(a["FunctionName"] for a in asked) == sorted(NAMES.functions)
    assert {a["RecursiveLoop"] for a in asked} == {"Allow"}


def test_a_role_of_ones_own_is_used_and_none_is_made(aws: Aws) -> None:
    role = "arn:aws:iam::123456789012:role/mine"
    iam = boto3.client("iam")
    iam.create_role(RoleName="mine", AssumeRolePolicyDocument=json.dumps(trust_policy("123456789012")))

    make(aws, StackSettings(role_arn=role))

    found = boto3.client("lambda", region_name=REGION).get_function_configuration(FunctionName=NAMES.list_function)
    assert found["Role"] == role
    assert iam.list_roles(PathPrefix="/s3bulkcopy/")["Roles"] == []


CREATIONS = [
    "sqs.create_queue",
    "logs.create_log_group",
    "logs.put_retention_policy",
    "iam.create_role",
    "iam.put_role_policy",
    "lambda.create_function",
    "lambda.get_function_configuration",
    "lambda.put_function_recursion_config",
    "lambda.create_event_source_mapping",
    "sqs.get_queue_attributes",
]


def steps(aws: Aws) -> list[tuple[str, int]]:
    """Give every call of a deployment that could fail: its operation, and its number among those of the same."""
    make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)
    calls = [name for name in aws.calls[: aws.calls.index("sqs.get_queue_attributes") + 1] if name in CREATIONS]
    return [(name, calls[:n].count(name)) for n, name in enumerate(calls)]


def test_after_a_failure_at_any_step_nothing_is_left(aws: Aws) -> None:
    seen = steps(aws)
    assert {name for name, _ in seen} == set(CREATIONS)

    for operation, number in seen:
        count = iter(range(100))

        def fail(name: str, _: dict[str, Any], operation: str = operation, number: int = number, count: Any = count) -> None:
            if name == operation and next(count) == number:
                raise refusal("InternalError", "broken")

        aws.before = fail
        with pytest.raises(S3BulkCopyError, match="broken"):
            make(aws)
        aws.before = silently_called
        done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)
        assert (done.left, leftovers()) == ((), []), (operation, number)


def silently_called(_name: str, _arguments: dict[str, Any]) -> None:
    """Let a call pass."""


UNPREPARED = "The role defined for the function cannot be assumed by Lambda."
UNPERMITTED = "The function execution role does not have permissions to call ReceiveMessage on SQS"
PENDING = "The operation cannot be performed: the function is currently in the following state: Pending"


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("lambda.create_function", "InvalidParameterValueException", UNPREPARED),
        ("lambda.create_event_source_mapping", "InvalidParameterValueException", UNPERMITTED),
        ("iam.put_role_policy", "NoSuchEntity", "The role cannot be found."),
        ("sqs.create_queue", "AWS.SimpleQueueService.QueueDeletedRecently", "You must wait 60 seconds"),
        ("lambda.put_function_recursion_config", "ResourceConflictException", PENDING),
    ],
)
def test_what_is_known_to_pass_is_asked_again(aws: Aws, operation: str, code: str, message: str) -> None:
    refusals = iter([True, True])

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == operation and next(refusals, False):
            raise refusal(code, message)

    aws.before = refuse

    assert make(aws).message_bytes == 1_048_576


def test_anything_else_stops_at_once(aws: Aws) -> None:
    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.create_function":
            raise refusal("CodeStorageExceededException", "Code storage limit exceeded.", "CreateFunction")

    aws.before = refuse

    with pytest.raises(DeployFailed, match="Code storage limit exceeded"):
        make(aws)
    assert aws.calls.count("lambda.create_function") <= 2  # one for each function


def test_a_denied_action_is_named_with_what_it_was_for(aws: Aws) -> None:
    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "iam.create_role":
            raise refusal("AccessDenied", "User someone is not authorized", "CreateRole")

    aws.before = refuse

    with pytest.raises(NotPermitted, match=r"making s3bulkcopy-.*iam:CreateRole is denied: User someone"):
        make(aws)


def test_a_region_that_takes_only_smaller_messages_is_served(aws: Aws) -> None:
    def refuse(name: str, arguments: dict[str, Any]) -> None:
        if name == "sqs.create_queue" and arguments["Attributes"].get("MaximumMessageSize") == "1048576":
            raise refusal("InvalidAttributeValue", "Invalid value for the parameter MaximumMessageSize.")
        if name == "sqs.get_queue_attributes":
            sqs = boto3.client("sqs", region_name=REGION)  # moto's own default is what AWS's is today
            sqs.set_queue_attributes(QueueUrl=arguments["QueueUrl"], Attributes={"MaximumMessageSize": "262144"})

    aws.before = refuse

    assert make(aws).message_bytes == 262_144


def test_a_function_of_that_name_in_the_way_is_named_and_survives(aws: Aws) -> None:
    iam = boto3.client("iam")
    role = iam.create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(trust_policy("123456789012")))["Role"]["Arn"]
    boto3.client("lambda", region_name=REGION).create_function(
        FunctionName=NAMES.list_function, Runtime="python3.13", Role=role, Handler="a.b", Code={"ZipFile": bundle.build()}
    )

    with pytest.raises(NameTaken, match=NAMES.list_function) as error:
        make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently, leave=frozenset({error.value.resource}))

    assert leftovers() == [NAMES.list_function]


def test_a_queue_of_that_name_in_the_way_is_named_and_survives(aws: Aws) -> None:
    boto3.client("sqs", region_name=REGION).create_queue(QueueName=NAMES.queues["copy"], Attributes={"VisibilityTimeout": "7"})

    with pytest.raises(NameTaken, match=NAMES.queues["copy"]):
        make(aws)
    done = teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)

    assert leftovers() == [NAMES.queues["copy"]]
    assert [(left.name, left.why) for left in done.left] == [(NAMES.queues["copy"], "not tagged as this run's, so left alone")]


def test_a_role_of_that_name_in_the_way_is_named_and_survives(aws: Aws) -> None:
    trust = json.dumps(trust_policy("123456789012"))
    boto3.client("iam").create_role(RoleName=NAMES.stem, Path="/s3bulkcopy/", AssumeRolePolicyDocument=trust)

    with pytest.raises(NameTaken, match=NAMES.stem) as error:
        make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently, leave=frozenset({error.value.resource}))

    assert leftovers() == [NAMES.stem]


def test_a_log_group_of_that_name_in_the_way_is_named_and_survives(aws: Aws) -> None:
    (group, _) = NAMES.log_groups
    boto3.client("logs", region_name=REGION).create_log_group(logGroupName=group)

    with pytest.raises(NameTaken, match=group) as error:
        make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently, leave=frozenset({error.value.resource}))

    assert leftovers() == [group]


@pytest.mark.parametrize(
    ("service", "creation", "code"),
    [
        ("sqs", "create_queue", None),
        ("logs", "create_log_group", None),
        ("iam", "create_role", None),
        ("lambda", "create_function", None),
        ("lambda", "create_event_source_mapping", "ResourceConflictException"),
    ],
)
def test_what_was_made_by_a_request_whose_answer_was_lost_is_this_runs(
    aws: Aws, service: str, creation: str, code: str | None
) -> None:
    lost = iter([True])

    def lose(name: str, arguments: dict[str, Any]) -> None:
        if name == f"{service}.{creation}" and next(lost, False):
            getattr(boto3.client(service, region_name=REGION), creation)(**arguments)
            if code:  # moto makes a second one where AWS refuses
                raise refusal(code, "already exists", creation)

    aws.before = lose

    assert make(aws).message_bytes == 1_048_576
    assert len(leftovers()) == 12
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)
    assert leftovers() == []


def test_what_never_comes_to_pass_is_given_up_after_two_minutes(aws: Aws) -> None:
    refused: dict[int, str] = {}
    slept: defaultdict[str, float] = defaultdict(float)

    def refuse(name: str, arguments: dict[str, Any]) -> None:
        if name == "lambda.create_function":
            refused[threading.get_ident()] = arguments["FunctionName"]
            raise refusal("InvalidParameterValueException", UNPREPARED, "CreateFunction")

    def sleep(seconds: float) -> None:
        slept[refused[threading.get_ident()]] += seconds  # a thread may serve several functions

    aws.before = refuse

    with pytest.raises(DeployFailed, match="cannot be assumed by Lambda"):
        deploy(stack(), aws, bundle.build(), say=silently, sleep=sleep)
    assert 120 <= max(slept.values()) < 130


def test_after_a_failure_nothing_is_waited_for(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, abandoned = threading.Event(), threading.Event()
    slept: list[float] = []

    def refuse(name: str, arguments: dict[str, Any]) -> None:
        if name == "lambda.create_function" and arguments["FunctionName"] == NAMES.copy_function:
            raise refusal("InvalidParameterValueException", UNPREPARED, "CreateFunction")
        if name == "lambda.create_function":
            assert waiting.wait(60)
            raise refusal("CodeStorageExceededException", "Code storage limit exceeded.", "CreateFunction")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        waiting.set()
        assert abandoned.wait(60)

    abandon = _Maker.abandon

    def abandon_and_tell(maker: _Maker) -> None:
        abandon(maker)
        abandoned.set()

    monkeypatch.setattr(_Maker, "abandon", abandon_and_tell)
    aws.before = refuse

    with pytest.raises(DeployFailed, match="Code storage limit exceeded"):
        deploy(stack(), aws, bundle.build(), say=silently, sleep=sleep)
    assert len(slept) == 1


def test_a_function_that_stays_pending_is_not_taken_for_someone_elses(aws: Aws) -> None:
    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.put_function_recursion_config":
            raise refusal("ResourceConflictException", PENDING, "PutFunctionRecursionConfig")

    aws.before = refuse

    with pytest.raises(DeployFailed, match="Pending") as error:
        make(aws)
    assert not isinstance(error.value, NameTaken)


def test_a_function_that_does_not_opt_out_of_the_loop_detection_is_an_error(aws: Aws) -> None:
    aws.recursive_loop = "Terminate"

    with pytest.raises(DeployFailed, match="did not take RecursiveLoop=Allow"):
        make(aws)


def test_a_refusal_names_the_action_that_aws_names(aws: Aws) -> None:
    said = "User: arn:aws:iam::123456789012:user/someone is not authorized to perform: iam:PassRole on resource: arn:aws:…"

    def refuse(name: str, _: dict[str, Any]) -> None:
        if name == "lambda.create_function":
            raise refusal("AccessDeniedException", said, "CreateFunction")

    aws.before = refuse

    with pytest.raises(NotPermitted, match="iam:PassRole is denied") as error:
        make(aws)
    assert error.value.hint.startswith("allow iam:PassRole;")


def test_an_interruption_lets_running_creations_end_and_begins_no_more(aws: Aws) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(stack(), aws, bundle.build(), say=say, sleep=silently)

    assert "lambda.create_event_source_mapping" not in aws.calls
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently)
    assert leftovers() == []
