"""The run: submit the roots, poll, count, let go, show, until every announced task has ended."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from s3bulkcopy.aws.stack import RETENTION_SECONDS
from s3bulkcopy.costs import is_in_aws, planned
from s3bulkcopy.engines import Proof
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
    S3BulkCopyError,
    Uncounted,
)
from s3bulkcopy.failures import Cause, causes
from s3bulkcopy.status import when
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.keyspace import fan_out
from s3bulkcopy.worker.model import Attempt, CopyTask, Counts, Dead, Done, Item, ListTask, Range, WalkTask, encode_task
from s3bulkcopy.worker.packing import Packer
from s3bulkcopy.worker.planner import first_cuts
from s3bulkcopy.worker.sorting import Sorter, Sorting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from s3bulkcopy.costs import Requests
    from s3bulkcopy.engines import Depths, Engine
    from s3bulkcopy.journal import Facts, Journal
    from s3bulkcopy.tally import RangeFailure, Snapshot
    from s3bulkcopy.worker.model import Event, Failure, Fatal, Job, Task
    from s3bulkcopy.worker.s3 import Page

#: How many of the first listed objects a probe may try, one of which must be copied.
PROBE_ITEMS = 10

#: Most places at which the first page is asked where keys may lie behind it.
FIRST_CUTS = 32

#: How long one poll waits for events, in seconds; the screen is refreshed as often.
POLL_SECONDS = 1.0

#: Roots that are queued at a time.
_SUBMITTED_AT_ONCE = 500

#: How often a journal takes down that its run is being watched, in seconds.
_WATCHED_SECONDS = 600.0

#: Seconds without work and reports after which a run is over of which not all reports can come.
IDLE_SECONDS = 300.0

#: Failures, and ranges, that a result names; the journal has them all.
NAMED_FAILURES = 50

#: Objects denied in a row, from the first on, after which the run is stopped: then it is the run that is denied.
DENIED_OBJECTS = 1000


@dataclass(frozen=True, slots=True)
class Phases:
    """Where the time went, in seconds."""

    deploy: float = 0.0
    probe: float = 0.0
    work: float = 0.0
    teardown: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run."""

    run_id: str
    engine: str
    source: str
    destination: str
    snapshot: Snapshot
    failures: tuple[Failure, ...]
    failed_ranges: tuple[RangeFailure, ...]
    phases: Phases
    seconds: float
    resources_left: tuple[str, ...] = ()
    #: Whether everything was only listed; and the requests that copying it would take then.
    dry: bool = False
    planned: Requests = ()
    #: Whether they cost what AWS says.
    has_prices: bool = True
    #: Why objects failed, the most frequent cause first.
    causes: tuple[Cause, ...] = ()


class Watcher(Protocol):
    """Is told how the run goes; a view is one."""

    def step(self, text: str) -> None:
        """Take note of what is being done."""

    def warning(self, text: str) -> None:
        """Take note of what may not be as one would have it."""

    def progress(self, snapshot: Snapshot, depths: Depths | None) -> None:
        """Take note of what is known now."""


@dataclass(frozen=True, slots=True)
class Course:
    """What carries a run through: where tasks run, what was heard of them, who is told, and what may stop it."""

    engine: Engine
    watcher: Watcher
    journal: Journal
    #: Seconds of any steady clock.
    clock: Callable[[], float]
    #: Failed objects after which the run is stopped; None for no limit.
    max_failures: int | None = None
    #: May raise to stop the run; called once a second.
    check: Callable[[], None] = lambda: None
    #: Seconds without work in the queues and without reports after which nothing is waited for any more, where it may not come.
    idle_seconds: float = IDLE_SECONDS
    #: Is told what is known of a run that has ended, before the engine is left.
    before_leaving: Callable[[Snapshot], None] = lambda _: None
    #: Gives the time in seconds since the epoch.
    now: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Remnant:
    """What is left of a run, or was named for one: objects and ranges, the same and in the same order each time."""

    items: Callable[[], Iterable[Item]]
    ranges: Callable[[], Iterable[Range]]
    #: Gives, once all items were, how many objects a filter has left out.
    filtered: Callable[[], int] = lambda: 0


