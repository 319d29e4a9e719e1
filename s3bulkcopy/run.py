"""The run: submit the roots, poll, count, let go, show, until every announced task has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from s3bulkcopy.errors import BucketUnavailable, Interrupted, NotPermitted, ObjectsFailed, S3BulkCopyError
from s3bulkcopy.tally import Tally
from s3bulkcopy.worker.keyspace import fan_out
from s3bulkcopy.worker.model import Counts, Done, ListTask, Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.engines import Depths, Engine
    from s3bulkcopy.tally import RangeFailure, Snapshot
    from s3bulkcopy.worker.model import Event, Failure, Fatal, Job
    from s3bulkcopy.worker.s3 import Page

#: How many of the first listed objects a probe may try, one of which must be copied.
PROBE_ITEMS = 10

#: How long one poll waits for events, in seconds; the screen is refreshed as often.
POLL_SECONDS = 1.0

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


def run(
    job: Job,
    first_page: Page,
    engine: Engine,
    watcher: Watcher,
    *,
    max_failures: int | None = None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float],
) -> Result:
    """Copy everything that the job names; `first_page` is the source's first page, and is not empty.

    `check` may raise to stop the run and is called once a second; `clock` gives seconds of any steady clock. Raises what
    stops the run, after the engine has unmade everything.
    """
    began = clock()
    tally = Tally()
    try:
        with engine:
            deployed = clock()
            watcher.step("checking that the workers may list, read, write and report")
            roots, first_events = _prepare(engine, job, first_page)
            tally.announce(job.run_id, len(roots) + 1)
            tally.add(first_events)
            proven = clock()
            watcher.step(f"queueing {_some(len(roots), 'range')} that cover the key space")
            engine.submit(roots)
            watcher.step("listing and copying")
            _watch(engine, tally, watcher, max_failures, check)
            watcher.step("waiting until no worker is at work any more")
            # Always: of a task that a queue holds twice, nothing tells before the second worker reports.
            engine.settle()
            late = _drain(engine, POLL_SECONDS if tally.snapshot().unquiet else 0.0)
            # Nobody works on what a late Done would announce: its task stays dead, and what it was to do is named.
            tally.add([event for event in late if not tally.would_reopen(event)])
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
        failures=tuple(tally.all_failures()),
        failed_ranges=tuple(tally.failed_ranges()),
        phases=Phases(deployed - began, proven - deployed, worked - proven, ended - worked),
        seconds=ended - began,
        resources_left=engine.left,
    )


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


def _watch(engine: Engine, tally: Tally, watcher: Watcher, max_failures: int | None, check: Callable[[], None]) -> None:
    """Poll until the run is complete; raises where it cannot go on, or should not."""
    while not tally.complete:
        check()
        tally.add(engine.poll(POLL_SECONDS))
        engine.ack()
        tally.under_way = engine.under_way()
        snapshot = tally.snapshot()
        _stop_if_hopeless(snapshot, tally.failures, max_failures)
        watcher.progress(snapshot, engine.depths())


def _drain(engine: Engine, seconds: float) -> list[Event]:
    """Take the events that are still there once nobody works any more; wait so long for each."""
    events: list[Event] = []
    while more := engine.poll(seconds):
        events += more
        engine.ack()
    return events


def _stop_if_hopeless(snapshot: Snapshot, failures: list[Failure], max_failures: int | None) -> None:
    if snapshot.fatal is not None:
        raise _as_error(snapshot.fatal)
    counts, failed = snapshot.counts, snapshot.seen.failed
    if max_failures is not None and failed > max_failures:
        raise ObjectsFailed(
            f"{failed:,} objects failed, more than --max-failures {max_failures:,}",
            hint=f"the last: {failures[-1].key!r}: {failures[-1].cause}" if failures else "",
        )
    denied = len(failures) >= DENIED_OBJECTS and all(f.code == "AccessDenied" for f in failures[-DENIED_OBJECTS:])
    if denied and counts.copied <= 1:
        raise NotPermitted(
            f"all of the first {len(failures):,} objects were denied",
            hint=f"S3 says: {failures[-1].cause}. Look at the bucket policies of source and destination.",
        )


def _as_error(fatal: Fatal) -> S3BulkCopyError:
    match fatal.kind:
        case "not_found":
            return BucketUnavailable(f"a bucket is gone: {fatal.cause}")
        case "not_permitted":
            return NotPermitted(f"the workers are not permitted to go on: {fatal.cause}")
        case "unsupported":
            return S3BulkCopyError(f"this store cannot be listed in ranges: {fatal.cause}")
