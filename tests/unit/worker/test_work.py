"""One task from start to `Done`, against a store that answers in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.attempts import Budget
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.failures import Stop
from s3bulkcopy.worker.model import (
    MAX_IDLE_HOPS,
    Attempt,
    CopyTask,
    Counts,
    Done,
    Failure,
    ListTask,
    Range,
    Task,
)
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.work import TooManyHops, Worker
from tests.unit.worker.worker_fakes import JOB, SLOW_DOWN, FakeS3, Queue, answer, error, item, run

if TYPE_CHECKING:
    from s3bulkcopy.worker.http import Response
    from tests.unit.worker.worker_fakes import Request

ALL = Range("", None)
FIRST = Attempt(1, "nonce")
AMPLE = Budget(float("inf"), 1000)
ACL = "<AccessControlPolicy><Owner><ID>own</ID></Owner><AccessControlList/></AccessControlPolicy>"


def work(
    store: FakeS3, task: Task, queue: Queue | None = None, *, budget: Budget = AMPLE, attempt: Attempt = FIRST
) -> tuple[Done, Queue]:
    """Work on a task in an environment of its own; gives what it reported and what it sent."""
    queue = queue or Queue()

    async def main() -> Done:
        pauses = full_jitter(lambda: 1.0)
        s3 = store.client()
        copier = Copier(s3, Pace(), pauses)
        try:
            done = await Worker(s3, copier, pauses).work(task, attempt, budget, queue)
        finally:
            await copier.stop()
            assert aio.all_tasks() == {aio.current_task()}
        assert queue.under_way == 0
        return done

    return run(main()), queue


@pytest.mark.parametrize("kind", ["list", "copy"])
def test_a_task_that_was_handed_on_too_often_for_nothing_is_given_up(kind: str) -> None:
    def task(hops: int) -> Task:
        return ListTask("x.0", JOB, (ALL,), hops) if kind == "list" else CopyTask("x.0", JOB, (), hops)

    work(FakeS3(), task(MAX_IDLE_HOPS))
    with pytest.raises(TooManyHops):
        work(FakeS3(), task(MAX_IDLE_HOPS + 1))


# ------------------------------------------------------------------------------------------------------------------ copying


def test_a_copy_task_ends_with_what_became_of_its_items() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["b"] = [error(403, "InvalidObjectState", "archived")]
    done, queue = work(store, CopyTask("x.7", JOB, (item("a"), item("b"), item("gone"))))

    assert done == Done(
        "x.7",
        FIRST,
        0,
        Counts(copied=1, copied_bytes=1, vanished=1, failed=1, pages=1, copy_requests=3),
        (Failure("b", 1, "InvalidObjectState", "archived"),),
    )
    assert queue.accepted == []


def test_what_is_not_copied_in_time_goes_out_as_a_task() -> None:
    found = tuple(item(f"k{n:03}") for n in range(500))
    done, queue = work(FakeS3.of(found), CopyTask("x.0", JOB, found, 5), budget=Budget(0.2))

    [child] = queue.accepted
    assert isinstance(child, CopyTask)
    assert (child.id, child.idle_hops, done.children) == ("nonce.0", 0, 1)
    assert done.counts.copied + len(child.items) == 500
    assert done.counts.copied > 0


def test_a_copy_task_that_ended_nothing_counts_the_hop() -> None:
    found = (item("a"), item("b"))
    store = FakeS3.of(found, copy_rule=lambda _key, _n: SLOW_DOWN)
    _, queue = work(store, CopyTask("x.0", JOB, found, 5), budget=Budget(30.0))

    assert [(task.id, task.idle_hops) for task in queue.accepted] == [("nonce.0", 6)]


@pytest.mark.parametrize("policy", [Policy(), Policy(acl="preserve"), Policy(storage_class="preserve")])
def test_what_is_not_copied_when_credentials_expire_goes_out_as_a_task_and_the_rest_counts(policy: Policy) -> None:
    found = tuple(item(f"k{n:03}") for n in range(300))
    asked: list[str] = []

    class Expiring(FakeS3):
        def serve(self, request: Request) -> Response:
            asked.append(request.method)
            if len(asked) > 130:
                return error(400, "ExpiredToken")
            return answer(200, ACL) if "acl" in request.query else super().serve(request)

    store = Expiring.of(found)
    task = CopyTask("x.0", JOB._replace(policy=policy), found, 5)
    done, queue = work(store, task)

    [child] = queue.accepted
    assert isinstance(child, CopyTask)
    assert (child.id, child.idle_hops, done.failures) == ("nonce.0", 0, ())
    assert 0 < done.counts.copied == len(store.copied) <= 130
    assert {it.key for it in child.items} | {*store.copied} == {it.key for it in found}
    assert not {it.key for it in child.items} & {*store.copied}


def test_a_stop_while_copying_is_raised() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(404, "NoSuchBucket"))

    with pytest.raises(Stop):
        work(store, CopyTask("x.0", JOB, (item("a"),)))


@pytest.mark.parametrize("policy", [Policy(), Policy(storage_class="preserve", acl="bucket-owner-full-control", tags="drop")])
def test_a_thousand_small_objects_cost_one_list_and_a_thousand_copies_and_nothing_else(policy: Policy) -> None:
    job = JOB._replace(policy=policy)
    requests: list[str] = []

    class Counting(FakeS3):
        def serve(self, request: Request) -> Response:
            requests.append(
                f"{request.method} {'list' if 'list-type' in request.query else request.headers['x-amz-copy-source']}"
            )
            return super().serve(request)

    store = Counting.of(item(f"k{n:04}") for n in range(1000))
    _, listed = work(store, ListTask("x.0", job, (ALL,)))
    ended = [work(store, task)[0] for task in listed.accepted]

    assert sum(done.counts.copied for done in ended) == 1000
    assert sorted(requests) == sorted(["GET list", *(f"PUT /source/k{n:04}" for n in range(1000))])
