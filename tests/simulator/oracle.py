"""What must hold after a schedule, whatever happened in it.

The oracle trusts nothing that the run says of itself: it follows the tasks that were sent and the events that arrived from the
roots on, by the rules of the protocol, and compares what the run counted with what the store holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3bulkcopy.worker.model import (
    Copying,
    CopyTask,
    Counts,
    Dead,
    Done,
    Item,
    Listing,
    MalformedMessage,
    Nothing,
    Task,
    decode_task,
)
from tests.unit.worker.worker_fakes import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from s3bulkcopy.run import Result
    from s3bulkcopy.tally import RangeFailure
    from s3bulkcopy.worker.model import Event, Failure, Item
    from tests.simulator.schedule import Simulation


#: What is checked after each schedule, beside that it ends.
INVARIANTS = (
    "the run ends within bounded time, and so does every task",
    "nothing is left pending when an invocation ends",
    "each task that was announced is done or dead, and was taken by a queue",
    "each object that is there all the time is listed exactly once, or in a range that is named as not listed",
    "each listed object is at the destination as listed, or vanished, or named with key, code and cause",
    "listed = copied + skipped + vanished + failed, and all are those of the tasks that count",
    "no more is counted as copied, once or twice, than was copied; in calm weather just that",
    "nothing is copied in a version that no listing showed, or over what is to stay",
    "nothing is written once the engine has said that all is quiet, nor after the command has returned",
    "the same events in another order, repeated and delayed, give the same sum",
    "without the end of one task that counts the run stays open",
    "a run is stopped only by what is to stop it",
    "no multipart upload is left, and what is made of parts is one whole version of an object",
)


class Broken(AssertionError):
    """Something that always holds did not."""


def check(simulation: Simulation) -> None:
    """Check everything; raises Broken."""
    _check_quiet(simulation)
    _check_writes(simulation)
    _check_uploads(simulation)
    if simulation.result is not None:
        _Account(simulation, simulation.result).check()
        _check_tally(simulation, simulation.world.random)
    else:
        _hold(
            simulation.weather.bucket_gone_at is not None or simulation.weather.interrupted_at is not None,
            f"the run was stopped for no reason: {simulation.error!r}",
        )


def _hold(holds: bool, what: str) -> None:  # noqa: FBT001 - it is the assertion itself
    if not holds:
        raise Broken(what)


def _check_quiet(simulation: Simulation) -> None:
    """Nothing is written once it was said that nobody is at work any more, nor after the command has returned."""
    settled_at = simulation.engine.settled_at
    quiet_from = simulation.ended_at if settled_at is None else settled_at
    writes = simulation.store.writes
    late = [write for write in writes if write.when > quiet_from]
    if simulation.weather.faults.delivered_twice:
        # Of a message that is with two workers SQS forgets the one when the other deletes it. Nobody can know of him; but
        # what he copies is there already.
        there = {(write.key, write.etag) for write in writes if write.when <= quiet_from}
        late = [write for write in late if (write.key, write.etag) not in there]
    _hold(not late, f"{len(late)} objects were written after {quiet_from:.1f}, when all was quiet: {late[:3]}")


def _check_writes(simulation: Simulation) -> None:
    """Nothing is written in another version than a message or an answer about it named, nor over what is to be kept."""
    named = {(item.key, item.etag) for task in tasks_of(simulation) if isinstance(task, Copying) for item in task.items}
    named |= {(item.key, item.etag) for item in simulation.engine.taken}
    named |= simulation.store.looked_up
    probed = simulation.stirred_at
    for write in simulation.store.writes:
        known = (write.key, write.etag) in named or write.when <= probed
        _hold(known, f"{write} is a version that no list request showed")
        kept = not simulation.weather.overwrite and simulation.store.target(write.key) in simulation.existing
        _hold(not kept, f"{write} replaced what was there before")


def _check_uploads(simulation: Simulation) -> None:
    """No upload is left; that a version is whole is seen to by the store, when an object is made."""
    weather, settled_at = simulation.weather, simulation.engine.settled_at
    left = [*simulation.store.multipart.uploads.values()]
    if weather.faults.delivered_twice and settled_at is not None:  # see _check_quiet
        left = [upload for upload in left if upload.begun - NOW <= settled_at]
    _hold(not left, f"{len(left)} uploads are left: {left[:1]}")


def _heard(simulation: Simulation) -> list[Event]:
    """Give the events that count: not the end of a task taken for dead, with children, that came when nobody was at work."""
    events, settled = simulation.engine.events, simulation.engine.heard_before_settling
    died = {event.id for event in events[:settled] if isinstance(event, Dead)}
    died -= {event.id for event in events[:settled] if isinstance(event, Done)}
    late = [e for e in events[settled:] if not (isinstance(e, Done) and e.children and e.id in died)]
    return events[:settled] + late


def tasks_of(simulation: Simulation) -> list[Task]:
    """Give every task that was ever sent, once all is over."""
    if simulation.sent is None:
        simulation.sent = [*_sent(simulation)]
    return simulation.sent


def _sent(simulation: Simulation) -> Iterator[Task]:
    for kind in ("list", "copy"):
        for body in simulation.queues.by_kind[kind].log:
            try:
                task = decode_task(body)
            except MalformedMessage:
                continue
            if not isinstance(task, Nothing):
                yield task


@dataclass
class _Account:
    """What became of each object, by the tasks that count."""

    simulation: Simulation
    result: Result
    counts: Counts = field(default_factory=Counts)
    listed: list[Item] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    dead: list[Task] = field(default_factory=list)
    copied_by_losers: int = 0
    #: What the journal names as failed, as another command would read it.
    failures: list[Failure] = field(default_factory=list)
    failed_ranges: list[RangeFailure] = field(default_factory=list)

    def __post_init__(self) -> None:
        journal = self.simulation.journal
        tally = journal.replay()
        self.failures, self.failed_ranges = [*journal.failures(tally)], [*journal.failed_ranges(tally)]
        self._follow(_heard(self.simulation))

    def _follow(self, events: list[Event]) -> None:
        """Follow the tasks that count, from the roots."""
        simulation = self.simulation
        tasks = {task.id: task for task in [*simulation.engine.submitted, *tasks_of(simulation)]}
        first: dict[str, Done] = {}
        losers: dict[tuple[str, str], int] = {}
        died: dict[str, Task] = {}
        for event in events:
            if isinstance(event, Done) and first.setdefault(event.id, event).attempt.nonce != event.attempt.nonce:
                losers[event.id, event.attempt.nonce] = event.counts.copied
            if isinstance(event, Dead):
                died[event.id] = event.task
        self.copied_by_losers = sum(losers.values())
        todo = [task.id for task in simulation.engine.submitted]
        while todo:
            name = todo.pop()
            done = first.pop(name, None)
            if done is None:
                _hold(name in died, f"task {name} was announced, and neither ended nor died, yet the run did")
                self.dead.append(died[name])
                continue
            self.counts += done.counts
            self.failed.update(failure.key for failure in done.failures)
            for n in range(done.children):
                child = f"{done.attempt.nonce}.{n}"
                _hold(child in tasks, f"{name} announced {child}, which no queue has taken")
                task = tasks[child]
                if isinstance(tasks[name], Listing) and isinstance(task, CopyTask):
                    self.listed += task.items
                todo.append(child)
        first.pop(f"{simulation.job.run_id}.0", None)
        self.copied_by_losers += sum(done.counts.copied for done in first.values())

    def check(self) -> None:
        self._check_sums()
        self._check_listing()
        self._check_destination()
        self._check_failures()

    def _check_sums(self) -> None:
        """The run's sums are those of the tasks that count, and add up."""
        counts, snapshot = self.result.snapshot.counts, self.result.snapshot
        taken = self.simulation.engine.taken
        lost = sum(len(task.items) for task in self.dead if isinstance(task, Copying))
        probe = snapshot.counts - self.counts
        _hold(probe.listed == len(taken), f"listed {counts.listed}, by the tasks {self.counts.listed} and {len(taken)} proven")
        _hold(counts.listed == len(self.listed) + len(taken), f"listed {counts.listed}, sent {len(self.listed)}, {len(taken)}")
        ended = probe.copied + probe.skipped + probe.vanished + probe.failed
        _hold(ended == len(taken) + lost, f"{ended} ended beside the tasks: {len(taken)} proven, {lost} in dead tasks")
        equal = counts.listed == counts.copied + counts.skipped + counts.vanished + counts.failed
        _hold(equal, f"the sum does not add up: {counts}")
        _hold(snapshot.complete, "the run ended before it was complete")
        made = len(self.simulation.store.writes)
        _hold(snapshot.duplicates == self.copied_by_losers, f"duplicates {snapshot.duplicates}, not {self.copied_by_losers}")
        if self.simulation.weather.overwrite:
            # A task that is repeated finds the object that its first attempt made of parts, and says that it is there.
            twice = 0 if self.simulation.store.multipart.number else snapshot.duplicates
            _hold(made >= counts.copied + twice, f"{made} copies made, {counts.copied} + {snapshot.duplicates} counted")
        if _is_calm(self.simulation):
            _hold(made == counts.copied and not snapshot.duplicates, f"{made} copies, {counts.copied} counted, in calm weather")

    def _check_listing(self) -> None:
        """Every object that is there all the time is listed once, unless its range is named as not listed."""
        store = self.simulation.store
        times = Counter(item.key for item in [*self.listed, *self.simulation.engine.taken])
        for key in store.source:
            if key in store.moving:
                continue
            _hold(times[key] <= 1, f"{key!r} was listed {times[key]} times")
            if self._may_be_left_out(store.source[key]):
                continue
            in_dead_range = any(key in failed.range for failed in self.failed_ranges)
            _hold(times[key] == 1 or in_dead_range, f"{key!r} was not listed")
        _hold(
            len(self.failed_ranges) == sum(len(task.ranges) for task in self.dead if isinstance(task, Listing)),
            f"{len(self.failed_ranges)} ranges are named as not listed",
        )

    def _may_be_left_out(self, item: Item) -> bool:
        """Tell whether an object is, or was for a while, the marker of a folder for which the destination has no key."""
        store, weather = self.simulation.store, self.simulation.weather
        is_own = item.key == weather.prefix and not weather.destination_prefix
        return is_own and (item.is_marker or item.key in store.changing)

    def _check_destination(self) -> None:
        """Every listed object is at the destination as it was listed, or newer by an orphan's copy, or it is named."""
        store, simulation = self.simulation.store, self.simulation
        named = {failure.key for failure in self.failures}
        missing = []
        for item in [*self.listed, *simulation.engine.taken]:
            there = store.destination.get(store.target(item.key))
            versions = store.versions[item.key]
            is_there = there in versions and versions.index(str(there)) >= versions.index(item.etag)
            is_kept = there is not None and not simulation.weather.overwrite
            if not is_there and not is_kept and item.key not in named:
                missing.append(item.key)
        gone = [key for key in missing if key in store.moving]
        _hold(len(gone) == len(missing), f"neither there nor named: {sorted(set(missing) - set(gone))}")
        vanished = self.result.snapshot.counts.vanished
        _hold(len(gone) <= vanished, f"{gone} are neither there nor named, and {vanished} vanished")
        _hold(vanished <= len(store.moving), f"{vanished} vanished, of {len(store.moving)} that could")

    def _check_failures(self) -> None:
        """Every failure names an object that was listed, a code and a cause, and is told once."""
        failures = self.failures
        listed = {item.key for item in self.listed} | {item.key for item in self.simulation.engine.taken}
        _hold(len(failures) == self.result.snapshot.counts.failed, f"{len(failures)} failures are named")
        for failure in failures:
            _hold(bool(failure.key in listed and failure.code and failure.cause), f"a failure without a name: {failure}")
        _hold(self.failed <= {failure.key for failure in failures}, "a failure that was reported is not named")


