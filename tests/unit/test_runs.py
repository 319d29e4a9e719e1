"""The loop: what is submitted, what ends it, what it hands back, with an engine that lives in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest

from s3bulkcopy.engines import Depth, Depths, Proof
from s3bulkcopy.errors import (
    BucketUnavailable,
    CountsDiffer,
    CountsIncomplete,
    Detached,
    Halted,
    Interrupted,
    JournalUnusable,
    NotPermitted,
    ObjectsFailed,
    Uncounted,
)
from s3bulkcopy.journal import Facts, Journal
from s3bulkcopy.run import Course, Remnant, Result, check_counts, resume, retry, run
from s3bulkcopy.worker.filters import Filter
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
    Range,
    Task,
    Trouble,
    WalkTask,
    encode_task,
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
    goes_on = False
    sent_until = 0.0
    left: tuple[str, ...] = ()
    job = JOB

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.events: list[Event] = []
        self.did: list[str] = []
        self.submitted: list[Task] = []
        self.so_far = Counts()
        self.last_words: list[Event] = []

    def __enter__(self) -> Self:
        self.did.append("enter")
        return self

    def __exit__(self, *error: object) -> None:
        self.did.append("exit" if error[0] is None else "exit after an error")

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        task = CopyTask(task_id, JOB, tuple(first_items[:1]))
        if not first_items:
            return Proof((done(task, Counts()),), 0)
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

    def hand_on(self) -> list[Event]:
        self.did.append("hand on")
        return self.last_words

    def settle(self) -> None:
        self.did.append("settle")


class Silent:
    def step(self, text: str) -> None:
        """Hear nothing."""

    def warning(self, text: str) -> None:
        """Hear nothing."""

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """See nothing."""


def go(engine: MemoryEngine, page: Page | None = None, max_failures: int | None = None) -> Result:
    clock = iter(range(100))
    whole = page or Page(ITEMS, truncated=False)
    return run(JOB, whole, course(engine, max_failures=max_failures, clock=lambda: float(next(clock))))


def course(engine: MemoryEngine, **changes: Any) -> Course:
    """What carries a run through, with a journal in memory."""
    wanted = {"journal": Journal.in_memory(Facts("run", "memory")), "clock": lambda: 0.0, **changes}
    return Course(engine, Silent(), **wanted)


def test_one_range_follows_the_probed_object_where_the_first_page_is_the_last() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])

    result = go(engine)

    (root,) = engine.submitted
    assert isinstance(root, ListTask)
    assert (root.id, root.ranges) == ("run.1", (Range("key-0", None),))
    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (3, 3)
    assert engine.did == ["enter", "ack", "settle", "exit"]


def test_at_least_a_hundred_ranges_cover_everything_behind_the_probed_object_of_a_larger_bucket() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts())])

    go(engine, Page(ITEMS, truncated=True))

    ranges = [piece for task in engine.submitted if isinstance(task, ListTask) for piece in task.ranges]
    assert len(ranges) >= 100
    for key in ("key-1", "®", "ø", "日", "\U0001f600", "\U0010ffff", "~", "key-0\x01"):
        assert sum(key in piece for piece in ranges) == 1
    assert not any("key-0" in piece for piece in ranges)
    assert [task.id for task in engine.submitted] == [f"run.{n}" for n in range(1, len(ranges) + 1)]


def test_a_source_that_cannot_be_cut_is_walked_but_for_what_was_probed() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])

    run(JOB, Page(ITEMS, truncated=True), course(engine), is_cut=False)

    assert engine.submitted == [WalkTask("run.1", JOB, ("key-0",))]


def test_a_dry_run_proves_nothing_and_lists_everything() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=3))])

    result = run(JOB._replace(dry=True), Page(ITEMS, truncated=False), course(engine))

    assert [task.ranges for task in engine.submitted if isinstance(task, ListTask)] == [(Range("", None),)]
    assert (result.dry, result.snapshot.counts, result.snapshot.unquiet) == (True, Counts(listed=3), False)


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

    with pytest.raises(ObjectsFailed, match="3 objects failed, more than --max-failures 2") as caught:
        go(engine, max_failures=2)
    assert caught.value.counts == Counts(listed=4, copied=1, failed=3)


def test_failures_that_stop_a_run_amid_a_task_are_named_by_what_it_reports_then() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.so_far = Counts(failed=1)
    engine.last_words = [Done("run.1", Attempt(1, "n"), 1, Counts(failed=1), (Failure("k", 1, "AccessDenied", "no"),))]
    journal = Journal.in_memory(Facts("run", "local"))

    with pytest.raises(ObjectsFailed):
        run(JOB, Page(ITEMS, truncated=False), course(engine, journal=journal, max_failures=0))
    assert [failure.key for failure in journal.failures(journal.replay())] == ["k"]


def test_what_is_under_way_is_told_where_a_run_is_interrupted() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.so_far = Counts(copied=699)
    checks = iter([True, False])

    def check() -> None:
        if not next(checks):
            raise Interrupted("interrupted")

    with pytest.raises(Interrupted) as caught:
        run(JOB, Page(ITEMS, truncated=False), course(engine, check=check))
    assert caught.value.message == "interrupted; of 700 objects listed so far at least 700 were copied"


@pytest.mark.parametrize(("goes_on", "error"), [(True, Uncounted), (False, JournalUnusable)])
def test_a_full_disk_leaves_a_run_to_go_on_where_it_can(goes_on: bool, error: type[Exception]) -> None:  # noqa: FBT001
    engine = MemoryEngine(lambda task: [Done(task.id, Attempt(1, "x"), 2, Counts(), (Failure("k" * 10**6, 1, "X", "no"),))])
    engine.goes_on = goes_on
    journal = Journal.in_memory(Facts("run", "memory"))
    journal._database.execute("PRAGMA max_page_count = 10")

    with pytest.raises(error, match="cannot write the journal"):
        run(JOB, Page(ITEMS, truncated=False), course(engine, journal=journal))
    assert "ack" not in engine.did  # what was not taken down is told again


def test_a_full_disk_stops_a_run_of_which_nothing_is_queued() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.goes_on = True
    journal = Journal.in_memory(Facts("run", "memory", version="0" * 10**6))
    journal._database.execute("PRAGMA max_page_count = 10")

    with pytest.raises(JournalUnusable, match="cannot write the journal"):
        run(JOB, Page(ITEMS, truncated=False), course(engine, journal=journal))


def test_of_a_run_that_nothing_was_heard_of_no_number_is_told() -> None:
    with pytest.raises(Detached) as caught:
        run(JOB, Page(ITEMS, truncated=False), course(MemoryEngine(lambda _task: [])), detached=True)
    assert caught.value.message == "run run is queued, and goes on without this command; nothing was reported yet"


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
        run(JOB, Page(ITEMS, truncated=False), course(engine, check=check))
    assert engine.did == ["enter", "hand on", "exit after an error"]


def test_what_is_done_by_the_time_that_a_run_has_stopped_is_taken_down_and_told() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.last_words = [Done("run.1", Attempt(1, "n"), 1, Counts(listed=2, copied=1))]
    journal = Journal.in_memory(Facts("run", "local"))

    def check() -> None:
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted) as caught:
        run(JOB, Page(ITEMS, truncated=False), course(engine, check=check, journal=journal))
    assert caught.value.message == "interrupted; of 3 objects listed so far at least 2 were copied"
    assert journal.replay().waits_for("n.0")


# ------------------------------------------------------------------------------------------- a run beyond its command


def test_a_detached_run_is_left_once_its_work_is_queued() -> None:
    engine = MemoryEngine(lambda _task: [])
    journal = Journal.in_memory(Facts("run", "memory"))

    with pytest.raises(Detached):
        run(JOB, Page(ITEMS, truncated=False), course(engine, journal=journal), detached=True)

    assert len(engine.submitted) == 1
    assert journal.facts.submitted
    assert journal.replay().snapshot().counts.copied == 1  # by the probe, which nobody would tell again


def test_what_the_probe_did_is_on_disk_before_it_is_known_that_work_was_queued() -> None:
    engine = MemoryEngine(lambda _task: [])
    journal = Journal.in_memory(Facts("run", "memory"))
    counted: list[int] = []
    note = journal.note

    def spy(facts: Facts) -> None:
        note(facts)
        counted.append(journal.replay().snapshot().counts.copied)

    journal.note = spy  # type: ignore[method-assign]
    with pytest.raises(Detached):
        run(JOB, Page(ITEMS, truncated=False), course(engine, journal=journal), detached=True)

    assert counted == [1, 1]


def begun(*, submitted: bool) -> tuple[Journal, MemoryEngine]:
    """Give the journal of a run whose command ended when it had queued, or was about to, and an engine for the next."""
    journal = Journal.in_memory(Facts("run", "memory"))
    with pytest.raises(Detached):
        run(JOB, Page(ITEMS, truncated=False), course(MemoryEngine(lambda _: []), journal=journal), detached=True)
    journal.note(replace(journal.facts, submitted=submitted))
    return journal, MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])


def test_a_run_that_is_resumed_counts_what_was_counted_and_queues_nothing_again() -> None:
    journal, engine = begun(submitted=True)
    engine.events = [done(ListTask("run.1", JOB, (Range("", None),)), Counts(listed=2, copied=2))]

    result = resume(JOB, course(engine, journal=journal))

    assert engine.submitted == []
    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (3, 3)


def test_what_may_not_have_been_queued_is_queued_again() -> None:
    journal, engine = begun(submitted=False)

    result = resume(JOB, course(engine, journal=journal))

    assert [task.id for task in engine.submitted] == ["run.1"]
    assert result.snapshot.counts.copied == 3


def test_without_roots_everything_counts_that_is_heard_until_nothing_comes_any_more() -> None:
    engine = MemoryEngine(lambda _task: [])
    engine.events = [
        Done("stranger.1", Attempt(1, "x"), 0, Counts(copied=4, failed=1), (Failure("k", 1, "AccessDenied", "no"),)),
        Dead("other.1", CopyTask("other.1", JOB, ITEMS)),
    ]
    times = iter(range(0, 1000, 10))

    result = resume(JOB, course(engine, clock=lambda: float(next(times)), idle_seconds=25.0))

    assert result.snapshot.counts == Counts(listed=8, copied=4, failed=4)
    assert sorted(failure.key for failure in result.failures) == ["k", "key-0", "key-1", "key-2"]
    assert "settle" in engine.did
    with pytest.raises(CountsIncomplete, match="incomplete"):
        check_counts(result)


def test_a_machine_that_slept_for_weeks_does_not_wait_for_what_cannot_come() -> None:
    engine = MemoryEngine(lambda _task: [])  # whose reports SQS has forgotten
    engine.goes_on = True
    times, now = iter(range(0, 1000, 10)), iter([1e9] * 2 + [1e9 + 15 * 86_400] * 20)  # queueing ends at the second of them

    result = run(
        JOB,
        Page(ITEMS, truncated=False),
        course(engine, clock=lambda: float(next(times)), idle_seconds=25.0, now=lambda: next(now)),
    )

    assert not result.snapshot.complete


def test_work_in_the_queues_keeps_an_attached_command_waiting() -> None:
    class Busy(MemoryEngine):
        looks = 0

        def depths(self) -> Depths:
            self.looks += 1
            return Depths(Depth(0, 1 if self.looks < 20 else 0), Depth(0, 0), 0)

    engine = Busy(lambda _task: [])
    times = iter(range(0, 10_000, 10))

    resume(JOB, course(engine, clock=lambda: float(next(times)), idle_seconds=25.0))

    assert engine.looks > 20


def test_a_halted_run_says_what_is_known_of_it() -> None:
    class HaltedEngine(MemoryEngine):
        def poll(self, _seconds: float) -> list[Event]:
            raise Halted("run run was halted")

    with pytest.raises(Halted) as caught:
        go(HaltedEngine(lambda _task: []))
    assert caught.value.message == "run run was halted; nothing was reported yet"


def test_whoever_keeps_what_failed_is_told_before_the_engine_is_left() -> None:
    engine = MemoryEngine(lambda task: [Dead(task.id, task)])
    told: list[tuple[int, str]] = []

    run(
        JOB,
        Page(ITEMS, truncated=False),
        course(engine, before_leaving=lambda snapshot: told.append((snapshot.ranges_failed, engine.did[-1]))),
    )

    assert told == [(1, "settle")]


# ---------------------------------------------------------------------------------------------------------------- retry


def test_a_retry_queues_the_failed_objects_without_their_etags_and_the_dead_ranges() -> None:
    items = [Item(f"k{n}", 10, "") for n in range(2500)]
    ranges = [Range("a", "b"), Range("x", None)]

    def answer(task: Task) -> list[Event]:
        if isinstance(task, CopyTask):
            return [done(task, Counts(copied=len(task.items)))]
        return [done(task, Counts(listed=5, copied=5))]

    engine = MemoryEngine(answer)
    result = retry(JOB, Remnant(lambda: iter(items), lambda: iter(ranges)), course(engine))

    copies = [task for task in engine.submitted if isinstance(task, CopyTask)]
    assert [item for task in copies for item in task.items] == items[1:]  # the probe took the first
    assert max(len(task.items) for task in copies) <= JOB.batch_keys
    assert [task.ranges for task in engine.submitted if isinstance(task, ListTask)] == [(piece,) for piece in ranges]
    assert [task.id for task in engine.submitted] == [f"run.{n}" for n in range(1, len(engine.submitted) + 1)]
    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (2510, 2510)
    check_counts(result)


def test_a_retry_of_ranges_alone_has_nothing_to_probe_with() -> None:
    class Engine(MemoryEngine):
        def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
            assert not first_items
            return Proof((Done(task_id, Attempt(1, "probe"), 0, Counts()),), 0)

    engine = Engine(lambda task: [done(task, Counts(listed=2, copied=2))])

    result = retry(JOB, Remnant(lambda: iter(()), lambda: iter([Range("", None)])), course(engine))

    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (2, 2)


def test_a_retry_of_a_walk_walks_and_finds_the_failed_objects_there() -> None:
    items = [Item(f"k{n}", 10, "") for n in range(9)]
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=20, copied=20))])

    result = retry(JOB, Remnant(lambda: iter(items), lambda: iter([Range("", None)] * 2)), course(engine), is_cut=False)

    assert engine.submitted == [WalkTask("run.1", JOB, ("k0",))]
    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (21, 21)
    check_counts(result)


def test_a_retry_of_objects_alone_walks_nothing() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(copied=1))])
    retry(JOB, Remnant(lambda: iter([Item("a", 1, ""), Item("b", 1, "")]), lambda: iter(())), course(engine), is_cut=False)

    assert [type(task) for task in engine.submitted] == [CopyTask]


# ----------------------------------------------------------------------------------------------------------- the equation


def test_counts_that_do_not_add_up_are_an_error_that_says_so() -> None:
    result = go(MemoryEngine(lambda task: [done(task, Counts(listed=3, copied=1, vanished=1))]))

    with pytest.raises(CountsDiffer) as caught:
        check_counts(result)
    assert caught.value.message == (
        "4 objects were listed, and 3 have an outcome (copied 2 + skipped 0 + vanished 1 + failed 0)"
    )
    assert caught.value.exit_code == 8


def test_counts_that_add_up_are_no_error() -> None:
    check_counts(go(MemoryEngine(lambda task: [done(task, Counts(listed=4, copied=1, vanished=1, skipped=1, failed=1))])))


def test_a_command_that_was_killed_between_two_batches_of_roots_queues_all_of_them() -> None:
    class Mortal(MemoryEngine):
        """Keeps tasks as the local engine does, and dies when it is given the second batch."""

        job = JOB._replace(batch_keys=1)

        def submit(self, tasks: Sequence[Task]) -> None:
            journal.keep_tasks((task.id, encode_task(task)) for task in tasks)
            if self.submitted:
                raise KeyboardInterrupt
            self.submitted += tasks

    items = [Item(f"k{n}", 10, "") for n in range(1201)]
    journal = Journal.in_memory(Facts("run", "local"))
    with pytest.raises(KeyboardInterrupt):
        retry(
            JOB._replace(batch_keys=1),
            Remnant(lambda: iter(items), lambda: iter(())),
            course(Mortal(lambda _: []), journal=journal),
        )

    engine = MemoryEngine(lambda task: [done(task)])
    resume(JOB, course(engine, journal=journal))

    assert len({task.id for task in engine.submitted}) == 1200


def test_what_stopped_a_run_of_the_local_engine_may_have_been_mended() -> None:
    journal = Journal.in_memory(Facts("run", "local"))
    root = ListTask("run.1", JOB, (Range("key-0", None),))
    stopped = MemoryEngine(lambda task: [Fatal(task.id, Attempt(1, "x"), "not_permitted", "no")])
    with pytest.raises(NotPermitted):
        run(JOB, Page(ITEMS, truncated=False), course(stopped, journal=journal))
    journal.keep_tasks([(root.id, encode_task(root))])

    engine = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])
    result = resume(JOB, course(engine, journal=journal))

    assert (result.snapshot.counts.listed, result.snapshot.counts.copied) == (3, 3)


def test_a_command_that_was_killed_while_it_tore_down_owes_nothing() -> None:
    class Gone(MemoryEngine):
        """Finds that what another command made is not there any more."""

        def __enter__(self) -> Self:
            raise CountsIncomplete("it is gone")

    journal = Journal.in_memory(Facts("run", "lambda"))
    whole = MemoryEngine(lambda task: [done(task, Counts(listed=2, copied=2))])
    run(JOB, Page(ITEMS, truncated=False), course(whole, journal=journal))

    result = resume(JOB, course(Gone(lambda _: []), journal=journal))

    assert (result.snapshot.complete, result.snapshot.counts.copied) == (True, 3)


# ---------------------------------------------------------------------------------------------------------- selections


def selecting(engine: MemoryEngine, page: Page, limit: int | None = None, **rules: Any) -> Result:
    """Run a job with these rules."""
    engine.job = JOB._replace(**rules)
    return run(engine.job, page, course(engine), limit=limit)


def test_the_first_objects_that_are_selected_prove_and_what_was_passed_is_counted() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(listed=1, copied=1))])

    result = selecting(engine, Page(ITEMS, truncated=False), filter=Filter(("-key-0",)))

    (root,) = engine.submitted
    assert isinstance(root, ListTask)
    assert root.ranges == (Range("key-1", None),)
    counts = result.snapshot.counts
    assert (counts.listed, counts.copied, counts.filtered) == (2, 2, 1)
    check_counts(result)


def test_nothing_is_lost_where_nothing_of_the_first_page_is_selected() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(filtered=3))])

    result = selecting(engine, Page(ITEMS, truncated=False), filter=Filter(("+other",)))

    assert [task.ranges for task in engine.submitted if isinstance(task, ListTask)] == [(Range("", None),)]
    assert (result.snapshot.counts.listed, result.snapshot.counts.filtered) == (0, 3)
    check_counts(result)


def test_what_is_archived_before_the_probed_object_is_told_of_by_a_task_of_its_own() -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts(skipped=1, archived=1) if isinstance(task, CopyTask) else Counts())])
    traits = (("", "GLACIER", False), ("", "STANDARD", False), ("", "GLACIER", True))

    result = selecting(engine, Page(ITEMS, truncated=False, traits=traits))

    assert engine.submitted == [
        ListTask("run.1", JOB, (Range("key-1", None),)),
        CopyTask("run.2", JOB, ITEMS[:1], archived="GLACIER"),
    ]
    counts = result.snapshot.counts
    assert (counts.listed, counts.copied, counts.skipped, counts.archived) == (2, 1, 1, 1)
    check_counts(result)


@pytest.mark.parametrize(("limit", "left"), [(1, 0), (2, 1), (1000, 999)])
def test_a_limit_is_what_the_probe_leaves_of_it_and_one_lister_has_it(limit: int, left: int) -> None:
    engine = MemoryEngine(lambda task: [done(task, Counts())])

    selecting(engine, Page(ITEMS, truncated=True), limit=limit)

    assert engine.submitted == [ListTask("run.1", JOB, (Range("key-0", None),), limit=left)]