def run(
    job: Job, first_page: Page, course: Course, *, is_cut: bool = True, detached: bool = False, limit: int | None = None
) -> Result:
    """Copy everything that the job names, or the first `limit` objects of it; `first_page` is the source's, and not empty.

    Of a job that is `dry` everything is listed and counted, and nothing is copied. `is_cut` tells whether the source can be
    listed in ranges of keys. Raises what stops the run, after the engine has unmade everything; `detached` raises Detached once
    the work is queued.
    """

    def prepare() -> tuple[Facts, list[Event]]:
        sorter = Sorter(job)
        first = sorter.sort(first_page.items, first_page.traits, limit).items[:PROBE_ITEMS]
        proof = Proof((Done(f"{job.run_id}.0", Attempt(1, "dry"), 0, Counts()),), 0) if job.dry else _prove(job, first, course)
        taken = first[: proof.taken]
        passed = first_page.items.index(taken[-1]) + 1 if taken else 0
        begun = sorter.sort(first_page.items[:passed], first_page.traits[:passed]) if is_cut else Sorting(taken, {})
        left = None if limit is None else limit - begun.listed
        roots = _roots(course.engine.job, sorter.prefix, first_page, begun, passed, left, is_cut=is_cut)
        events = _counted_as_listed(proof.events, begun.counts(job))
        return replace(course.journal.facts, roots=tuple(map(encode_task, roots))), events

    return _begin(job, course, prepare, detached=detached)


def retry(job: Job, remnant: Remnant, course: Course, *, is_cut: bool = True, detached: bool = False) -> Result:
    """Copy what is left of another run; what it gives counts as listed. Otherwise as `run`.

    Where the source cannot be listed in ranges and one is left, all of it is listed, and so all of the objects are found there.
    """

    def prepare() -> tuple[Facts, list[Event]]:
        proof = _prove(job, tuple(islice(remnant.items(), PROBE_ITEMS)), course)
        walks = not is_cut and any(True for _ in remnant.ranges())
        listed = [0, 0]

        def items() -> Iterator[Item]:
            for item in islice(remnant.items(), proof.taken if walks else None):
                listed[0] += 1
                listed[1] += item.size
                yield item

        job_now = course.engine.job
        roots: Iterator[Task] = (ListTask("", job_now, (piece,)) for piece in remnant.ranges())
        if walks:
            taken = tuple(item.key for item in islice(remnant.items(), proof.taken))
            roots = iter([WalkTask("", job_now, taken)])
        more = course.journal.keep_roots(_roots_of(job_now, items(), proof.taken, roots))
        counts = Counts(listed=listed[0], listed_bytes=listed[1], filtered=remnant.filtered())
        events = _counted_as_listed(proof.events, counts)
        return replace(course.journal.facts, more_roots=more), events

    return _begin(job, course, prepare, detached=detached)


def resume(job: Job, course: Course) -> Result:
    """Go on with a run whose journal says that its work was about to be queued; otherwise as `run`.

    A journal that does not say so knows nothing: all that is heard is counted then, and nothing tells when it is all.
    """
    tally = course.journal.replay()
    facts = course.journal.facts
    kept = course.journal.kept_tasks(tally)

    def begin() -> None:
        if facts.has_roots and not facts.submitted:  # nothing was heard before that was noted: all that is kept is roots
            number = len(facts.roots) + facts.more_roots
            course.watcher.step(f"queueing {_some(number, 'task')} again, some of which may be queued already")
            _submit(course)
        elif kept:
            course.watcher.step(f"going on with {_some(len(kept), 'task')}")
            course.engine.submit(kept)

    if facts.engine == "local":
        tally.fatal = None  # what stopped it may have been mended, and the task that told of it is kept
    try:
        return _carry_through(job, tally, course, begin)
    except CountsIncomplete:
        if not tally.complete:
            raise
    # It was killed while it was torn down: nothing is owed, and the engine has removed the rest.
    return replace(result_of(job, tally, course.journal, course.engine.name), resources_left=course.engine.left)


