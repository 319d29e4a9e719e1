"""What is decided about AWS before anything is asked of it: names, tags, policies, the bundle."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.aws import bundle, policy, stack
from s3bulkcopy.aws.preflight import check_overlap
from s3bulkcopy.aws.session import Identity
from s3bulkcopy.errors import UsageError
from s3bulkcopy.settings import BucketPrefix, StackSettings
from s3bulkcopy.worker.model import Job, Location

RUN = "20261123-121632-k3f9xa"
JOB = Job(RUN, Location("src", "in*/${x}?", "us-east-1", ""), Location("dst", "out/", "eu-west-1", ""))
WHO = Identity("123456789012", "arn:aws-cn:iam::123456789012:user/x")
NAMES = stack.Names(RUN)


def planned(settings: StackSettings | None = None) -> stack.Stack:
    return stack.plan(JOB, WHO, "eu-west-1", settings or StackSettings(), "0.1.0", "2026-11-23T12:16:32Z")


# --------------------------------------------------------------------------------------------------------------- bundle


def test_two_builds_give_equal_bytes() -> None:
    assert bundle.build() == bundle.build()


def test_the_bundle_holds_the_worker_and_nothing_else() -> None:
    names = zipfile.ZipFile(io.BytesIO(bundle.build())).namelist()

    assert names == sorted(names)
    assert [name for name in names if not re.fullmatch(r"s3bulkcopy/worker/\w+\.py", name)] == ["s3bulkcopy/__init__.py"]
    assert {"s3bulkcopy/worker/__init__.py", "s3bulkcopy/worker/handler.py"} <= set(names)


def test_the_bundle_has_a_few_tens_of_kilobytes_and_no_time_of_its_own() -> None:
    archive = zipfile.ZipFile(io.BytesIO(bundle.build()))

    assert len(bundle.build()) < 60_000
    assert {(entry.date_time, entry.external_attr >> 16) for entry in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 0o644)}


# ---------------------------------------------------------------------------------------------------------------- names


@given(st.floats(0, 4e9), st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=6))
def test_every_name_tells_its_run_and_fits_its_service(now: float, token: str) -> None:
    run_id = stack.new_run_id(now, token)
    names = stack.Names(run_id)

    assert stack.is_run_id(run_id)
    every = (*names.queues.values(), *names.functions, names.stem, *names.log_groups)
    assert {stack.run_id_of(name) for name in every} == {run_id}
    assert max(map(len, (*names.functions, names.stem))) <= 64
    assert max(map(len, names.queues.values())) <= 80


@given(st.text())
def test_a_name_that_is_not_ours_tells_no_run(name: str) -> None:
    assert stack.run_id_of(name) is None or stack.PREFIX in name


def test_run_ids_sort_by_time() -> None:
    assert stack.new_run_id(0, "zzzzzz") < stack.new_run_id(1, "aaaaaa")


# ----------------------------------------------------------------------------------------------------------------- tags


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_tag_that_fits_is_read_back_as_it_was(text: str) -> None:
    encoded = stack.encode_tag(text)

    assert re.fullmatch(r"[A-Za-z0-9 _.:/=+\-@]*", encoded)
    if not encoded.endswith("..."):
        assert stack.decode_tag(encoded) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=100, max_size=1024))
def test_any_text_makes_a_tag_that_fits(text: str) -> None:
    assert len(stack.encode_tag(text)) <= 256
    assert "\ufffd" not in stack.decode_tag(stack.encode_tag(text.replace("\ufffd", "")))[:-4]


def test_tags_tell_what_a_run_does() -> None:
    assert dict(planned(StackSettings(tags=(("team", "storage"),))).tags) == {
        "team": "storage",
        "s3bulkcopy:run": RUN,
        "s3bulkcopy:source": "s3://src/in@2a/@24@7bx@7d@3f",
        "s3bulkcopy:destination": "s3://dst/out/",
        "s3bulkcopy:region": "eu-west-1",
        "s3bulkcopy:version": "0.1.0",
        "s3bulkcopy:created": "2026-11-23T12:16:32Z",
    }


# ----------------------------------------------------------------------------------------------------------------- plan


def test_every_resource_comes_after_those_it_needs_and_names_are_unique() -> None:
    made: set[str] = set()
    for resource in planned().resources:
        assert made.issuperset(resource.needs)
        assert resource.name not in made
        made.add(resource.name)
    assert len(made) == 12


def test_the_default_mappings_stay_within_a_new_accounts_quota() -> None:
    mappings = [r for r in planned().resources if isinstance(r, stack.EventMapping)]

    assert sum(m.concurrency for m in mappings) <= 10
    assert all(m.concurrency >= 2 and m.batch_messages <= 10 for m in mappings)


def test_queues_outlast_their_function_and_have_dead_letters_of_their_own() -> None:
    queues = {r.name: r for r in planned(StackSettings(timeout_seconds=60)).resources if isinstance(r, stack.Queue)}

    for kind in ("list", "copy"):
        queue = queues[NAMES.queues[kind]]
        assert (queue.visibility_seconds, queue.dead_letters) == (90, NAMES.queues[f"{kind}-dead"])


def test_a_role_of_ones_own_replaces_the_runs() -> None:
    resources = planned(StackSettings(role_arn="arn:aws:iam::1:role/mine")).resources

    assert not [r for r in resources if isinstance(r, stack.Role)]
    assert {r.role_arn for r in resources if isinstance(r, stack.Function)} == {"arn:aws:iam::1:role/mine"}


# --------------------------------------------------------------------------------------------------------------- policy


def test_workers_may_do_what_they_do_and_nothing_else() -> None:
    document = policy.worker_policy(JOB, NAMES, "123456789012", "aws-cn", "eu-west-1")

    allowed = {s["Sid"]: (s["Action"], s["Resource"], s.get("Condition")) for s in document["Statement"]}
    queue = f"arn:aws-cn:sqs:eu-west-1:123456789012:s3bulkcopy-{RUN}"
    group = f"arn:aws-cn:logs:eu-west-1:123456789012:log-group:/aws/lambda/s3bulkcopy-{RUN}"
    prefix = "in${*}/${$}{x}${?}"
    assert allowed == {
        "List": (["s3:ListBucket"], ["arn:aws-cn:s3:::src"], {"StringLike": {"s3:prefix": f"{prefix}*"}}),
        "Read": (["s3:GetObject", "s3:GetObjectTagging"], [f"arn:aws-cn:s3:::src/{prefix}*"], None),
        "Write": (["s3:PutObject", "s3:PutObjectTagging"], ["arn:aws-cn:s3:::dst/out/*"], None),
        "Send": (policy.SEND, [f"{queue}-list", f"{queue}-copy", f"{queue}-reports"], None),
        "Receive": (
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"],
            [f"{queue}-list", f"{queue}-copy"],
            None,
        ),
        "Log": (["logs:CreateLogStream", "logs:PutLogEvents"], [f"{group}-lister:*", f"{group}-copier:*"], None),
    }


def test_a_whole_bucket_is_listed_without_a_condition() -> None:
    whole = replace(JOB, source=replace(JOB.source, prefix=""))

    statement = policy.worker_policy(whole, NAMES, "1", "aws", "r")["Statement"][0]

    assert "Condition" not in statement


def test_braked_workers_may_neither_read_write_nor_send() -> None:
    document = policy.braked_policy(NAMES, "1", "aws", "r")

    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert not [action for action in actions if action.startswith("s3:") or "Send" in action]
    assert "sqs:DeleteMessage" in actions


def test_only_lambda_in_this_account_may_take_on_the_role() -> None:
    (statement,) = policy.trust_policy("123456789012")["Statement"]

    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


# -------------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("source", "destination", "fine"),
    [
        (("a", ""), ("b", ""), True),
        (("a", "x/"), ("a", "y/"), True),
        (("a", ""), ("a", ""), False),
        (("a", "x"), ("a", "x"), False),
        (("a", "x/"), ("a", "x/y/"), False),
        (("a", "x/y/"), ("a", "x/"), False),
        (("a", ""), ("a", "x"), False),
        (("a", "x"), ("a", "x2"), False),
        (("a", "x1"), ("a", "x2"), True),
    ],
)
def test_a_job_that_would_read_what_it_writes_is_refused(
    source: tuple[str, str], destination: tuple[str, str], *, fine: bool
) -> None:
    if fine:
        check_overlap(BucketPrefix(*source), BucketPrefix(*destination))
    else:
        with pytest.raises(UsageError, match=r"overlap|same"):
            check_overlap(BucketPrefix(*source), BucketPrefix(*destination))
