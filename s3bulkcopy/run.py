"""The run: submit the roots, poll, count, let go, show, until every announced task has ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from s3bulkcopy.errors import BucketUnavailable, Detached, Interrupted, NotPermitted, ObjectsFailed, S3BulkCopyError
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.keyspace import fan_out
from s3bulkcopy.worker.model import Counts, Done, ListTask, Range, decode_task, encode_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from s3bulkcopy.engines import Depths, Engine
    from s3bulkcopy.journal import Journal
    from s3bulkcopy.tally import RangeFailure, Snapshot
    from s3bulkcopy.worker.model import Event, Failure, Fatal, Job
    from s3bulkcopy.worker.s3 import Page

#: How many of the first listed objects a probe may try, one of which must be copied.
PROBE_ITEMS = 10

#: How long one poll waits for events, in seconds; the screen is refreshed as often.
POLL_SECONDS = 1.0

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


class Watcher(Protocol):
    """Is told how the run goes; a view is one."""

    def step(self, text: str) -> None:
        """Take note of what is being done."""

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


def run(job: Job, first_page: Page, course: Course, *, detached: bool = False) -> Result:
    """Copy everything that the job names; `first_page` is the source's first page, and is not empty.

    Raises what stops the run, after the engine has unmade everything; `detached` raises Detached once the work is queued.
    """
    tally = Tally()

    def begin() -> None:
        course.watcher.step("checking that the workers may list, read, write and report")
        roots, first_events = _prepare(course.engine, job, first_page)
        # What is about to be queued is on disk before it is: should this command die meanwhile, another queues it again.
        journal = course.journal
        journal.note(replace(journal.facts, roots=tuple(map(encode_task, roots))))
        tally.announce(job.run_id, len(roots) + 1)
        _count(first_events, tally, journal)
        course.watcher.step(f"queueing {_some(len(roots), 'range')} that cover the key space")
        course.engine.submit(roots)
        journal.note(replace(journal.facts, submitted=True))
        if detached:
            raise Detached(f"run {job.run_id} goes on without this command")

    return _carry_through(job, tally, course, begin)


def resume(job: Job, course: Course) -> Result:
    """Go on with a run whose journal says that its work was about to be queued; otherwise as `run`."""
    tally = course.journal.replay()
    facts = course.journal.facts
    kept = course.journal.kept_tasks(tally)

    def begin() -> None:
        if kept:
            course.watcher.step(f"going on with {_some(len(kept), 'task')}")
            course.engine.submit(kept)
        elif not facts.submitted:
            course.watcher.step(f"queueing {_some(len(facts.roots), 'range')} again, some of which may be queued already")
            course.engine.submit([task for task in map(decode_task, facts.roots) if isinstance(task, ListTask)])
            course.journal.note(replace(facts, submitted=True))

    return _carry_through(job, tally, course, begin)


def _carry_through(job: Job, tally: Tally, course: Course, begin: Callable[[], None]) -> Result:
    engine, watcher, clock = course.engine, course.watcher, course.clock
    began = clock()
    try:
        with engine:
            deployed = clock()
            begin()
            proven = clock()
            watcher.step("listing and copying")
            _watch(tally, course)
            if tally.snapshot().unquiet:
                watcher.step("waiting until no worker is at work any more")
                engine.settle()
                _drain(tally, course)
            worked = clock()
            watcher.step("tearing down")
    except Interrupted as error:
        error.message = _interrupted(tally.snapshot())
        raise
    ended = clock()
    return Result(
        run_id=job.run_id,
        engine=engine.name,
        source=str(job.source),
        destination=str(job.destination),
        snapshot=tally.snapshot(),
        failures=tuple(islice(course.journal.failures(tally), NAMED_FAILURES)),
        failed_ranges=tuple(islice(course.journal.failed_ranges(tally), NAMED_FAILURES)),
        phases=Phases(deployed - began, proven - deployed, worked - proven, ended - worked),
        seconds=ended - began,
        resources_left=engine.left,
    )


def _count(events: Sequence[Event], tally: Tally, journal: Journal) -> None:
    """Count events once they are safe; only then may their source forget them."""
    journal.append(events)
    tally.add(events)


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _interrupted(snapshot: Snapshot) -> str:
    seen = snapshot.seen
    about = "about" if snapshot.unquiet else "at least"
    return f"interrupted; of {_some(seen.listed, 'object')} listed so far {about} {seen.copied:,} were copied"


def _prepare(engine: Engine, job: Job, first_page: Page) -> tuple[list[ListTask], list[Event]]:
    """Prove the workers' rights on the first objects, and give the roots that cover all the others."""
    first = first_page.items[:PROBE_ITEMS]
    proof = engine.prove(f"{job.run_id}.0", first)
    taken = first[: proof.taken]
    listed = Counts(listed=len(taken), listed_bytes=sum(item.size for item in taken))
    events = [e._replace(counts=e.counts + listed) if isinstance(e, Done) else e for e in proof.events]
    after = taken[-1].key if taken else ""
    keys = [item.key for item in first_page.items]
    ranges = fan_out(job.source.prefix, keys, after) if first_page.truncated else [Range(after, None)]
    return [ListTask(f"{job.run_id}.{n}", engine.job, piece) for n, piece in enumerate(ranges, 1)], events


def _watch(tally: Tally, course: Course) -> None:
    """Poll until the run is complete; raises where it cannot go on, or should not."""
    engine = course.engine
    while not tally.complete:
        course.check()
        _poll(tally, course)
        tally.under_way = engine.under_way()
        snapshot = tally.snapshot()
        _stop_if_hopeless(snapshot, tally, course.max_failures)
        course.watcher.progress(snapshot, engine.depths())


def _poll(tally: Tally, course: Course) -> bool:
    """Take what there is to hear; tell whether there was anything."""
    events = course.engine.poll(POLL_SECONDS)
    _count(events, tally, course.journal)
    course.engine.ack()
    course.journal.compact_into(tally)
    return bool(events)


def _drain(tally: Tally, course: Course) -> None:
    """Take the events that are still there once nobody works any more."""
    while _poll(tally, course):
        pass


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
            return S3BulkCopyError(f"this store cannot be listed in ranges: {fatal.cause}")
