"""One task from start to `Done`, against a store that answers in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.keyspace import cut
from s3bulkcopy.worker.model import (
    MAX_IDLE_HOPS,
    Attempt,
    CopyTask,
    Counts,
    Done,
    Failure,
    Item,
    Job,
    ListTask,
    Range,
    Task,
)
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.work import Budget, TooManyHops, Worker
from tests.unit.worker.worker_fakes import DENIED, JOB, SLOW_DOWN, FakeS3, Scripted, error, item, items, keys, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

ALL = Range("", None)
FIRST = Attempt(1, "nonce")
AMPLE = Budget(float("inf"), 1000)


@dataclass
class Queue:
    """Accepts tasks, each after a while; `refuse` may raise."""

    seconds: float = 0.02
    refuse: Callable[[Task], None] = lambda _task: None
    accepted: list[Task] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def __call__(self, task: Task, /) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await aio.sleep(self.seconds)
            self.refuse(task)
            self.accepted.append(task)
        finally:
            self.under_way -= 1

    @property
    def items(self) -> list[Item]:
        ordered = sorted((t for t in self.accepted if isinstance(t, CopyTask)), key=lambda t: number(t.id))
        return [it for task in ordered for it in task.items]

    @property
    def ranges(self) -> list[Range]:
        return [task.range for task in self.accepted if isinstance(task, ListTask)]


def number(name: str) -> int:
    return int(name.rpartition(".")[2])


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


def listed(found: list[Item], pages: int) -> Counts:
    return Counts(listed=len(found), listed_bytes=sum(it.size for it in found), pages=pages)


small_jobs = st.builds(lambda n, m: JOB._replace(batch_keys=n, message_bytes=m), st.integers(1, 10), st.just(65_536))
stores = st.builds(
    lambda found, page_keys: FakeS3.of(found, page_keys=page_keys), st.lists(items, max_size=40), st.integers(1, 12)
)
ranges = st.builds(Range, st.one_of(st.just(""), keys), st.one_of(st.none(), keys))


def inside(store: FakeS3, whole: Range) -> list[Item]:
    return sorted((it for key, it in store.objects.items() if key in whole), key=lambda it: it.key.encode())


# ------------------------------------------------------------------------------------------------------------------ listing


@settings(max_examples=40, deadline=None)
@given(stores, small_jobs, ranges)
def test_a_range_is_listed_whatever_the_keys_and_the_page_size(store: FakeS3, job: Job, whole: Range) -> None:
    expected = inside(store, whole)
    done, queue = work(store, ListTask("run.0", job, whole))

    assert queue.items == expected
    assert done == Done("run.0", FIRST, len(queue.accepted), listed(expected, len(store.list_requests)))
    assert sorted(queue.accepted, key=lambda t: number(t.id)) == [
        CopyTask(f"nonce.{n}", job, task.items)
        for n, task in enumerate(sorted(queue.accepted, key=lambda t: number(t.id)))
        if isinstance(task, CopyTask)
    ]


@settings(max_examples=40, deadline=None)
@given(stores, st.lists(keys, max_size=5), st.integers(1, 3))
def test_ranges_cut_anywhere_and_handed_on_at_any_page_list_every_object_once(
    store: FakeS3, boundaries: list[str], pages: int
) -> None:
    open_tasks: list[Task] = [ListTask("", JOB, piece) for piece in cut(ALL, boundaries)]
    found: list[Item] = []
    while open_tasks:
        done, queue = work(store, open_tasks.pop(), budget=Budget(float("inf"), pages))
        assert done.counts.pages <= pages
        found += queue.items
        open_tasks += [task for task in queue.accepted if isinstance(task, ListTask)]

    assert sorted(found, key=lambda it: it.key.encode()) == inside(store, ALL)


def work_side_by_side(store: FakeS3, tasks: list[ListTask]) -> tuple[list[Done], Queue]:
    """Work on list tasks at the same time in one environment."""
    queue = Queue()

    async def main() -> list[Done]:
        pauses = full_jitter(lambda: 1.0)
        s3 = store.client()
        worker = Worker(s3, Copier(s3, Pace(), pauses), pauses)
        works = (worker.work(task, Attempt(1, f"nonce-{n}"), AMPLE, queue) for n, task in enumerate(tasks))
        return await aio.gather(*works)

    return run(main()), queue


@settings(max_examples=40, deadline=None)
@given(stores, st.lists(keys, max_size=8), st.randoms())
def test_ranges_that_learn_from_each_others_answers_list_every_object_once(
    store: FakeS3, boundaries: list[str], random: Random
) -> None:
    pieces = cut(ALL, boundaries)
    random.shuffle(pieces)

    done, queue = work_side_by_side(store, [ListTask(f"run.{n}", JOB, piece) for n, piece in enumerate(pieces)])

    found = [it for task in queue.accepted if isinstance(task, CopyTask) for it in task.items]
    assert sorted(found, key=lambda it: it.key.encode()) == inside(store, ALL)
    assert sum(d.counts.listed for d in done) == len(found)
    assert sum(d.counts.pages for d in done) == len(store.list_requests)


def test_a_page_that_shows_a_gap_answers_for_all_the_ranges_in_it() -> None:
    store = FakeS3.of([item("b"), item("x")], page_keys=1000)
    tasks = [ListTask(f"run.{n}", JOB, piece) for n, piece in enumerate(cut(ALL, "acdefghijklmnopqrstuvwyz"))]

    _, queue = work_side_by_side(store, tasks)

    assert len(store.list_requests) <= 8  # those asked for at the same time
    assert [it.key for it in queue.items] == ["b", "x"]


def test_only_the_prefix_is_listed() -> None:
    store = FakeS3.of(item(key) for key in ("a", "p", "p/", "p/1", "p0", "q"))
    job = JOB._replace(source=JOB.source._replace(prefix="p/"))
    _, queue = work(store, ListTask("run.0", job, ALL))

    assert queue.items == [item("p/"), item("p/1")]


def test_after_so_many_pages_the_rest_is_handed_on() -> None:
    found = [item(f"k{n:02}") for n in range(30)]
    store = FakeS3.of(found, page_keys=5)
    done, queue = work(store, ListTask("run.0", JOB, Range("k02", "k27"), 7), budget=Budget(float("inf"), 3))

    assert done == Done("run.0", FIRST, 2, listed(found[3:18], 3))
    assert sorted(queue.accepted, key=lambda t: number(t.id)) == [
        ListTask("nonce.0", JOB, Range("k17", "k27"), 0),
        CopyTask("nonce.1", JOB, tuple(found[3:18])),
    ]


def test_of_long_keys_fewer_are_asked_for_at_a_time() -> None:
    found = [item("k" * 1000 + f"{n:04}") for n in range(3000)]
    done, queue = work(FakeS3.of(found), ListTask("run.0", JOB, ALL))

    a_page = 256 * 1024 // 1004
    assert done.counts.pages == 1 + -(-2000 // a_page)
    assert queue.items == found


def test_at_the_deadline_the_rest_is_handed_on() -> None:
    found = [item(f"k{n:02}") for n in range(30)]
    _, queue = work(FakeS3.of(found, page_keys=5), ListTask("run.0", JOB, ALL), budget=Budget(0.12))

    assert queue.ranges == [Range("k14", None)]
    assert queue.items == found[:15]


def test_a_budget_without_a_page_hands_on_the_whole_range_and_counts_the_hop() -> None:
    done, queue = work(FakeS3.of([item("a")]), ListTask("run.0", JOB, ALL, 3), budget=Budget(float("inf"), 0))

    assert (done.counts, queue.accepted) == (Counts(), [ListTask("nonce.0", JOB, ALL, 4)])


def test_a_range_that_ends_with_a_page_ends_there() -> None:
    store = FakeS3.of([item(f"k{n}") for n in range(9)], page_keys=3)
    done, _ = work(store, ListTask("run.0", JOB, Range("", "k5")))

    assert done.counts.pages == 2


def test_no_page_is_asked_for_behind_the_end_of_the_range() -> None:
    store = FakeS3.of([item(f"k{n}") for n in range(9)], page_keys=3)
    done, _ = work(store, ListTask("run.0", JOB, Range("", "k4")))

    assert done.counts.pages == 2


@pytest.mark.parametrize("kind", ["list", "copy"])
def test_a_task_that_was_handed_on_too_often_for_nothing_is_given_up(kind: str) -> None:
    def task(hops: int) -> Task:
        return ListTask("x.0", JOB, ALL, hops) if kind == "list" else CopyTask("x.0", JOB, (), hops)

    work(FakeS3(), task(MAX_IDLE_HOPS))
    with pytest.raises(TooManyHops):
        work(FakeS3(), task(MAX_IDLE_HOPS + 1))


# ----------------------------------------------------------------------------------------------------------------- children


def test_done_is_given_only_after_every_child_was_accepted() -> None:
    found = [item(f"k{n:02}") for n in range(60)]
    job = JOB._replace(batch_keys=1)
    done, queue = work(FakeS3.of(found, page_keys=7), ListTask("run.0", job, ALL), Queue(seconds=5.0))

    assert (done.children, len(queue.accepted)) == (60, 60)


def test_sends_overlap_but_only_so_many() -> None:
    found = [item(f"k{n:02}") for n in range(60)]
    _, queue = work(FakeS3.of(found), ListTask("run.0", JOB._replace(batch_keys=1), ALL), Queue(seconds=5.0))

    assert 8 <= queue.most_under_way <= 17


@pytest.mark.parametrize("which", [0, 5, 59])
def test_a_send_that_fails_fails_the_attempt(which: int) -> None:
    def refuse(task: Task) -> None:
        if number(task.id) == which:
            raise Failed(Fault(Next.RETRY, "Nope", ""), "sending")

    found = [item(f"k{n:02}") for n in range(60)]
    with pytest.raises(Failed, match="sending: Nope"):
        work(FakeS3.of(found), ListTask("run.0", JOB._replace(batch_keys=1), ALL), Queue(refuse=refuse))


# -------------------------------------------------------------------------------------------------------------- list faults


def test_list_faults_that_pass_are_retried_and_counted() -> None:
    faults: list[Scripted] = [SLOW_DOWN, error(500, "InternalError"), TimeoutError("late")]
    store = FakeS3.of([item("a")], list_faults=faults)
    done, _ = work(store, ListTask("run.0", JOB, ALL))

    assert done.counts == listed([item("a")], 1) + Counts(retries=3, throttles=1)


def test_list_faults_that_last_fail_the_attempt() -> None:
    with pytest.raises(Failed, match="listing s3://source: SlowDown"):
        work(FakeS3(list_faults=[SLOW_DOWN] * 100), ListTask("run.0", JOB, ALL))


def test_list_faults_that_last_leave_what_was_listed_and_hand_on_the_rest() -> None:
    found = [item(f"k{n}") for n in range(6)]
    store = FakeS3.of(found, page_keys=3, list_rule=_fail_behind("k2"))
    done, queue = work(store, ListTask("run.0", JOB, Range("", "z"), 4), budget=Budget(20.0))

    assert (queue.items, queue.ranges) == (found[:3], [Range("k2", "z")])
    assert done.counts == listed(found[:3], 1)


def _fail_behind(key: str) -> Callable[[list[Item], dict[str, str]], list[Item]]:
    def rule(found: list[Item], _query: dict[str, str]) -> list[Item]:
        if found and found[0].key > key:
            raise TimeoutError("late")
        return found

    return rule


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_denied_list_request_fails_the_attempt_at_first(attempt: int) -> None:
    with pytest.raises(Failed, match="AccessDenied"):
        work(FakeS3(list_faults=[DENIED] * 9), ListTask("run.0", JOB, ALL), attempt=Attempt(attempt, "n"))


@pytest.mark.parametrize(
    ("fault", "attempt", "kind"),
    [
        (DENIED, 3, "not_permitted"),
        (error(404, "NoSuchBucket"), 1, "not_found"),
        (error(403, "InvalidAccessKeyId"), 1, "not_permitted"),
    ],
)
def test_a_list_request_that_can_never_succeed_stops_the_run(fault: Scripted, attempt: int, kind: str) -> None:
    with pytest.raises(Stop) as stop:
        work(FakeS3(list_faults=[fault]), ListTask("run.0", JOB, ALL), attempt=Attempt(attempt, "n"))
    assert stop.value.kind == kind


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (lambda _found, _query: [item("a"), item("b")], "ignores start-after: asked behind 'm'"),
        (lambda _found, _query: [item("z"), item("y")], "does not list keys in the order"),
        (lambda _found, _query: [item("y"), item("y")], "does not list keys in the order"),
        (lambda _found, _query: [item("n"), item("p/1")], "ignores prefix: asked for 'p/'"),
    ],
)
def test_a_store_that_ignores_what_it_was_asked_is_refused(
    rule: Callable[[list[Item], dict[str, str]], list[Item]], cause: str
) -> None:
    job = JOB._replace(source=JOB.source._replace(prefix="p/" if "prefix" in cause else ""))
    with pytest.raises(Stop, match=cause) as stop:
        work(FakeS3(list_rule=rule), ListTask("run.0", job, Range("m", None)))
    assert stop.value.kind == "unsupported"


def test_an_empty_page_that_says_more_follow_fails_the_attempt() -> None:
    with pytest.raises(Failed, match="EmptyPage"):
        work(FakeS3.of([item("a")], page_keys=0), ListTask("run.0", JOB, ALL))


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


def test_a_stop_while_copying_is_raised() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(404, "NoSuchBucket"))

    with pytest.raises(Stop):
        work(store, CopyTask("x.0", JOB, (item("a"),)))
