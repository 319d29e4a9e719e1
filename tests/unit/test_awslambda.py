"""The lambda engine's side of the queues: what is sent again, what is deleted when, what becomes of dead letters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from s3bulkcopy.aws.deploy import Deployed
from s3bulkcopy.aws.preflight import Preflight
from s3bulkcopy.aws.session import AwsSession, Identity
from s3bulkcopy.engines import Proof
from s3bulkcopy.engines.awslambda import LambdaEngine
from s3bulkcopy.errors import DeployFailed, Detached, Halted, Interrupted, NotPermitted, OutOfReach, S3BulkCopyError, SignedOut
from s3bulkcopy.settings import AwsSettings, StackSettings
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Item,
    Job,
    ListTask,
    Location,
    Nothing,
    Range,
    encode_event,
    encode_task,
)
from s3bulkcopy.worker.s3 import Page

JOB = Job("20261123-121632-k3f9xa", Location("a", "", "r", "http://x/a"), Location("b", "", "r", "http://x/b"))
KINDS = ("list", "copy", "list-dead", "copy-dead", "reports")
DONE = Done("run.1", Attempt(1, "n"), 0, Counts(copied=3))
DEAD = CopyTask("run.2", JOB, (Item("k", 1, '"e"'),))


class Sqs:
    """Queues as lists of bodies; a refusal is asked for before each send."""

    def __init__(self) -> None:
        self.queues: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.taken: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.deleted: list[str] = []
        self.refused: list[set[str]] = []
        self.tags: dict[str, str] = {}
        #: What is raised by the next requests, before one is answered.
        self.trouble: list[Exception] = []

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803 - boto3's
        refused = self.refused.pop(0) if self.refused else set()
        self.queues[QueueUrl] += [e["MessageBody"] for e in Entries if e["Id"] not in refused]
        return {
            "Successful": [{"Id": e["Id"]} for e in Entries if e["Id"] not in refused],
            "Failed": [{"Id": name, "Message": "busy"} for name in refused],
        }

    def get_queue_url(self, QueueName: str) -> dict[str, Any]:  # noqa: N803, ARG002
        raise self.trouble[0]

    def list_queue_tags(self, QueueUrl: str) -> dict[str, Any]:  # noqa: N803, ARG002
        return {"Tags": self.tags}

    def receive_message(self, QueueUrl: str, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        if self.trouble:
            raise self.trouble.pop(0)
        some = self.queues[QueueUrl][:MaxNumberOfMessages]
        del self.queues[QueueUrl][:MaxNumberOfMessages]
        self.taken[QueueUrl] += some
        return {"Messages": [{"MessageId": body, "ReceiptHandle": body, "Body": body} for body in some]}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> None:  # noqa: N803
        assert QueueUrl == "reports"
        self.deleted += [e["ReceiptHandle"] for e in Entries]


class Functions:
    """Functions that answer probes from a list."""

    def __init__(self, *answers: dict[str, Any] | str) -> None:
        self.answers = list(answers)

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803, ARG002
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        error = {"FunctionError": "Unhandled"} if isinstance(answer, str) else {}
        return {"Payload": _Body(json.dumps(answer).encode()), **error}


class _Body:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content


class Session(AwsSession):
    """Hands out the fakes."""

    def __init__(self, **clients: Any) -> None:
        super().__init__(AwsSettings(region="r"))
        self.fakes = clients

    def client(self, service: str, region: str | None = None) -> Any:  # noqa: ARG002
        return self.fakes[service]


class Made:
    """An engine that was entered, what it said, and how long it slept."""

    def __init__(self, **clients: Any) -> None:
        self.said: list[str] = []
        self.slept: list[float] = []
        found = Preflight(
            JOB, Page((), truncated=False), identity=Identity("1", "arn:aws:iam::1:user/x"), free_concurrency=None
        )
        self.engine = LambdaEngine(
            Session(**clients),
            found,
            StackSettings(),
            version="0",
            created="",
            say=self.said.append,
            detail=self.said.append,
            sleep=self.slept.append,
            rest=self.slept.append,
            clock=lambda: float(len(self.slept) * 100),
        )
        self.engine._deployed = Deployed({kind: kind for kind in KINDS}, 262_144)


def test_what_a_batch_refuses_is_sent_again_until_it_is_accepted() -> None:
    sqs = Sqs()
    sqs.refused = [{"0", "2"}, {"2"}, set()]
    tasks = [ListTask(f"run.{n}", JOB, (Range("", None),)) for n in range(3)]

    Made(sqs=sqs).engine.submit(tasks)

    assert sorted(sqs.queues["list"]) == sorted(encode_task(task) for task in tasks)


def test_a_queue_that_takes_nothing_is_an_error_that_says_why() -> None:
    sqs = Sqs()
    sqs.refused = [{"0"}] * 10

    with pytest.raises(S3BulkCopyError, match="does not take messages: busy"):
        Made(sqs=sqs).engine.submit([ListTask("run.1", JOB, (Range("", None),))])


def test_lists_and_copies_go_to_their_own_queues() -> None:
    sqs = Sqs()

    Made(sqs=sqs).engine.submit([ListTask("run.1", JOB, (Range("", None),)), DEAD])

    assert [len(sqs.queues[kind]) for kind in ("list", "copy")] == [1, 1]


def test_events_are_deleted_only_once_they_are_acked() -> None:
    sqs = Sqs()
    sqs.queues["reports"] = [encode_event(DONE), encode_task(Nothing()), "rubbish"]
    engine = Made(sqs=sqs).engine

    assert engine.poll(1.0) == [DONE]
    assert sqs.deleted == []
    engine.ack()
    assert sqs.deleted == sqs.taken["reports"]


def test_events_that_nobody_hears_to_be_deleted_are_left_to_come_again() -> None:
    class Deaf(Sqs):
        asked = 0

        def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> None:  # noqa: N803, ARG002
            self.asked += 1
            raise UNREACHABLE

    sqs = Deaf()
    made = Made(sqs=sqs)
    made.engine._receipts = [str(n) for n in range(25)]

    made.engine.ack()
    made.engine.ack()

    assert sqs.asked == 1


def test_a_dead_letter_is_a_dead_task_and_stays_where_it_is() -> None:
    sqs = Sqs()
    sqs.queues["copy-dead"] = [encode_task(DEAD)]
    engine = Made(sqs=sqs).engine

    assert engine.poll(1.0) == [Dead("run.2", DEAD)]
    engine.ack()
    assert sqs.deleted == []


def test_a_dead_letter_that_is_received_again_is_no_news() -> None:
    sqs = Sqs()
    engine = Made(sqs=sqs).engine
    told = []
    for _ in range(2):
        sqs.queues["copy-dead"] = [encode_task(DEAD)]
        engine._dead_seen_at = float("-inf")
        told.append(engine.poll(1.0))

    assert told == [[Dead("run.2", DEAD)], []]


def test_a_message_that_is_no_task_is_named_once_and_counts_for_nobody() -> None:
    sqs = Sqs()
    made = Made(sqs=sqs)
    for _ in range(2):
        sqs.queues["list-dead"] = ["poison"]
        made.engine._dead_seen_at = float("-inf")
        assert made.engine.poll(1.0) == []

    assert made.said == ["a message that is no task of this run ended as a dead letter: 'poison'"]


def test_a_probe_is_repeated_while_a_permission_is_on_its_way() -> None:
    denied = {"ok": False, "action": "s3:PutObject", "what": "b", "passing": True, "denied": True, "cause": "AccessDenied"}
    proven = {"ok": True, "done": encode_event(DONE), "rest": 2}
    made = Made(**{"lambda": Functions(denied, denied, proven)})
    made.engine._clock = lambda: 0.0

    proof = made.engine.prove("run.0", [Item(str(n), 1, '"e"') for n in range(3)])

    assert (proof.events, proof.taken) == ((DONE,), 1)
    assert made.said == ["waiting until s3:PutObject on b succeeds, for two minutes at most: AccessDenied"]  # once


def test_a_permission_that_never_comes_is_named() -> None:
    denied = {"ok": False, "action": "s3:PutObject", "what": "b", "passing": True, "denied": True, "cause": "AccessDenied: no"}

    with pytest.raises(NotPermitted, match="the workers may not s3:PutObject on b: AccessDenied: no"):
        Made(**{"lambda": Functions(denied)}).engine.prove("run.0", [Item("k", 1, '"e"')])


def test_a_function_that_breaks_in_its_probe_is_named_with_its_log() -> None:
    with pytest.raises(DeployFailed, match="failed its probe: No module named x") as error:
        Made(**{"lambda": Functions("No module named x")}).engine.prove("run.0", [Item("k", 1, '"e"')])
    assert "/aws/lambda/s3bulkcopy-" in error.value.hint


def test_a_function_whose_environment_failed_to_start_is_tried_again() -> None:
    answers = ("timed out", {"ok": True, "done": encode_event(DONE), "rest": 0})

    proof = Made(**{"lambda": Functions(*answers)}).engine.prove("run.0", [Item("k", 1, '"e"')])

    assert proof == Proof((DONE,), 1)


# -------------------------------------------------------------------------------------------------------------- watching


def refusal(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "ReceiveMessage")


UNREACHABLE = EndpointConnectionError(endpoint_url="https://sqs")


def test_a_halted_run_ends_whoever_watches_it() -> None:
    sqs = Sqs()
    sqs.tags = {"s3bulkcopy:halted": "2026-11-23T12:16:32Z"}

    with pytest.raises(Halted, match="was halted at 2026-11-23T12:16:32Z"):
        Made(sqs=sqs).engine.poll(1.0)


def test_what_was_reported_until_the_halt_is_heard_first() -> None:
    sqs = Sqs()
    sqs.tags = {"s3bulkcopy:halted": "now"}
    sqs.queues["reports"] = [encode_event(DONE)]
    engine = Made(sqs=sqs).engine

    assert engine.poll(1.0) == [DONE]
    with pytest.raises(Halted):
        engine.poll(1.0)


def test_reports_that_do_not_end_are_not_waited_for_after_a_halt() -> None:
    sqs = Sqs()
    sqs.tags = {"s3bulkcopy:halted": "now"}
    sqs.queues["reports"] = [encode_event(DONE)] * 3
    made = Made(sqs=sqs)
    made.engine.poll(1.0)
    sqs.queues["reports"] = [encode_event(DONE)] * 3
    made.slept.append(6.0)

    with pytest.raises(Halted):
        made.engine.poll(1.0)


def test_it_is_looked_for_a_halt_now_and_then_only() -> None:
    sqs = Sqs()
    made = Made(sqs=sqs)
    made.engine.poll(1.0)
    sqs.tags = {"s3bulkcopy:halted": "now"}

    assert made.engine.poll(1.0) == []  # no time has passed
    made.slept.append(6.0)
    with pytest.raises(Halted):
        made.engine.poll(1.0)


def test_a_run_whose_queues_are_gone_was_torn_down_by_someone() -> None:
    sqs = Sqs()
    sqs.trouble = [refusal("AWS.SimpleQueueService.NonExistentQueue")]

    with pytest.raises(Halted, match="someone has torn it down"):
        Made(sqs=sqs).engine.poll(1.0)


@pytest.mark.parametrize("trouble", [UNREACHABLE, refusal("InternalError", 500), refusal("ThrottlingException")])
def test_a_network_that_is_gone_for_minutes_does_not_end_a_run(trouble: Exception) -> None:
    sqs = Sqs()
    sqs.queues["reports"] = [encode_event(DONE)]
    sqs.trouble = [trouble] * 5
    made = Made(sqs=sqs)
    made.engine._clock = lambda: sum(made.slept)

    assert made.engine.poll(1.0) == [DONE]
    assert made.said[0].startswith("asking again for 15 more minutes, the run goes on meanwhile")
    assert made.said[-1] == "connected again"
    assert len(made.slept) == 5


def test_credentials_that_are_refreshed_in_time_do_not_end_a_run() -> None:
    sqs = Sqs()
    sqs.queues["reports"] = [encode_event(DONE)]
    sqs.trouble = [refusal("ExpiredToken"), NoCredentialsError()]
    made = Made(sqs=sqs)
    renewed: list[bool] = []
    made.engine._session.renew = lambda: renewed.append(True)  # type: ignore[method-assign]

    assert made.engine.poll(1.0) == [DONE]
    assert renewed == [True, True]


@pytest.mark.parametrize(
    ("trouble", "kind", "code"), [(UNREACHABLE, OutOfReach, 10), (refusal("ExpiredTokenException"), SignedOut, 5)]
)
def test_a_run_that_cannot_be_reached_for_long_is_left_to_go_on(trouble: Exception, kind: type[Detached], code: int) -> None:
    sqs = Sqs()
    sqs.trouble = [trouble] * 1000
    made = Made(sqs=sqs)
    made.engine._clock = lambda: sum(made.slept)

    with pytest.raises(kind, match="goes on without this command") as caught:
        made.engine.poll(1.0)

    assert caught.value.exit_code == code
    assert 900 <= sum(made.slept) < 930
    made.engine.__exit__(kind, caught.value, None)  # asks nobody for anything: any other client would be a KeyError


def test_who_stops_a_run_without_a_network_is_told_soon_what_removes_it() -> None:
    sqs = Sqs()
    sqs.trouble = [UNREACHABLE]
    made = Made(sqs=sqs)
    made.engine._clock = lambda: sum(made.slept)

    made.engine.__exit__(Interrupted, Interrupted("interrupted"), None)  # any other client would be a KeyError

    (left,) = made.engine.left
    assert "nobody answers" in left
    assert left.endswith(f": s3bulkcopy teardown {JOB.run_id} --region r")
    assert sum(made.slept) == 20


def test_what_is_denied_is_not_asked_for_again() -> None:
    sqs = Sqs()
    sqs.trouble = [refusal("AccessDenied", 403)]
    made = Made(sqs=sqs)

    with pytest.raises(NotPermitted):
        made.engine.poll(1.0)
    assert made.slept == []