def _begin(job: Job, course: Course, prepare: Callable[[], tuple[Facts, list[Event]]], *, detached: bool) -> Result:
    tally = Tally()

    def begin() -> None:
        watcher, journal = course.watcher, course.journal
        # What is about to be queued is on disk before it is: should this command die meanwhile, another queues it again.
        # And before that what was achieved so far, which nobody would say again.
        facts, first_events = prepare()
        journal.append(first_events)
        journal.note(replace(facts, watched=course.now()))
        number = len(facts.roots) + facts.more_roots
        tally.announce(job.run_id, number + 1)
        tally.add(first_events)
        watcher.step(
            f"queueing {_some(number, 'task')}"
            if facts.more_roots
            else f"queueing {_some(number, 'range')} to cover the key space"
        )
        _submit(course)
        if detached:
            raise Detached(f"run {job.run_id} is queued, and goes on without this command")

    return _carry_through(job, tally, course, begin)


def _submit(course: Course) -> None:
    journal = course.journal
    roots = journal.roots()
    while some := list(islice(roots, _SUBMITTED_AT_ONCE)):
        course.engine.submit(some)
    journal.note(replace(journal.facts, submitted=True, watched=course.now()))


def _carry_through(job: Job, tally: Tally, course: Course, begin: Callable[[], None]) -> Result:
    engine, watcher, clock = course.engine, course.watcher, course.clock
    began = clock()
    try:
        with engine, _handing_on(tally, course):
            deployed = clock()
            begin()
            proven = clock()
            watcher.step("listing" if job.dry else "listing and copying")
            _watch(tally, course)
            watcher.step("waiting until no worker is at work any more")
            # Always: of a task that a queue holds twice, nothing tells before the second worker reports.
            engine.settle()
            _drain(tally, course)
            worked = clock()
            course.before_leaving(_final(tally))
            watcher.step("tearing down")
    except S3BulkCopyError as error:
        snapshot = tally.snapshot()
        error.counts = snapshot.seen
        if course.journal.facts.submitted and isinstance(error, Interrupted | Halted | Detached):
            error.message += _so_far(snapshot)
        raise
    ended = clock()
    phases = Phases(deployed - began, proven - deployed, worked - proven, ended - worked)
    return replace(
        result_of(job, tally, course.journal, engine.name), phases=phases, seconds=ended - began, resources_left=engine.left
    )


@contextmanager
def _handing_on(tally: Tally, course: Course) -> Iterator[None]:
    """Where what stops the run may be mended, count what the workers have done by then, and keep the rest for who goes on.

    Where it is failures, they are named by what the workers report then.
    """
    try:
        yield
    except (Interrupted, NotPermitted, ObjectsFailed):
        with suppress(JournalUnusable):  # then what is in it is what is gone on with
            _count(course.engine.hand_on(), tally, course.journal)
            tally.under_way = course.engine.under_way()
        raise
    except JournalUnusable as error:
        if not (course.engine.goes_on and course.journal.facts.has_roots):
            raise
        goes_on = f"run {course.journal.facts.run_id} goes on without this command, and what it reports waits: {error.message}"
        raise Uncounted(goes_on, error.hint) from error


def result_of(job: Job, tally: Tally, journal: Journal, engine: str) -> Result:
    """Give what a tally and a journal know of a run."""
    snapshot = _final(tally)
    return Result(
        run_id=job.run_id,
        engine=engine,
        source=str(job.source),
        destination=str(job.destination),
        snapshot=snapshot,
        failures=tuple(islice(journal.failures(tally), NAMED_FAILURES)),
        failed_ranges=tuple(islice(journal.failed_ranges(tally), NAMED_FAILURES)),
        phases=Phases(),
        seconds=0.0,
        dry=job.dry,
        planned=planned(snapshot.counts, job) if job.dry else (),
        has_prices=is_in_aws(job.destination),
        causes=tuple(causes(journal.failures(tally))),
    )


