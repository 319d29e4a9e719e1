"""Copying: the items of many tasks over one window of requests.

Each lane is a coroutine with at most one request on its way: it takes the next item, from each task in turn, copies
it, and tells the task what became of it. Lanes are as many as the window allows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.model import MAX_COPY_OBJECT_BYTES, Counts, Failure, Item, Job
from s3bulkcopy.worker.s3 import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from s3bulkcopy.worker.pacing import Window
    from s3bulkcopy.worker.s3 import S3, JobCopies

#: Faults of one item, other than SlowDown, after which it is recorded as failed.
ITEM_TRIES = 8

#: How long copies on their way are waited for after the deadline: in seconds, and as a share of the time before it.
LANDING_SECONDS = 15.0
LANDING_SHARE = 0.2

#: How long a permission may be on its way to an environment that has not copied anything yet, in seconds.
PROOF_SECONDS = 15.0

#: Deliveries of a task after which a denial is believed even where nothing was ever copied.
PROOF_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task's items; `rest` was not begun, or not ended, in time."""

    counts: Counts
    failures: tuple[Failure, ...]
    rest: tuple[Item, ...]


class _Batch:
    """The items of one task on their way."""

    def __init__(self, job: Job, copies: JobCopies, items: Iterable[Item], deadline: float, *, trusting: bool) -> None:
        self.job = job
        self.copies = copies
        self.items = deque(items)
        self.deadline = deadline
        #: Whether a denial is believed although nothing was ever copied.
        self.trusting = trusting
        self.in_flight: set[Item] = set()
        #: Set once the outcome was given: nothing counts any more.
        self.closed = False
        #: When the first denial came that could be a permission on its way, in seconds of the event loop's clock.
        self.denied_since: float | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rest: list[Item] = []
        self.failures: list[Failure] = []
        self.copied = self.copied_bytes = self.skipped = self.vanished = 0
        self.requests = self.retries = self.throttles = 0

    def fail(self, item: Item, fault: Fault) -> None:
        self.failures.append(Failure(item.key, item.size, fault.code, fault.cause))

    def is_denied_for_good(self, now: float) -> bool:
        """Take note of a denial; tell whether denials have lasted longer than a permission is on its way."""
        if self.denied_since is None:
            self.denied_since = now
        return now - self.denied_since > PROOF_SECONDS

    def end(self, error: BaseException | None = None) -> None:
        if not self.ended.done() and not self.closed:
            if error is not None:
                self.ended.set_exception(error)
            else:
                self.ended.set_result(None)

    def close(self) -> Outcome:
        """Give what became of the items; those that are still on their way are left over, whatever becomes of them."""
        self.closed = True
        self.rest.extend(self.in_flight)
        return self.outcome()

    def outcome(self) -> Outcome:
        counts = Counts(
            copied=self.copied,
            copied_bytes=self.copied_bytes,
            skipped=self.skipped,
            vanished=self.vanished,
            failed=len(self.failures),
            copy_requests=self.requests,
            retries=self.retries,
            throttles=self.throttles,
        )
        return Outcome(counts, tuple(self.failures), tuple(self.rest))


