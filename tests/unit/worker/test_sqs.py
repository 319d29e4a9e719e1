"""The outbox: what it was given is accepted, or whoever gave it is told."""

from __future__ import annotations

import json

import pytest

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Failed, Fault, Next
from s3bulkcopy.worker.pacing import full_jitter
from s3bulkcopy.worker.sqs import Outbox
from tests.unit.worker.worker_fakes import QUEUES, SLOW_DOWN, FakeSqs, Scripted, answer, error, run

COPY = QUEUES["copy"]


def outbox(queues: FakeSqs, message_bytes: int = 1000) -> Outbox:
    return Outbox(queues.client(), COPY, message_bytes=message_bytes, pauses=full_jitter(lambda: 1.0))


def put(queues: FakeSqs, bodies: list[str], message_bytes: int = 1000) -> list[BaseException | None]:
    """Put messages all at once; give what became of each."""

    async def main() -> list[BaseException | None]:
        box = outbox(queues, message_bytes)
        return await aio.gather(*(box.put(body) for body in bodies), return_exceptions=True)

    return run(main())


def test_messages_that_wait_go_out_together() -> None:
    queues = FakeSqs()

    assert put(queues, [f"m{n}" for n in range(35)]) == [None] * 35
    assert sorted(queues.sent["copy"]) == sorted(f"m{n}" for n in range(35))
    assert sorted(queues.requests) == [("copy", 5), *[("copy", 10)] * 3]


def test_a_batch_stays_within_the_limit() -> None:
    queues = FakeSqs()

    assert put(queues, ["x" * 400] * 5 + ["y" * 5000]) == [None] * 6
    assert sorted(queues.requests) == [("copy", 1), ("copy", 1), ("copy", 2), ("copy", 2)]


def test_what_the_answer_calls_failed_is_sent_again() -> None:
    refused: list[str] = []

    def refuse(_queue: str, body: str) -> str | None:
        if body == "m3" and len(refused) < 4:
            refused.append(body)
            return "InternalError"
        return None

    queues = FakeSqs(refuse=refuse)
    assert put(queues, [f"m{n}" for n in range(5)]) == [None] * 5
    assert queues.sent["copy"] == ["m0", "m1", "m2", "m4", "m3"]


def test_what_the_answer_does_not_mention_is_sent_again() -> None:
    queues = FakeSqs(faults=[answer(200, "{}"), answer(200, "[]"), answer(200, "null"), answer(200, "<html>")])

    assert put(queues, ["m"]) == [None]
    assert queues.sent["copy"] == ["m"]


@pytest.mark.parametrize("fault", [SLOW_DOWN, TimeoutError("late"), error(500, "x"), answer(403, '{"__type":"AccessDenied"}')])
def test_a_request_without_success_is_sent_again(fault: Scripted) -> None:
    queues = FakeSqs(faults=[fault] * 3)

    assert put(queues, ["m"]) == [None]


def test_a_message_that_the_queue_never_takes_is_given_up_and_the_others_are_not() -> None:
    queues = FakeSqs(refuse=lambda _queue, body: "InvalidMessageContents" if body == "bad" else None)
    good, bad = put(queues, ["good", "bad"])

    assert good is None
    assert isinstance(bad, Failed)
    assert bad.fault.code == "InvalidMessageContents"


def test_a_queue_that_does_not_answer_is_given_up_after_a_while() -> None:
    [failed] = put(FakeSqs(faults=[TimeoutError("late")] * 100), ["m"])

    assert isinstance(failed, Failed)
    assert failed.fault.next is Next.RETRY


def test_a_queue_that_is_gone_is_given_up_at_once() -> None:
    gone = answer(400, json.dumps({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "gone"}))
    [failed] = put(FakeSqs(faults=[gone]), ["m"])

    assert isinstance(failed, Failed)
    assert failed.fault == Fault(Next.RECORD, "QueueDoesNotExist", "gone")


def test_what_goes_wrong_inside_reaches_whoever_waits() -> None:
    [failed] = put(FakeSqs(faults=[ZeroDivisionError("bug")]), ["m"])

    assert isinstance(failed, ZeroDivisionError)


def test_a_message_put_the_moment_that_the_senders_end_is_sent() -> None:
    queues = FakeSqs()

    async def main() -> None:
        box = outbox(queues, 1)

        async def two() -> None:
            await box.put("first")
            await box.put("second")

        async with aio.timeout(5):
            await aio.gather(two(), *(box.put(f"other{n}") for n in range(3)))

    run(main())
    assert len(queues.sent["copy"]) == 5


def test_senders_that_never_began_are_forgotten_when_stopped() -> None:
    queues = FakeSqs()

    async def main() -> None:
        box = outbox(queues)
        for n in range(4):
            abandoned = box.put(f"lost{n}")
            abandoned.send(None)  # makes a sender, which has not begun when it is stopped
            abandoned.close()
        await box.stop()
        async with aio.timeout(5):
            await box.put("kept")

    run(main())
    assert queues.sent["copy"] == ["kept"]


def test_stopping_leaves_nothing_pending_and_the_outbox_works_on() -> None:
    queues = FakeSqs(faults=[SLOW_DOWN] * 3)

    async def main() -> None:
        box = outbox(queues)
        running = [aio.create_task(box.put(f"lost{n}")) for n in range(30)]
        await aio.sleep(0.05)
        for one in running:
            one.cancel()
        await aio.gather(*running, return_exceptions=True)
        await box.stop()
        assert aio.all_tasks() == {aio.current_task()}
        queues.faults.clear()
        queues.sent.clear()
        await box.put("kept")

    run(main())
    assert queues.sent["copy"] == ["kept"]