def check_counts(result: Result, again: str = "run it again") -> None:
    """Raise CountsIncomplete where something is owed, and CountsDiffer where it is not, and the counts do not add up.

    listed = copied + skipped + vanished + failed, whatever became of a run that ended. `again` says what copies the rest.
    """
    counts, snapshot = result.snapshot.counts, result.snapshot
    if not snapshot.complete:
        raise CountsIncomplete(
            f"the counts of run {result.run_id} are incomplete: they are what its reports still told",
            hint=f"compare source and destination, or {again}",
        )
    if counts.listed != counts.ended and not result.dry:
        parts = [f"{name} {getattr(counts, name):,}" for name in ("copied", "skipped", "vanished", "failed")]
        raise CountsDiffer(
            f"{counts.listed:,} objects were listed, and {counts.ended:,} have an outcome ({' + '.join(parts)})",
            hint=f"this is a fault: please report it, and {again}",
        )


def _final(tally: Tally) -> Snapshot:
    """Give what is known in the end; where events are still owed, all that was heard is all there is."""
    snapshot = tally.snapshot()
    if snapshot.complete:
        return snapshot
    heard, ranges = tally.unclaimed_dead()
    counts = snapshot.seen + heard
    counts = counts._replace(listed=max(counts.listed, counts.ended))
    nothing = Counts()
    ranges += snapshot.ranges_failed
    return replace(snapshot, counts=counts, provisional=nothing, under_way=nothing, ranges_failed=ranges)


def _count(events: Sequence[Event], tally: Tally, journal: Journal, under_way: Counts | None = None) -> None:
    """Count events once they are safe; only then may their source forget them."""
    journal.append(events, under_way)
    tally.add(events)


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _so_far(snapshot: Snapshot) -> str:
    seen = snapshot.seen
    if snapshot.tasks - snapshot.tasks_open <= 1 and seen == snapshot.counts._replace(listed=seen.listed):  # but for the probe
        return "; nothing was reported yet"
    about = "about" if snapshot.unquiet else "at least"
    return f"; of {_some(seen.listed, 'object')} listed so far {about} {seen.copied:,} were copied"


def _prove(job: Job, items: Sequence[Item], course: Course) -> Proof:
    """Prove the workers' rights on the first objects."""
    course.watcher.step("checking that the workers may list, read, write and report")
    return course.engine.prove(f"{job.run_id}.0", items)


def _roots(
    job: Job, prefix: str, first_page: Page, begun: Sorting, passed: int, limit: int | None, *, is_cut: bool
) -> list[Task]:
    """Give the tasks that list all objects below a prefix but the first ones, with which was begun.

    In a listing that is cut, so many keys were passed by that; those of them that are archived are still to be told of.
    """
    if not is_cut:
        return [WalkTask(f"{job.run_id}.1", job, tuple(item.key for item in begun.items), limit=limit)]
    keys = [item.key for item in first_page.items]
    after = keys[passed - 1] if passed else ""
    ranges = [Range(after, None)]
    if first_page.truncated and limit is None:
        ranges = fan_out(prefix, keys, after, first_cuts(keys, prefix, FIRST_CUTS))
    roots: list[Task] = [ListTask("", job, (piece,), limit=limit) for piece in ranges]
    if not job.dry:
        roots += [task for name, items in begun.archived.items() for task in _copy_tasks(job, iter(items), name)]
    return [root._replace(id=f"{job.run_id}.{n}") for n, root in enumerate(roots, 1)]


def _counted_as_listed(events: Iterable[Event], listed: Counts) -> list[Event]:
    """Have what nobody lists count as listed by the task that the probe was."""
    return [event._replace(counts=event.counts + listed) if isinstance(event, Done) else event for event in events]


def _roots_of(job: Job, items: Iterator[Item], taken: int, others: Iterator[Task]) -> Iterator[str]:
    """Pack all but the first items into tasks, and give them and others as messages."""
    for _ in islice(items, taken):
        pass
    for number, root in enumerate(chain(_copy_tasks(job, items), others), 1):
        yield encode_task(root._replace(id=f"{job.run_id}.{number}"))


