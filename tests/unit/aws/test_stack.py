"""The stack: names, tags and resources as data."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.aws.session import Identity
from s3bulkcopy.aws.stack import (
    MAX_TAG_CHARS,
    EventMapping,
    Function,
    Names,
    Queue,
    Role,
    Stack,
    decode_tag,
    describe,
    encode_tag,
    is_run_id,
    new_run_id,
    plan,
    run_id_of,
    tags_for,
)
from s3bulkcopy.settings import StackSettings
from s3bulkcopy.worker.model import Job, Location
from s3bulkcopy.worker.properties import Policy

RUN_ID = "20261123-121632-k3f9xa"
CREATED = "2026-11-23T12:16:32Z"
JOB = Job(
    RUN_ID,
    Location("source", "in/", "us-east-1", "https://source.s3.amazonaws.com"),
    Location("destination", "out/", "eu-west-1", "https://destination.s3.eu-west-1.amazonaws.com"),
)
IDENTITY = Identity("123456789012", "arn:aws:iam::123456789012:user/someone")

tokens = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=6)
times = st.integers(0, 4_000_000_000)


def stack(settings: StackSettings | None = None, identity: Identity = IDENTITY) -> Stack:
    return plan(JOB, identity, "eu-west-1", settings or StackSettings(), "0.1.0", CREATED)


# ---------------------------------------------------------------------------------------------------------------- names


@given(times, times, tokens, tokens)
def test_run_ids_sort_by_time(one: int, other: int, token: str, another: str) -> None:
    earlier, later = sorted((one, other))

    assert earlier == later or new_run_id(earlier, token) < new_run_id(later, another)


@given(times, tokens)
def test_every_name_tells_its_run(now: int, token: str) -> None:
    run_id = new_run_id(now, token)
    names = Names(run_id)

    assert is_run_id(run_id)
    assert len(run_id) <= 24
    every = [names.stem, *names.queues.values(), *names.functions, *names.log_groups]
    assert {run_id_of(name) for name in every} == {run_id}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "s3bulkcopy-",
        "s3bulkcopy-20261123-121632",
        f"x-s3bulkcopy-{RUN_ID}",
        f"s3bulkcopy-{RUN_ID}b-list",
        f"{RUN_ID}-s3bulkcopy-list",
        f"/aws/other/s3bulkcopy-{RUN_ID}-lister",
    ],
)
def test_another_name_tells_no_run(name: str) -> None:
    assert run_id_of(name) is None


@pytest.mark.parametrize("text", ["", RUN_ID.upper(), f"{RUN_ID}\n", f"{RUN_ID}0", f" {RUN_ID}", RUN_ID.replace("2", "٢")])
def test_what_only_looks_like_a_run_id_is_none(text: str) -> None:
    assert not is_run_id(text)


def test_names_fit_the_shortest_limits_of_aws() -> None:
    longest = {Queue: 80, Function: 64, Role: 64}  # characters: SQS, Lambda and IAM quotas

    assert all(len(r.name) <= longest.get(type(r), 512) for r in stack().resources)


# ----------------------------------------------------------------------------------------------------------------- tags


@given(st.text())
def test_a_tag_is_read_back_as_far_as_it_fits(text: str) -> None:
    tag = encode_tag(text)

    assert len(tag) <= MAX_TAG_CHARS
    assert re.fullmatch(r"[A-Za-z0-9 _.:/=+\-@]*", tag)
    kept = decode_tag(tag)
    assert kept == text or (tag.endswith("...") and text.startswith(kept.removesuffix("...")))


@given(st.text(max_size=MAX_TAG_CHARS // 12))
def test_a_short_text_is_read_back_whole(text: str) -> None:
    assert decode_tag(encode_tag(text)) == text


def test_a_long_text_is_cut_between_characters() -> None:
    assert decode_tag(encode_tag("日" * 100)) == "日" * 28 + "..."


def test_the_users_tags_stand_beside_ours_and_cannot_take_their_place() -> None:
    settings = StackSettings(tags=(("team", "storage"), ("s3bulkcopy:run", "mine")))

    assert tags_for(JOB, settings, "0.1.0", CREATED, "arn:aws:sts::1:assumed-role/x/a@b") == {
        "team": "storage",
        "s3bulkcopy:run": RUN_ID,
        "s3bulkcopy:source": "s3://source/in/",
        "s3bulkcopy:destination": "s3://destination/out/",
        "s3bulkcopy:region": "eu-west-1",
        "s3bulkcopy:version": "0.1.0",
        "s3bulkcopy:created": CREATED,
        "s3bulkcopy:owner": "arn:aws:sts::1:assumed-role/x/a@40b",
        "s3bulkcopy:overwrite": "yes",
    }


def test_tags_tell_that_copies_are_not_as_s3_makes_them_by_itself() -> None:
    pinned, own = (JOB._replace(policy=policy) for policy in (Policy(destination_owner="1"), Policy(tags="drop")))

    told = [tags_for(job, StackSettings(), "", "", "").get("s3bulkcopy:properties") for job in (JOB, pinned, own)]
    assert told == [None, None, "own"]


# ------------------------------------------------------------------------------------------------------------ resources


def test_what_a_resource_needs_is_planned_before_it() -> None:
    planned: set[str] = set()
    for resource in stack().resources:
        assert planned.issuperset(resource.needs), resource.name
        planned.add(resource.name)


def test_every_name_is_planned_once() -> None:
    names = [resource.name for resource in stack().resources]

    assert len(names) == len(set(names)) == 12


@given(st.integers(10, 900))
def test_a_message_stays_invisible_for_longer_than_its_function_may_run(timeout_seconds: int) -> None:
    resources = stack(StackSettings(timeout_seconds=timeout_seconds)).resources

    longest = max(r.timeout_seconds for r in resources if isinstance(r, Function))
    assert {r.visibility_seconds - longest for r in resources if isinstance(r, Queue)} == {30}


def test_batches_need_no_batching_window() -> None:
    assert all(r.batch_messages <= 10 for r in stack().resources if isinstance(r, EventMapping))


def test_a_mapping_feeds_each_queue_to_its_own_function() -> None:
    names = Names(RUN_ID)

    mappings = [r for r in stack().resources if isinstance(r, EventMapping)]

    assert {(m.queue, m.function, m.concurrency) for m in mappings} == {
        (names.queues["list"], names.list_function, 2),
        (names.queues["copy"], names.copy_function, 6),
    }


def test_work_queues_hand_dead_letters_to_queues_of_their_own() -> None:
    found = {r.name: r.dead_letters for r in stack().resources if isinstance(r, Queue) and r.dead_letters}

    queues = Names(RUN_ID).queues
    assert found == {queues["list"]: queues["list-dead"], queues["copy"]: queues["copy-dead"]}


def test_with_a_role_of_ones_own_none_is_planned() -> None:
    given_role = "arn:aws:iam::123456789012:role/mine"

    resources = stack(StackSettings(role_arn=given_role)).resources

    assert not [r for r in resources if isinstance(r, Role)]
    assert {r.role_arn for r in resources if isinstance(r, Function)} == {given_role}


def test_the_role_is_in_the_callers_partition() -> None:
    china = replace(IDENTITY, arn="arn:aws-cn:iam::123456789012:user/someone")

    found = {r.role_arn for r in stack(identity=china).resources if isinstance(r, Function)}

    assert found == {f"arn:aws-cn:iam::123456789012:role/s3bulkcopy/s3bulkcopy-{RUN_ID}"}


def test_a_plan_can_be_read() -> None:
    stem = f"s3bulkcopy-{RUN_ID}"
    lines = describe(stack())

    assert lines[0] == "in account 123456789012, eu-west-1:"
    assert len(lines) == 13
    assert f"  queue {stem}-copy: 150 s of visibility timeout, 5 deliveries, then to {stem}-copy-dead" in lines
    assert f"  log group /aws/lambda/{stem}-copier: kept for 14 days" in lines
    assert f"  role /s3bulkcopy/{stem}" in lines
    role = f"arn:aws:iam::123456789012:role/s3bulkcopy/{stem}"
    assert f"  function {stem}-copier: python3.13 on arm64, 512 MiB, 120 s, as {role}" in lines
    assert f"  mapping of {stem}-copy to {stem}-copier: 4 messages an invocation, 6 invocations at most" in lines
