"""Invocations of the Lambda functions, with an S3 and an SQS that answer in virtual time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.handler import Environment
from s3bulkcopy.worker.model import (
    CopyTask,
    Counts,
    Done,
    Failure,
    Fatal,
    ListTask,
    Nothing,
    Range,
    Task,
    Trouble,
    decode_event,
    decode_task,
    encode_task,
)
from tests.unit.worker.worker_fakes import DENIED, JOB, QUEUES, SLOW_DOWN, FakeS3, FakeSqs, error, item, run

if TYPE_CHECKING:
    from s3bulkcopy.worker.http import Response

ALL = Range("", None)
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
    "AWS_REGION": "eu-west-1",
    **{f"S3BULKCOPY_{name.upper()}_QUEUE": url for name, url in QUEUES.items()},
}


@dataclass
class World:
    """One environment, and what is around it."""

    s3: FakeS3
    sqs: FakeSqs = field(default_factory=FakeSqs)
    expired: bool = False
    seconds: float = 0.0

    def invoke(self, *events: dict[str, Any], seconds_left: float = 60.0) -> list[dict[str, Any]]:
        """Invoke the environment, one event after another."""

        async def main() -> list[dict[str, Any]]:
            environment = Environment(VARIABLES, s3=self.s3.client(), sqs=self.sqs.client())
            answers = []
            for event in events:
                began = aio.get_running_loop().time()
                answers.append(await environment.invoke(event, seconds_left))
                assert aio.all_tasks() == {aio.current_task()}
                self.seconds = aio.get_running_loop().time() - began
            self.expired = environment.expired
            return answers

        return run(main())

    @property
    def reports(self) -> list[Done | Trouble | Fatal | Nothing]:
        return [decode_event(body) for body in self.sqs.sent["reports"]]

    @property
    def tasks(self) -> list[Task | Nothing]:
        return [decode_task(body) for queue in ("list", "copy") for body in self.sqs.sent[queue]]


def batch(*bodies: str | Task | Nothing, queue: str = "copy", number: int = 1) -> dict[str, Any]:
    """Make the event of a batch of messages, named m0, m1 and so on."""
    return {
        "Records": [
            {
                "messageId": f"m{n}",
                "receiptHandle": f"r{n}",
                "body": body if isinstance(body, str) else encode_task(body),
                "attributes": {"ApproximateReceiveCount": str(number)},
                "eventSourceARN": f"arn:aws:sqs:eu-west-1:123456789012:run-{queue}",
            }
            for n, body in enumerate(bodies)
        ]
    }


def failed(*names: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


COPY_A = CopyTask("x.0", JOB, (item("a"),))
COPY_B = CopyTask("x.1", JOB, (item("b"),))


def test_a_good_batch_is_forgotten_by_the_queue_and_each_task_reported() -> None:
    world = World(FakeS3.of([item("a"), item("b")]))

    assert world.invoke(batch(COPY_A, COPY_B)) == [failed()]
    counts = Counts(copied=1, copied_bytes=1, copy_requests=1)
    done = [event for event in world.reports if isinstance(event, Done)]
    assert [(e.id, e.attempt.number, e.children, e.counts, e.failures) for e in done] == [
        ("x.0", 1, 0, counts, ()),
        ("x.1", 1, 0, counts, ()),
    ]
    assert len({event.attempt.nonce for event in done}) == 2
    assert world.sqs.visibility == []


def test_a_list_task_sends_its_children_to_their_queues() -> None:
    found = [item(f"k{n}") for n in range(5)]
    world = World(FakeS3.of(found, page_keys=1))
    task = ListTask("run.0", JOB, (ALL,))

    assert world.invoke(batch(task, queue="list")) == [failed()]
    [done] = world.reports
    assert isinstance(done, Done)
    assert (done.id, done.counts.listed, done.children) == ("run.0", 5, 1)
    assert world.tasks == [CopyTask(f"{done.attempt.nonce}.0", JOB, tuple(found))]


def test_a_message_that_is_no_task_is_reported_as_failed_and_delivered_again_soon() -> None:
    world = World(FakeS3.of([item("a")]))

    assert world.invoke(batch("{", COPY_A)) == [failed("m0")]
    [(queue, receipt, seconds)] = world.sqs.visibility
    assert (queue, receipt) == ("copy", "r0")
    assert 1 <= seconds <= 60
    assert len(world.reports) == 1


def test_a_message_of_nothing_is_accepted_silently() -> None:
    world = World(FakeS3())

    assert world.invoke(batch(Nothing())) == [failed()]
    assert (world.reports, world.sqs.visibility) == ([], [])


def test_a_task_that_fails_is_reported_as_trouble_and_the_others_are_done() -> None:
    world = World(FakeS3.of([item("a")], list_faults=[SLOW_DOWN] * 1000))
    bad = ListTask("x.9", JOB, (ALL,))

    assert world.invoke(batch(bad, COPY_A, queue="list", number=4)) == [failed("m0")]
    [done] = [event for event in world.reports if isinstance(event, Done)]
    [trouble] = [event for event in world.reports if isinstance(event, Trouble)]
    assert (done.id, trouble.id, trouble.attempt.number) == ("x.0", "x.9", 4)
    assert "listing s3://source: SlowDown" in trouble.cause
    assert [(queue, receipt) for queue, receipt, _ in world.sqs.visibility] == [("list", "r0")]


def test_a_stop_is_reported_as_fatal_and_the_message_kept() -> None:
    world = World(FakeS3(list_faults=[error(404, "NoSuchBucket", "It is not there")]))

    assert world.invoke(batch(ListTask("x.9", JOB, (ALL,)), queue="list")) == [failed("m0")]
    [fatal] = world.reports
    assert isinstance(fatal, Fatal)
    assert (fatal.id, fatal.kind, fatal.cause) == ("x.9", "not_found", "NoSuchBucket: It is not there")


def test_a_child_that_the_queue_does_not_take_fails_the_task() -> None:
    world = World(FakeS3.of([item("a")]), FakeSqs(refuse=lambda queue, _body: "AccessDenied" if queue == "copy" else None))

    assert world.invoke(batch(ListTask("x.9", JOB, (ALL,)), queue="list")) == [failed("m0")]
    assert [type(event) for event in world.reports] == [Trouble]


def test_a_report_that_the_queue_does_not_take_fails_the_task() -> None:
    world = World(FakeS3.of([item("a")]), FakeSqs(refuse=lambda _queue, _body: "InvalidMessageContents"))

    assert world.invoke(batch(COPY_A)) == [failed("m0")]


def test_an_invocation_ends_in_time_whatever_does_not_answer() -> None:
    world = World(FakeS3.of([item("a")]), FakeSqs(faults=[TimeoutError("late")] * 1000))
    world.s3.copy_faults["a"] = [TimeoutError("late")] * 1000

    assert world.invoke(batch(COPY_A, COPY_A, COPY_A), seconds_left=30.0) == [failed("m0", "m1", "m2")]
    assert world.seconds <= 30.0


def test_what_is_not_copied_in_time_is_handed_on() -> None:
    found = tuple(item(f"k{n:04}") for n in range(100))
    world = World(FakeS3.of(found, copy_rule=lambda key, _n: SLOW_DOWN if key > "k005" else None))

    assert world.invoke(batch(CopyTask("x.0", JOB, found))) == [failed()]
    [rest] = world.tasks
    [done] = world.reports
    assert isinstance(rest, CopyTask)
    assert isinstance(done, Done)
    assert len(rest.items) + done.counts.copied == 100
    assert world.seconds <= 60.0 - 20.0


def test_expired_credentials_end_the_environment() -> None:
    world = World(FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(400, "ExpiredToken")))

    assert world.invoke(batch(COPY_A)) == [failed("m0")]
    assert world.expired


def test_other_trouble_does_not_end_the_environment() -> None:
    world = World(FakeS3(list_faults=[DENIED]))
    world.invoke(batch(ListTask("x.9", JOB, (ALL,)), queue="list"))

    assert not world.expired


def test_an_environment_serves_one_invocation_after_another() -> None:
    found = [item(f"k{n}") for n in range(300)]
    world = World(FakeS3.of(found))
    tasks = [CopyTask(f"x.{n}", JOB, tuple(found[n * 100 : n * 100 + 100])) for n in range(3)]

    assert world.invoke(*(batch(task) for task in tasks)) == [failed()] * 3
    assert set(world.s3.copied) == {it.key for it in found}


def test_an_emulator_s_address_replaces_that_of_the_buckets() -> None:
    variables = {**VARIABLES, "AWS_ENDPOINT_URL": "http://127.0.0.1:4566/"}
    environment = Environment(variables, s3=FakeS3().client(), sqs=FakeSqs().client())
    task = environment._relocated(COPY_A)

    assert (task.job.source.url, task.job.destination.url) == (
        "http://127.0.0.1:4566/source",
        "http://127.0.0.1:4566/destination",
    )
    assert task._replace(job=JOB) == COPY_A


# -------------------------------------------------------------------------------------------------------------------- probes


def test_a_probe_of_a_list_task_proves_sends_and_the_right_to_list() -> None:
    world = World(FakeS3())

    assert world.invoke({"probe": encode_task(ListTask("x.0", JOB, (ALL,)))}) == [{"ok": True}]
    assert {queue: [decode_task(body) for body in bodies] for queue, bodies in world.sqs.sent.items()} == {
        "list": [Nothing()],
        "copy": [Nothing()],
        "reports": [Nothing()],
    }


def test_a_probe_that_may_not_list_says_so() -> None:
    world = World(FakeS3(list_faults=[DENIED]))

    assert world.invoke({"probe": encode_task(ListTask("x.0", JOB, (ALL,)))}) == [
        {
            "ok": False,
            "action": "s3:ListBucket",
            "what": "s3://source",
            "passing": True,
            "denied": True,
            "cause": "AccessDenied: Access Denied",
        }
    ]


def test_a_probe_that_may_not_send_says_so() -> None:
    world = World(FakeS3(), FakeSqs(refuse=lambda queue, _body: "AccessDenied" if queue == "reports" else None))
    [said] = world.invoke({"probe": encode_task(ListTask("x.0", JOB, (ALL,)))})

    assert (said["ok"], said["action"], said["what"], said["passing"]) == (False, "sqs:SendMessage", "run-reports", True)


def test_a_probe_of_a_copy_task_copies_and_gives_what_became_of_it() -> None:
    found = (item("a"), item("b"), item("c"))
    world = World(FakeS3.of(found))
    world.s3.copy_faults["a"] = [DENIED] * 2
    [said] = world.invoke({"probe": encode_task(CopyTask("run.0", JOB, found))})
    done = decode_event(said.pop("done"))

    assert said == {"ok": True, "rest": 1}
    assert isinstance(done, Done)
    assert (done.id, done.counts, done.failures) == (
        "run.0",
        Counts(copied=1, copied_bytes=1, failed=1, pages=1, copy_requests=3),
        (Failure("a", 1, "AccessDenied", "Access Denied"),),
    )


@pytest.mark.parametrize(("fault", "passing"), [(DENIED, True), (error(404, "NoSuchBucket"), False)])
def test_a_probe_that_may_not_copy_says_whether_waiting_may_help(fault: Response, *, passing: bool) -> None:
    world = World(FakeS3.of([item("a")], copy_rule=lambda _key, _n: fault))
    [said] = world.invoke({"probe": encode_task(COPY_A)})

    assert (said["ok"], said["what"], said["passing"]) == (False, "s3://source -> s3://destination", passing)


def test_a_probe_that_finds_no_answer_in_time_says_so() -> None:
    world = World(FakeS3(), FakeSqs())
    world.s3.client = lambda seconds=100.0: FakeS3.client(FakeS3(), seconds)  # type: ignore[method-assign]
    [said] = world.invoke({"probe": encode_task(COPY_A)}, seconds_left=10.0)

    assert (said["ok"], said["passing"], said["cause"]) == (False, True, "the probe found no answer in time")


# -------------------------------------------------------------------------------------------------------------------- import

REFUSING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "s3bulkcopy" and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is no part of the bundle")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import s3bulkcopy.worker.handler as handler
strangers = {m.partition(".")[0] for m in sys.modules} - set(sys.stdlib_module_names) - {"s3bulkcopy", "__main__"}
print(sorted(strangers), callable(handler.list_handler), callable(handler.copy_handler))
"""


def test_the_handler_imports_nothing_but_the_standard_library() -> None:
    root = Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, "-S", "-E", "-c", REFUSING, os.fspath(root)], capture_output=True, text=True, check=False
    )

    assert (ended.stdout, ended.stderr) == ("[] True True\n", "")


def test_an_answer_can_be_written_as_json() -> None:
    assert json.dumps(World(FakeS3()).invoke(batch("{"))) == json.dumps([failed("m0")])


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, None),
        ({"S3BULKCOPY_SQS_ENDPOINT": "https://sqs-fips.eu-west-1.amazonaws.com"}, "https://sqs-fips.eu-west-1.amazonaws.com"),
        (
            {"S3BULKCOPY_SQS_ENDPOINT": "https://sqs.eu-west-1.api.aws", "AWS_ENDPOINT_URL": "http://127.0.0.1:4566"},
            "http://127.0.0.1:4566",
        ),
    ],
)
def test_sqs_is_asked_where_the_command_says_or_an_emulator(variables: dict[str, str], endpoint: str | None) -> None:
    assert Environment(VARIABLES | variables, s3=FakeS3().client())._sqs._endpoint == endpoint