class Copier:
    """Copies the items of many tasks over one window; one per environment."""

    def __init__(self, s3: S3, window: Window, pauses: Callable[[int], float]) -> None:
        """Send by `s3`, at most `window` requests at a time, with `pauses(n)` seconds before the n-th repetition."""
        self._s3 = s3
        self._window = window
        self._pauses = pauses
        self._batches: deque[_Batch] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        #: Whether anything was ever copied: from then on a denial is about the object, not a permission on its way.
        self._proven = False

    async def copy(self, job: Job, items: Iterable[Item], deadline: float, *, attempt: int) -> Outcome:
        """Copy items until `deadline`, in seconds of the event loop's clock; those on their way then get a little longer.

        Raises Stop where no request of the run can succeed, and Failed where this environment is of no use.
        """
        batch = _Batch(job, self._s3.copies(job), items, deadline, trusting=attempt >= PROOF_ATTEMPTS)
        self._batches.append(batch)
        self._open_lanes()
        if not batch.items:
            batch.end()
        seconds = deadline - asyncio.get_running_loop().time()
        landing = min(LANDING_SECONDS, LANDING_SHARE * seconds)
        try:
            await asyncio.wait([batch.ended], timeout=None if deadline == float("inf") else seconds + landing)
        finally:
            batch.items.clear()
        if batch.ended.done():
            batch.ended.result()
        return batch.close()

    async def probe(self, job: Job, items: Iterable[Item]) -> Outcome | Failed:
        """Copy one item after another until one proves the right to, or give the denial that all of them met.

        An answer other than a denial proves it too, for S3 looks at permissions first.
        """
        batch = _Batch(job, self._s3.copies(job), items, float("inf"), trusting=True)
        denied: list[tuple[Item, Fault]] = []
        proven = False
        while batch.items and not proven:
            item = batch.items.popleft()
            fault = _refusal(job, item)
            if fault is None:
                batch.requests += 1
                fault = await batch.copies.copy(item)
                proven = fault is None or fault.next is Next.EXISTS
            if fault is None:
                self._copied(batch, item)
            elif fault.next is Next.DENIED:
                denied.append((item, fault))
            elif fault.next in (Next.RETRY, Next.SLOW_DOWN, Next.STOP, Next.EXPIRED):
                return Failed(fault, "copying")
            else:
                self._settle(batch, item, fault)
        if denied and not proven:
            return Failed(denied[0][1], "copying")
        for item, fault in denied:
            await self._conclude(batch, item, fault)
        batch.rest.extend(batch.items)
        return batch.outcome()

    def _open_lanes(self) -> None:
        waiting = sum(len(batch.items) for batch in self._batches)
        for _ in range(min(waiting, int(self._window.size) - len(self._lanes))):
            self._lanes.add(asyncio.create_task(self._lane()))

    def _take(self) -> tuple[_Batch, Item] | None:
        """Give the next item, from each batch in turn, or None where there is none or the window has shrunk."""
        if len(self._lanes) > self._window.size:
            return None
        now = asyncio.get_running_loop().time()
        while self._batches:
            batch = self._batches[0]
            self._batches.rotate(-1)
            if now >= batch.deadline:
                batch.rest.extend(batch.items)
                batch.items.clear()
            if batch.items:
                item = batch.items.popleft()
                batch.in_flight.add(item)
                return batch, item
            self._batches.remove(batch)
            if not batch.in_flight:
                batch.end()
        return None

    async def _lane(self) -> None:
        try:
            while (taken := self._take()) is not None:
                batch, item = taken
                try:
                    await self._copy_one(batch, item)
                except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
                    batch.items.clear()
                    batch.end(error)
                batch.in_flight.discard(item)
                if not batch.items and not batch.in_flight:
                    batch.end()
        finally:
            self._lanes.discard(asyncio.current_task())

    async def stop(self) -> None:
        """End the lanes that a cancelled task left behind, so that nothing is pending."""
        lanes = [*self._lanes]
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        self._lanes.clear()  # a lane that never began cannot take itself out
        self._batches.clear()

    async def _copy_one(self, batch: _Batch, item: Item) -> None:
        refusal = _refusal(batch.job, item)
        if refusal is not None:
            self._settle(batch, item, refusal)
            return
        loop = asyncio.get_running_loop()
        tries = faults = 0
        while True:
            sent_at = loop.time()
            batch.requests += 1
            fault = await batch.copies.copy(item)
            now = loop.time()
            if batch.closed:
                return
            if fault is None:
                self._copied(batch, item)
                self._window.answered(now)
                if len(self._lanes) < int(self._window.size):
                    self._open_lanes()
                return
            tries += 1
            faults += fault.next is Next.RETRY
            if fault.next is Next.SLOW_DOWN:
                batch.throttles += 1
                self._window.throttled(sent_at, now)
            if not self._is_passing(batch, fault, faults, now):
                await self._conclude(batch, item, fault)
                return
            pause = self._pauses(tries)
            if now + pause >= batch.deadline:
                batch.rest.append(item)
                return
            batch.retries += 1
            await asyncio.sleep(pause)

    def _is_passing(self, batch: _Batch, fault: Fault, faults: int, now: float) -> bool:
        """Tell whether to ask again, after so many faults of one item."""
        match fault.next:
            case Next.SLOW_DOWN:
                return True
            case Next.RETRY:
                return faults < ITEM_TRIES
            case Next.DENIED:
                return not self._proven and not batch.is_denied_for_good(now)
            case _:
                return False

    async def _conclude(self, batch: _Batch, item: Item, fault: Fault) -> None:
        """End an item at a fault that asking again would not change."""
        if fault.next is Next.STOP:
            raise Stop("not_found" if fault.code == "NoSuchBucket" else "not_permitted", str(fault))
        unproven = fault.next is Next.DENIED and not self._proven and not batch.trusting
        if unproven or fault.next is Next.EXPIRED:
            raise Failed(fault, "copying")
        if fault.next is Next.DENIED and await self._is_gone(batch, item):
            batch.vanished += 1
            return
        self._settle(batch, item, fault)

    def _copied(self, batch: _Batch, item: Item) -> None:
        self._proven = True
        batch.copied += 1
        batch.copied_bytes += item.size

    def _settle(self, batch: _Batch, item: Item, fault: Fault) -> None:
        match fault.next:
            case Next.VANISHED:
                batch.vanished += 1
            case Next.EXISTS:
                self._proven = True
                batch.skipped += 1
            case _:
                batch.fail(item, fault)

    async def _is_gone(self, batch: _Batch, item: Item) -> bool:
        """Look whether a denied object is there at all: a role that may not list the whole bucket is told 403, not 404.

        Asked for denied objects only, so that no other costs a request.
        """
        batch.requests += 1
        page = await self._s3.page(batch.job.source, item.key, "", max_keys=1)
        if isinstance(page, Page):
            return item.key not in (found.key for found in page.items)
        if page.next is Next.DENIED:  # it is not the object that is denied: this environment has lost its rights
            raise Failed(page, "copying and listing")
        return False


def _refusal(job: Job, item: Item) -> Fault | None:
    """Give the fault of an item that no CopyObject can copy."""
    if item.size > MAX_COPY_OBJECT_BYTES:
        return Fault(Next.RECORD, "EntityTooLarge", f"{item.size} bytes; CopyObject ends at {MAX_COPY_OBJECT_BYTES}")
    if not job.destination_key(item.key):
        return Fault(Next.RECORD, "EmptyKey", "the source's prefix itself: nothing is left for the destination's key")
    return None
