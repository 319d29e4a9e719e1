"""The run: submit the roots, poll, count, let go, show, until every announced task has ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from s3bulkcopy.engines import Proof
from s3bulkcopy.errors import BucketUnavailable, Detached, Interrupted, NotPermitted, ObjectsFailed, S3BulkCopyError
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.keyspace import fan_out
from s3bulkcopy.worker.model import Attempt, Counts, Done, ListTask, Nothing, Range, WalkTask, decode_task, encode_task
from s3bulkcopy.worker.planner import first_cuts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from s3bulkcopy.engines import Depths, Engine
    from s3bulkcopy.journal import Journal
    from s3bulkcopy.tally import RangeFailure, Snapshot
    from s3bulkcopy.worker.model import Event, Failure, Fatal, Job, Listing
    from s3bulkcopy.worker.s3 import Page

#: How many of the first listed objects a probe may try, one of which must be copied.
PROBE_ITEMS = 10

#: Most places at which the first page is asked where keys may lie behind it.
FIRST_CUTS = 32

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
    #: Whether everything was only listed.
    dry: bool = False


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


def run(job: Job, first_page: Page, course: Course, *, is_cut: bool = True, detached: bool = False) -> Result:
    """Copy everything that the job names; `first_page` is the source's first page, and is not empty.

    Of a job that is `dry` everything is listed and counted, and nothing is copied. `is_cut` tells whether the source can be
    listed in ranges of keys. Raises what stops the run, after the engine has unmade everything; `detached` raises Detached once
    the work is queued.
    """
    tally = Tally()

    def begin() -> None:
        proof = _prove(course.engine, job, first_page, course.watcher)
        roots = _roots(course.engine.job, first_page, proof.taken, is_cut=is_cut)
        # What is about to be queued is on disk before it is: should this command die meanwhile, another queues it again.
        journal = course.journal
        journal.note(replace(journal.facts, roots=tuple(map(encode_task, roots))))
        tally.announce(job.run_id, len(roots) + 1)
        _count(proof.events, tally, journal)
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
            course.engine.submit([task for task in map(decode_task, facts.roots) if not isinstance(task, Nothing)])
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
            watcher.step("listing" if job.dry else "listing and copying")
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
        dry=job.dry,
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


def _prove(engine: Engine, job: Job, first_page: Page, watcher: Watcher) -> Proof:
    """Prove the workers' rights on the first objects, of which those taken count as listed; a dry run needs no proof."""
    name = f"{job.run_id}.0"
    if job.dry:
        return Proof((Done(name, Attempt(1, "dry"), 0, Counts()),), 0)
    watcher.step("checking that the workers may list, read, write and report")
    first = first_page.items[:PROBE_ITEMS]
    proof = engine.prove(name, first)
    taken = first[: proof.taken]
    listed = Counts(listed=len(taken), listed_bytes=sum(item.size for item in taken))
    events = tuple(e._replace(counts=e.counts + listed) if isinstance(e, Done) else e for e in proof.events)
    return Proof(events, proof.taken)


def _roots(job: Job, first_page: Page, taken: int, *, is_cut: bool) -> list[Listing]:
    """Give the tasks that list all objects but the first ones, which are taken."""
    keys = [item.key for item in first_page.items]
    if not is_cut:
        return [WalkTask(f"{job.run_id}.1", job, tuple(keys[:taken]))]
    after = keys[taken - 1] if taken else ""
    ranges = [Range(after, None)]
    if first_page.truncated:
        ranges = fan_out(job.source.prefix, keys, after, first_cuts(keys, job.source.prefix, FIRST_CUTS))
    return [ListTask(f"{job.run_id}.{n}", job, (piece,)) for n, piece in enumerate(ranges, 1)]


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
            return S3BulkCopyError(
                f"this store cannot be listed in ranges: {fatal.cause}",
                hint="--one-lister lists it page after page, with the local engine",
            )
