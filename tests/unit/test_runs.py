"""The loop: what is submitted, what ends it, what it hands back, with an engine that lives in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import pytest

from s3bulkcopy.engines import Depth, Depths, Proof
from s3bulkcopy.errors import BucketUnavailable, Interrupted, NotPermitted, ObjectsFailed
from s3bulkcopy.run import Result, run
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Event,
    Failure,
    Fatal,
    Item,
    Job,
    ListTask,
    Location,
    Task,
    Trouble,
)
from s3bulkcopy.worker.s3 import Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3bulkcopy.tally import Snapshot

JOB = Job("run", Location("a", "", "r", "http://x/a"), Location("b", "", "r", "http://x/b"))
ITEMS = tuple(Item(f"key-{n}", n, '"e"') for n in range(3))
COPIED = Counts(copied=1, copied_bytes=0)

Answer = Callable[[Task], list[Event]]


def done(task: Task, counts: Counts = COPIED, failures: tuple[Failure, ...] = (), number: int = 1) -> Done:
    return Done(task.id, Attempt(number, f"nonce-{task.id}"), 0, counts, failures)


class MemoryEngine:
    """Answers every task at once, and takes down what was asked of it."""

    name = "memory"
    left: tuple[str, ...] = ()
    job = JOB

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.did: list[str] = []
        self.submitted: list[Task] = []
        self.so_far = Counts()

    def __enter__(self) -> Self:
        self.did.append("enter")
        return self

    def __exit__(self, *error: object) -> None:
        self.did.append("exit" if error[0] is None else "exit after an error")

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        task = CopyTask(task_id, JOB, tuple(first_items[:1]))
        return Proof((done(task, Counts(copied=1, copied_bytes=first_items[0].size)),), 1)

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted += tasks
        for task in tasks:
            self.events += self.answer(task)

    def poll(self, _seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def ack(self) -> None:
        self.did.append("ack")

    def depths(self) -> Depths:
        return Depths(Depth(0, 0), Depth(0, 0), 0)

    def under_way(self) -> Counts:
        return self.so_far

    def settle(self) -> None:
        self.did.append("settle")


class Silent:
    def step(self, text: str) -> None:
        """Hear nothing."""

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """See nothing."""


def go(engine: MemoryEngine, page: Page | None = None, max_failures: int | None = None) -> Result:
    clock = iter(range(100))
    whole = page or Page(ITEMS, truncated=False)
    return run(JOB, whole, engine, Silent(), max_failures=max_failures, clock=lambda: float(next(clock)))


def test_one_range_follows_the_probed_object_where_the_first_page_is_the_last() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])

    result = go(engine)

    (root,) = engine.submitted
    assert isinstance(root, ListTask)
    assert (root.id, root.range.after, root.range.until) == ("run.1", "key-0", None)
    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (3, 3)
    assert engine.did == ["enter", "ack", "settle", "exit"]


def test_at_least_a_hundred_ranges_cover_everything_behind_the_probed_object_of_a_larger_bucket() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts())])

    go(engine, Page(ITEMS, truncated=True))

    ranges = [task.range for task in engine.submitted if isinstance(task, ListTask)]
    assert len(ranges) >= 100
    for key in ("key-1", "®", "ø", "日", "\U0001f600", "\U0010ffff", "~", "key-0\x01"):
        assert sum(key in piece for piece in ranges) == 1
    assert not any("key-0" in piece for piece in ranges)
    assert [task.id for task in engine.submitted] == [f"run.{n}" for n in range(1, len(ranges) + 1)]


@pytest.mark.parametrize(
    "extra",
    [
        lambda task: [done(task)],  # a task that a queue holds twice may be in other hands too, and nothing tells
        lambda task: [done(task, number=2)],
        lambda task: [Trouble(task.id, Attempt(1, "x"), "broke"), done(task)],
        lambda task: [Done("stranger.0", Attempt(1, "x"), 0, COPIED), done(task)],
    ],
)
def test_a_run_waits_until_nobody_is_at_work(extra: Answer) -> None:
    engine = MemoryEngine(extra)

    go(engine)

    assert engine.did.index("settle") < engine.did.index("exit")


def test_a_dead_task_ends_the_run_with_named_failures() -> None:
    item = Item("lost", 7, '"e"')

    def answer(task: Task) -> list[Event]:
        listing = Done(task.id, Attempt(1, "parent"), 1, Counts(listed=1))
        return [
            listing,
            Trouble("parent.0", Attempt(5, "x"), "out of memory"),
            Dead("parent.0", CopyTask("parent.0", JOB, (item,))),
        ]

    result = go(MemoryEngine(answer))

    (failure,) = result.failures
    assert (failure.key, failure.code) == ("lost", "DeadLetter")
    assert "out of memory" in failure.cause
    assert result.snapshot.counts.failed == 1


def test_a_dead_range_says_that_the_listing_is_incomplete() -> None:
    result = go(MemoryEngine(lambda task: [Dead(task.id, task)]))

    assert result.snapshot.ranges_failed == 1
    assert result.failed_ranges[0].cause == "killed, or never started"


@pytest.mark.parametrize(("kind", "error"), [("not_found", BucketUnavailable), ("not_permitted", NotPermitted)])
def test_a_fatal_event_ends_the_run_after_everything_was_unmade(kind: str, error: type[Exception]) -> None:
    engine = MemoryEngine(lambda task: [Fatal(task.id, Attempt(1, "x"), kind, "NoSuchBucket: gone")])  # type: ignore[arg-type]

    with pytest.raises(error, match="NoSuchBucket: gone"):
        go(engine)
    assert engine.did[-1] == "exit after an error"


def test_too_many_failures_end_the_run() -> None:
    failures = tuple(Failure(f"k{n}", 1, "AccessDenied", "no") for n in range(3))
    engine = MemoryEngine(lambda task: [Done(task.id, Attempt(1, "x"), 1, Counts(failed=3), failures)])

    with pytest.raises(ObjectsFailed, match="3 objects failed, more than --max-failures 2"):
        go(engine, max_failures=2)


def test_objects_that_fail_in_a_task_that_goes_on_stop_a_run_too() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.so_far = Counts(failed=3)

    with pytest.raises(ObjectsFailed, match="3 objects failed, more than --max-failures 2"):
        go(engine, max_failures=2)


def test_what_is_under_way_is_told_where_a_run_is_interrupted() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.so_far = Counts(copied=699)
    checks = iter([True, False])

    def check() -> None:
        if not next(checks):
            raise Interrupted("interrupted")

    with pytest.raises(Interrupted) as caught:
        run(JOB, Page(ITEMS, truncated=False), engine, Silent(), check=check, clock=lambda: 0.0)
    assert caught.value.message == "interrupted; of 700 objects listed so far at least 700 were copied"


def test_what_was_under_way_counts_once_in_the_end() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])
    engine.so_far = Counts(copied=2)

    assert go(engine).snapshot.seen == Counts(listed=3, copied=3)


def test_a_run_in_which_everything_is_denied_is_stopped() -> None:
    failures = tuple(Failure(f"k{n}", 1, "AccessDenied", "no") for n in range(1000))
    engine = MemoryEngine(lambda task: [Done(task.id, Attempt(1, "x"), 1, Counts(failed=1000), failures)])

    with pytest.raises(NotPermitted, match="all of the first 1,000 objects were denied"):
        go(engine)


def test_whatever_stops_the_loop_lets_the_engine_unmake_everything() -> None:
    engine = MemoryEngine(lambda _task: [])

    def check() -> None:
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted):
        run(JOB, Page(ITEMS, truncated=False), engine, Silent(), check=check, clock=lambda: 0.0)
    assert engine.did == ["enter", "exit after an error"]