def _copy_tasks(job: Job, items: Iterator[Item], archived: str = "") -> Iterator[CopyTask]:
    """Pack items into tasks without names; `archived` is the class of those that are only to be told of."""
    packer = Packer(job, archived)
    while some := list(islice(items, job.batch_keys)):
        yield from (CopyTask("", job, batch, archived=archived) for batch in packer.add(some))
    yield from (CopyTask("", job, batch, archived=archived) for batch in packer.rest())


def _watch(tally: Tally, course: Course) -> None:
    """Poll until the run is complete, or nothing is to be expected any more; raises where it cannot go on, or should not."""
    engine, busy_at, may_be_in_vain = course.engine, course.clock(), not course.journal.facts.has_roots
    while not tally.complete:
        course.check()
        if not may_be_in_vain and _was_deaf_for_long(course):
            may_be_in_vain, busy_at = True, course.clock()
        # Dead letters stay where they are and are heard of again and again.
        heard = any(not isinstance(event, Dead) for event in _poll(tally, course))
        tally.under_way = engine.under_way()
        snapshot, depths = tally.snapshot(), engine.depths()
        _stop_if_hopeless(snapshot, tally, course.max_failures)
        course.watcher.progress(snapshot, depths)
        if may_be_in_vain:
            work = (depths.list, depths.copy)
            if heard or any(depth.waiting or depth.in_flight for depth in work):
                busy_at = course.clock()
            elif course.clock() - busy_at >= course.idle_seconds:
                return


def _was_deaf_for_long(course: Course) -> bool:
    """Tell whether reports may be gone, and say so: nobody may have attached for long, or this machine have slept for weeks."""
    watched = course.journal.facts.watched
    if not course.engine.goes_on or course.now() <= watched + RETENTION_SECONDS:
        return False
    course.watcher.warning(
        f"nobody has listened to run {course.journal.facts.run_id} since {when(watched)}, and SQS keeps a message for 14 "
        "days: what waits no longer cannot be counted"
    )
    return True


def _poll(tally: Tally, course: Course) -> list[Event]:
    """Take what there is to hear, and give it."""
    journal, engine = course.journal, course.engine
    events = engine.poll(POLL_SECONDS)
    _count(events, tally, journal, None if engine.goes_on else engine.under_way())
    engine.ack()
    journal.compact_into(tally)
    if (now := course.now()) - journal.facts.watched > _WATCHED_SECONDS:
        journal.note(replace(journal.facts, watched=now))
    return events


def _drain(tally: Tally, course: Course) -> None:
    """Take the events that are still there once nobody works any more.

    Nobody works on what a late Done of a dead task would announce: the task stays dead, and what it was to do is named.
    """
    seconds = POLL_SECONDS if tally.snapshot().unquiet or not tally.complete else 0.0
    while events := course.engine.poll(seconds):
        kept = []
        for event in events:
            if not tally.would_reopen(event):
                tally.add([event])
                kept.append(event)
        course.journal.append(kept)
        course.engine.ack()


def _stop_if_hopeless(snapshot: Snapshot, tally: Tally, max_failures: int | None) -> None:
    if snapshot.fatal is not None:
        raise _as_error(snapshot.fatal)
    counts, failed, last = snapshot.counts, snapshot.seen.failed, tally.last_failure
    if max_failures is not None and failed > max_failures:
        raise ObjectsFailed(
            f"{failed:,} objects failed, more than --max-failures {max_failures:,}",
            hint=f"the last: {last.key!r}: {last.cause}" if last is not None else "",
        )
    if last is not None and tally.denied == tally.failures >= DENIED_OBJECTS and counts.copied <= 1:
        raise NotPermitted(
            f"all of the first {tally.failures:,} objects were denied",
            hint=f"S3 says: {last.cause}. Look at the bucket policies of source and destination.",
        )


def _as_error(fatal: Fatal) -> S3BulkCopyError:
    match fatal.kind:
        case "not_found":
            return BucketUnavailable(f"a bucket is gone: {fatal.cause}")
        case "not_permitted":
            return NotPermitted(f"the workers are not permitted to go on: {fatal.cause}")
        case "unsupported":
            return S3BulkCopyError(f"this store cannot be listed as the run needs it: {fatal.cause}")
