"""Finding runs: what is seen, what is passed over, and what stops the look."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from s3bulkcopy.aws import bundle
from s3bulkcopy.aws.deploy import Deployed, deploy
from s3bulkcopy.aws.discover import QueueDepth, depths, find_run, find_runs, mapping_state, queue_urls
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.aws.teardown import teardown
from s3bulkcopy.errors import NotPermitted, S3BulkCopyError
from tests.moto.conftest import REGION, RUN_ID, Aws, refusal, silently, stack

EARLIER = "20251231-235959-zzzzzz"
NAMES = Names(RUN_ID)


def make(aws: Aws, run_id: str = RUN_ID) -> Deployed:
    return deploy(stack(run_id=run_id), aws, bundle.build(), say=silently, sleep=silently)


def test_an_empty_account_has_no_runs(aws: Aws) -> None:
    assert find_runs(aws, REGION) == []
    assert find_run(aws, REGION, RUN_ID) is None


def test_the_oldest_run_comes_first(aws: Aws) -> None:
    make(aws)
    make(aws, EARLIER)

    assert [found.run_id for found in find_runs(aws, REGION)] == [EARLIER, RUN_ID]


def test_one_run_is_found_among_others(aws: Aws) -> None:
    make(aws)
    make(aws, EARLIER)

    found = find_run(aws, REGION, EARLIER)

    assert found is not None
    assert {Names(EARLIER).stem in thing.name for thing in found.resources} == {True}


def test_what_is_named_otherwise_is_passed_over(aws: Aws) -> None:
    sqs = boto3.client("sqs", region_name=REGION)
    for name in ("other", "s3bulkcopy-notes", f"s3bulkcopy-{RUN_ID}longer-list"):
        sqs.create_queue(QueueName=name)

    assert find_runs(aws, REGION) == []


def test_a_role_whose_run_is_in_another_region_is_not_shown(aws: Aws) -> None:
    make(aws)

    assert find_runs(aws, "us-west-2") == []


def test_a_role_that_is_all_that_a_run_left_is_shown(aws: Aws) -> None:
    make(aws)
    teardown(aws, REGION, RUN_ID, say=silently, sleep=silently, leave=frozenset({NAMES.stem}))

    (found,) = find_runs(aws, REGION)

    assert [(thing.kind, thing.name) for thing in found.resources] == [("role", NAMES.stem)]
    assert (found.source, found.depths, found.mappings) == ("s3://source/in/ø", {}, {})


def test_a_mapping_whose_function_is_gone_is_found_by_its_queue(aws: Aws) -> None:
    make(aws)
    client = boto3.client("lambda", region_name=REGION)
    mappings = {m["UUID"] for m in client.list_event_source_mappings()["EventSourceMappings"]}
    client.delete_function(FunctionName=NAMES.copy_function)

    found = find_run(aws, REGION, RUN_ID)

    assert found is not None
    assert {thing.id for thing in found.resources if thing.kind == "mapping"} == mappings
    assert NAMES.copy_function not in [thing.name for thing in found.resources if thing.kind == "function"]


def test_a_mapping_that_is_not_there_is_gone(aws: Aws) -> None:
    assert mapping_state(aws, REGION, "11111111-2222-3333-4444-555555555555") == "Gone"


def test_depths_tell_what_waits_and_what_is_in_hand(aws: Aws) -> None:
    urls = make(aws).queue_urls
    sqs = boto3.client("sqs", region_name=REGION)
    for body in ("one", "two", "three"):
        sqs.send_message(QueueUrl=urls["reports"], MessageBody=body)
    sqs.receive_message(QueueUrl=urls["reports"], MaxNumberOfMessages=1)

    assert depths(aws, REGION, urls) == {**dict.fromkeys(urls, QueueDepth(0, 0)), "reports": QueueDepth(2, 1)}


def test_dead_letters_are_counted(aws: Aws) -> None:
    urls = make(aws).queue_urls
    boto3.client("sqs", region_name=REGION).send_message(QueueUrl=urls["copy-dead"], MessageBody="poison")

    found = find_run(aws, REGION, RUN_ID)

    assert found is not None
    assert found.dead_letters == 1


def test_a_queue_that_is_gone_is_left_out(aws: Aws) -> None:
    urls = make(aws).queue_urls
    boto3.client("sqs", region_name=REGION).delete_queue(QueueUrl=urls["list"])

    assert set(depths(aws, REGION, urls)) == set(queue_urls(aws, REGION, NAMES)) == set(urls) - {"list"}


def test_runs_are_found_without_the_right_to_list_roles(aws: Aws) -> None:
    make(aws)
    aws.before = refuse("iam.list_roles", "AccessDenied", "ListRoles")

    (found,) = find_runs(aws, REGION)

    assert len(found.resources) == 11


def test_a_denied_look_is_named(aws: Aws) -> None:
    aws.before = refuse("sqs.list_queues", "AccessDenied", "ListQueues")

    with pytest.raises(NotPermitted, match=f"looking for runs in {REGION}: sqs:ListQueues is denied"):
        find_runs(aws, REGION)


def test_a_look_that_fails_otherwise_is_no_empty_account(aws: Aws) -> None:
    aws.before = refuse("iam.list_roles", "ServiceFailure", "ListRoles")

    with pytest.raises(S3BulkCopyError, match="ServiceFailure"):
        find_runs(aws, REGION)


def let_pass(_name: str, _arguments: dict[str, Any]) -> None:
    """Let a call pass."""


def refuse(operation: str, code: str, action: str = "CreateQueue") -> Any:
    """Give a `before` that refuses one operation."""

    def before(name: str, _: dict[str, Any]) -> None:
        if name == operation:
            raise refusal(code, "no", action)

    return before