def _is_calm(simulation: Simulation) -> bool:
    """Tell whether nothing could go wrong, nor take so long that an answer is not waited for."""
    weather, faults = simulation.weather, simulation.weather.faults
    is_quick = weather.latency <= 0.1 and not weather.list_latency and not weather.poison
    return is_quick and not any(getattr(faults, name) for name in faults.__slots__)


def _check_tally(simulation: Simulation, random: Random) -> None:
    """Events in another order, late and repeated give the same sum; without one that counted the run is open."""
    events = _heard(simulation)
    tally = simulation.tally()
    proof = simulation.engine.proof
    total = len(simulation.engine.submitted) + 1
    again = _shuffled(events, random)
    for event in again[: len(again) // 3]:
        tally.add([event])
    tally.announce(simulation.job.run_id, total)
    tally.add(proof)
    tally.add(again[len(again) // 3 :])
    said, now = simulation.result and simulation.result.snapshot, tally.snapshot()
    assert said is not None
    for name in ("counts", "ranges_failed", "duplicates", "complete", "dead", "tasks"):
        one, other = getattr(said, name), getattr(now, name)
        _hold(one == other, f"in another order the same events give {name} {other}, not {one}")
    ended = [event.id for event in events if isinstance(event, Done)]
    for missing in random.sample(ended, min(2, len(ended))):
        tally = simulation.tally()
        tally.announce(simulation.job.run_id, total)
        tally.add(proof)
        tally.add(event for event in events if event.id != missing)
        is_counted = not _is_orphan(simulation, missing)
        _hold(tally.complete != is_counted, f"without the end of {missing} the run is {'not ' * (not is_counted)}complete")


def _is_orphan(simulation: Simulation, name: str) -> bool:
    """Tell whether a task is none that counts."""
    first: dict[str, Done] = {}
    for event in _heard(simulation):
        if isinstance(event, Done):
            first.setdefault(event.id, event)
    todo = [task.id for task in simulation.engine.submitted]
    while todo:
        at = todo.pop()
        if at == name:
            return False
        if at in first:
            todo += [f"{first[at].attempt.nonce}.{n}" for n in range(first[at].children)]
    return True


def _shuffled(events: list[Event], random: Random) -> list[Event]:
    """Give events in any order and some of them twice, but of each task's ends the first one first: it decides what counts."""
    mixed = events + random.sample(events, len(events) // 3)
    random.shuffle(mixed)
    order: dict[str, int] = {}
    ends: dict[str, list[int]] = {}
    for n, event in enumerate(events):
        if isinstance(event, Done):
            order.setdefault(f"{event.id} {event.attempt.nonce}", n)
    for n, event in enumerate(mixed):
        if isinstance(event, Done):
            ends.setdefault(event.id, []).append(n)
    for places in ends.values():
        dones = [mixed[n] for n in places]
        dones.sort(key=lambda done: order[f"{done.id} {done.attempt.nonce}"] if isinstance(done, Done) else 0)
        for n, done in zip(places, dones, strict=True):
            mixed[n] = done
    return mixed
