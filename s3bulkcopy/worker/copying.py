"""Copying: the items of many tasks over one pace.

Each request is a link of a chain: the answer to it is accounted for, and takes the next item, of each task in turn, to the
connection that has become free. There is no coroutine for an item, and none for a connection but to open it.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from contextlib import suppress
from itertools import count
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.connections import ConnectionLost
from s3bulkcopy.worker.failures import NOT_KNOWN, Failed, Fault, Next, Stop, lost, stop_for
from s3bulkcopy.worker.model import Counts, Failure, Item, Job, clip
from s3bulkcopy.worker.s3 import PATIENCE_SECONDS, PATIENCE_SECONDS_PER_BYTE, Page, is_copied, read_copy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable

    from s3bulkcopy.worker.connections import Connection
    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.pacing import Pace
    from s3bulkcopy.worker.s3 import S3, JobCopies

T = TypeVar("T")

#: How long an item is tried again after its first fault, in seconds; and how long where S3 asks for patience, or where so many
#: items are in trouble and none succeeds.
RETRY_SECONDS = 30.0
OUTAGE_SECONDS = 900.0
OUTAGE_ITEMS = 8

#: Items of one task that may be in trouble before no more of it are begun.
MOST_TROUBLED = 32

#: Items of one task in trouble after which a refusal says nothing new, unless all tasks have as many: the task's partition has
#: enough, others may not.
TELLING_TROUBLES = 8

#: Objects from this size on take their time to be copied, in bytes; others all take about as long.
LARGE_BYTES = 1024 * 1024

#: How long copies on their way are waited for after the deadline: in seconds, and as a share of the time before it.
LANDING_SECONDS = 15.0
LANDING_SHARE = 0.2

#: How long a permission may be on its way to an environment that has not copied anything yet, in seconds.
PROOF_SECONDS = 15.0

#: Deliveries of a task after which a denial is believed even where nothing was ever copied.
PROOF_ATTEMPTS = 3

#: List requests about single objects that may be under way at a time.
INQUIRIES = 8

#: Objects that something is asked about before their copy, at a time: what an ACL grants.
ASKED_FIRST = 128

#: How long nothing gets to its end, for faults that may pass, before that is told; and how soon the last is past. In seconds.
TROUBLE_SECONDS = 10.0
_TROUBLE_PAST_SECONDS = 120.0

#: How often to look whether all requests have landed, in seconds.
_LOOK_SECONDS = 0.02

#: Of an item, as its attributes say it; half the price.
_KEY = itemgetter(0)

#: Copies that are accounted for together, at most: many cost less each, and those sent in their place wait for the last.
_AT_ONCE = 64

#: The shortest sleep for the pace's sake, in seconds; many requests go at once after it.
_TICK_SECONDS = 0.002


class Outcome(NamedTuple):
    """What became of a task's items; `rest` was not begun, or not ended, in time."""

    counts: Counts
    failures: tuple[Failure, ...]
    rest: tuple[Item, ...]


class _Batch:
    """The items of one task on their way."""

    #: Whether something may have to be known of items before they are copied.
    _asks = True
    #: Whether what is left where credentials expire may be another task's, so that what is copied need not be copied again.
    is_divisible = True

    def __init__(self, job: Job, copies: JobCopies, items: Iterable[Item], deadline: float, *, trusting: bool) -> None:
        self.job = job
        self.copies = copies
        self.items = deque(items)
        self.deadline = deadline
        #: Whether a denial is believed although nothing was ever copied.
        self.trusting = trusting
        policy = job.policy
        #: Whether something is to be known of each item before it is copied, which costs requests.
        self.asks_first = self._asks and (
            policy.preserves_acl or (policy.preserves_class and not all(item[3] for item in self.items))
        )
        #: Items whose end is not known yet: waiting, in flight or pausing.
        self.open = 0
        self.in_flight: set[_Turn] = set()
        #: Open items that have met a fault.
        self.troubled = 0
        #: When the first denial came that could be a permission on its way, in seconds of the event loop's clock.
        self.denied_since: float | None = None
        self.ended: aio.Future = aio.get_running_loop().create_future()
        #: That these credentials have expired, if they have.
        self.expired: Failed | None = None
        self.rest: list[Item] = []
        self.failures: list[Failure] = []
        self.copied = self.copied_bytes = self.skipped = self.vanished = 0
        self.pages = self.requests = self.retries = self.throttles = self.uploads = 0
        self._refuse()
        self.open = len(self.items)
        if not self.open:
            self.end()

    def _refuse(self) -> None:
        """Fail what no request can copy: seldom anything, and looking at each costs more."""
        if self.job.source.prefix in map(_KEY, self.items):
            for item in [*self.items]:
                if (refusal := refusal_of(self.job, item)) is not None:
                    self.items.remove(item)
                    self.fail(item, refusal)

    def meet(self, fault: Fault) -> None:
        """Learn of a fault that asking again would not change; it ends its item, and no other."""

    def fail(self, item: Item, fault: Fault) -> None:
        self.failures.append(Failure(item.key, item.size, fault.code, fault.cause))

    def is_denied_for_good(self, now: float) -> bool:
        """Take note of a denial; tell whether denials have lasted longer than a permission is on its way."""
        if self.denied_since is None:
            self.denied_since = now
        return now - self.denied_since > PROOF_SECONDS

    def conclude(self, items: int = 1) -> None:
        """Take note that the end of so many items is known."""
        self.open -= items
        if not self.open:
            self.end()

    def conclude_turn(self, turn: _Turn) -> None:
        """Take note that the end of a turn's item is known."""
        if turn.tries:
            self.troubled -= 1
        self.conclude()

    def count_copied(self, turn: _Turn) -> None:
        """Take note that a turn's item is at the destination."""
        self.copied += 1
        self.copied_bytes += turn.item[1]
        if turn.tries:
            self.troubled -= 1
        self.open -= 1
        if not self.open:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)

    def leave(self, items: Iterable[Item]) -> None:
        """Leave items for another attempt."""
        before = len(self.rest)
        self.rest += items
        self.conclude(len(self.rest) - before)

    def leave_turn(self, turn: _Turn) -> None:
        """Leave a turn's item for another attempt."""
        if turn.tries:
            self.troubled -= 1
        self.leave([turn.item])

    async def is_over(self, by: float) -> bool:
        """Wait until the end of every item is known, or until `by`; raises what ended the batch early."""
        seconds = None if by == inf else by - aio.get_running_loop().time()
        if not await aio.wait(self.ended, seconds):
            return False
        self.ended.result()
        return True

    def counts(self) -> Counts:
        return Counts(
            copied=self.copied,
            copied_bytes=self.copied_bytes,
            skipped=self.skipped,
            vanished=self.vanished,
            failed=len(self.failures),
            pages=self.pages,
            copy_requests=self.requests,
            retries=self.retries,
            throttles=self.throttles,
            uploads=self.uploads,
        )

    def outcome(self) -> Outcome:
        return Outcome(self.counts(), tuple(self.failures), tuple(self.rest))


class _ProbeBatch(_Batch):
    """The items of a probe, one after another; what is left is always what comes last."""

    def _refuse(self) -> None:
        """Refuse none ahead of its turn."""


class PartLost(Exception):
    """A part cannot be copied, and so its object cannot."""

    def __init__(self, fault: Fault) -> None:
        """Keep why."""
        super().__init__(str(fault))
        self.fault = fault


class _PartBatch(_Batch):
    """Parts of one object on their way, put as items whose keys are the parts' numbers."""

    _asks = False
    is_divisible = False  # which parts are there can be asked for

    def _refuse(self) -> None:
        """Refuse none: the object was looked at when its upload began."""

    def meet(self, fault: Fault) -> None:
        """Raise PartLost: an object that lacks a part is none."""
        raise PartLost(fault)

    def counts(self) -> Counts:
        """Count parts as bytes: an object counts once all of them are there."""
        counts = super().counts()
        return counts._replace(copied=0, copied_bytes=0, part_bytes=self.copied_bytes)


class _Turn:
    """An item on its way to its end; receives the answers to its requests."""

    __slots__ = (
        "_copier", "batch", "connection", "is_again", "is_kept", "item", "more", "request", "sent_at", "tries",
        "troubled_since", "unanswered",
    )  # fmt: skip

    batch: _Batch
    item: Item
    #: What has been written ahead to copy the item; None where that is to be written now.
    request: bytes | None
    tries: int
    #: Whether a request was sent that got no answer, and may have copied.
    unanswered: bool
    #: Headers of this item alone.
    more: dict[str, str] | None
    #: Whether the item had changed since it was listed, and is copied as it is now.
    is_again: bool

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self.connection: Connection | None = None
        #: Whether the connection had served others before.
        self.is_kept = False
        self.sent_at = 0.0
        #: When the first fault came; meaningless before it.
        self.troubled_since = 0.0

    def begin(self, batch: _Batch, item: Item, request: bytes | None) -> None:
        """Serve an item from its start."""
        self.batch, self.item, self.request, self.tries, self.unanswered = batch, item, request, 0, False
        self.more, self.is_again = None, False

    def free(self, now: float) -> None:
        """Give the connection back, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.host.give_back(connection, now)

    def answered(self, response: Response) -> None:
        if is_copied(response):
            self._copier.copied(self)
        else:
            self._copier.take(self, response)

    def failed(self, error: OSError) -> None:
        self._copier.take(self, error)


class Copier:
    """Copies the items of many tasks over one pace; one per environment."""

    def __init__(self, s3: S3, pace: Pace, pauses: Callable[[int], float]) -> None:
        """Send by `s3`, as fast as `pace` allows, with `pauses(n)` seconds before the n-th repetition."""
        self._s3 = s3
        self._pace = pace
        self._pauses = pauses
        self._batches: deque[_Batch] = deque()
        self._under_way: set[_Batch] = set()
        #: Turns that wait for another try: when, a number that makes each differ, and the turn.
        self._paused: list[tuple[float, int, _Turn]] = []
        self._numbers = count()
        #: Turns whose objects are at the destination, which is still to be accounted for.
        self._landed: list[_Turn] = []
        self._wake: aio.TimerHandle | None = None
        self._dials: dict[aio.Task, _Turn] = {}
        self._inquiries: set[aio.Task] = set()
        self._few_inquiries = aio.Semaphore(INQUIRIES)
        #: Objects that something is being asked about before their copy.
        self._asking = 0
        #: Whether anything was ever copied: from then on a denial is about the object, not a permission on its way.
        self._proven = False
        self._copied_at = -inf
        #: When the first copy succeeded after long in which none did; what is in trouble then has its time once more.
        self._resumed_at = -inf
        #: The last fault that may pass: what it was, when it came, and when the first came since anything got to its end.
        self._trouble: tuple[Fault, float, float] | None = None
        #: The clock of the event loop; asking for the loop each time costs more than the time does.
        self._clock = time.monotonic

    async def copy(self, job: Job, items: Iterable[Item], deadline: float, *, attempt: int) -> Outcome:
        """Copy items until `deadline`, in seconds of the event loop's clock; those on their way then get a little longer.

        Raises Stop where no request of the run can succeed, and Failed where this environment is of no use. Where its
        credentials expire after something was copied, what was not is the rest.
        """
        self._clock = aio.get_running_loop().time
        batch = _Batch(job, self._s3.copies(job), items, deadline, trusting=attempt >= PROOF_ATTEMPTS)
        return await self._carry(batch)

    async def copy_parts(self, job: Job, copies: JobCopies, parts: Iterable[Item], deadline: float, *, attempt: int) -> Outcome:
        """Copy parts of one object, put as items whose keys are the parts' numbers, with the requests that `copies` writes.

        Otherwise as `copy`; raises PartLost where a part cannot be copied, or not within the time for one.
        """
        self._clock = aio.get_running_loop().time
        return await self._carry(_PartBatch(job, copies, parts, deadline, trusting=attempt >= PROOF_ATTEMPTS))

    async def _carry(self, batch: _Batch) -> Outcome:
        now, deadline = self._clock(), batch.deadline
        self._batches.appendleft(batch)
        self._under_way.add(batch)
        try:
            self._fill(now)
            if not await batch.is_over(deadline):
                self._expire(batch)
                await batch.is_over(deadline + min(LANDING_SECONDS, LANDING_SHARE * (deadline - now)))
        finally:
            self._under_way.discard(batch)
            self._expire(batch)
            batch.leave(sorted(turn.item for turn in batch.in_flight))  # a set has an order of its own in each process
            batch.in_flight.clear()
        if batch.expired is not None and not batch.counts().ended:
            raise batch.expired
        return batch.outcome()

    @property
    def is_proven(self) -> bool:
        """Tell whether anything was ever copied in this environment, so that a denial is no permission on its way."""
        return self._proven

    def has_copied_since(self, then: float) -> bool:
        """Tell whether anything was copied at or after a time, in seconds of the event loop's clock."""
        return self._copied_at >= then

    def note_trouble(self, fault: Fault) -> None:
        """Take note of a fault that may pass, and is put up with meanwhile."""
        now, first = self._clock(), -inf if self._trouble is None else self._trouble[2]
        self._trouble = fault, now, first if first > self._copied_at else now

    def trouble(self) -> Fault | None:
        """Give what keeps everything from getting to its end, where it has for a while."""
        if self._trouble is None:
            return None
        fault, last, first = self._trouble
        is_lasting = first > self._copied_at and last - first >= TROUBLE_SECONDS
        return fault if is_lasting and self._clock() - last < _TROUBLE_PAST_SECONDS else None

    def under_way(self) -> Counts:
        """Give what the tasks that have not ended have achieved so far."""
        return sum((batch.counts() for batch in self._under_way), Counts())

    async def stop(self) -> None:
        """End what a cancelled task left behind, so that nothing is pending."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._batches.clear()
        self._paused.clear()
        tasks = [*self._dials, *self._inquiries]
        for task in tasks:
            task.cancel()
        await aio.gather(*tasks, return_exceptions=True)
        self._pace.rest()

    async def land(self, seconds: float) -> None:
        """Wait until nothing is in flight any more, for so many seconds at most; nothing is begun meanwhile."""
        self._batches.clear()
        self._paused.clear()
        give_up_at = aio.get_running_loop().time() + seconds
        # Looking now and then costs less than telling after each answer.
        while self._pace.in_flight and aio.get_running_loop().time() < give_up_at:
            await aio.sleep(_LOOK_SECONDS)
        await self.stop()

    async def hand_on(self, seconds: float) -> None:
        """Have every task end with what was not begun as its rest; what is in flight has so many seconds to land."""
        now = aio.get_running_loop().time()
        batches = [*self._under_way]
        for batch in batches:
            batch.deadline = now
            self._expire(batch)
        while not all(batch.ended.done() for batch in batches) and aio.get_running_loop().time() < now + seconds:
            await aio.sleep(_LOOK_SECONDS)
        for batch in batches:
            batch.leave(sorted(turn.item for turn in batch.in_flight))
            batch.in_flight.clear()

    async def probe(self, job: Job, items: Iterable[Item], give_up_at: float = inf) -> Outcome | Failed:
        """Copy one item after another until one proves the right to, or give the fault that keeps all of them from it.

        Such a fault is also that the store lacks what copies ask for, where it copies none.
        No other item is begun after `give_up_at`, in seconds of the event loop's clock. What those before the one that proved
        it met is asked again then, for a while, and ends as it would in any task.
        """
        self._clock = aio.get_running_loop().time
        try:
            return await self._probe(job, items, give_up_at)
        except Failed as failed:
            return failed
        except Stop as stop:
            return Failed(Fault(Next.STOP, stop.kind, stop.cause), "copying")

    async def _probe(self, job: Job, items: Iterable[Item], give_up_at: float) -> Outcome:
        batch = _ProbeBatch(job, self._s3.copies(job), items, self._clock() + RETRY_SECONDS, trusting=True)
        unsettled: list[tuple[Item, Fault]] = []
        proven = False
        while batch.items and not proven and self._clock() < give_up_at:
            item, fault = await self._try(batch, batch.items.popleft())
            if fault is None and item.size >= job.multipart_bytes:
                batch.items.appendleft(item)  # copying it takes longer than a probe may
                self._proven = proven = True
                break
            proven = fault is None or fault.next is Next.EXISTS
            if fault is None:
                self._proven = True
                batch.copied += 1
                batch.copied_bytes += item.size
            elif fault.next in (Next.STOP, Next.EXPIRED):
                raise Failed(fault, "copying")
            elif fault.next in (Next.DENIED, Next.RETRY, Next.SLOW_DOWN):
                self.note_trouble(fault)
                unsettled.append((item, fault))
            else:
                self._settle(batch, item, fault)
        if not proven:
            _raise_for_all(batch.failures, unsettled)
        self._trouble = None
        if not unsettled:
            return batch.outcome()._replace(rest=tuple(batch.items))
        faults = dict(self._fail_large(batch, unsettled))
        again = await self._copy_unsettled(job, [*faults])
        others = tuple(item for item in again.rest if item not in faults)  # as they are now, or are known to be
        for item in again.rest:
            if item in faults:
                batch.fail(item, faults[item])
        outcome = batch.outcome()
        return Outcome(outcome.counts + again.counts, outcome.failures + again.failures, (*others, *batch.items))

    async def _prove_large(self, batch: _Batch, item: Item) -> Fault | None:
        from s3bulkcopy.worker.large import prove  # noqa: PLC0415 - seldom needed

        batch.uploads += 1
        return await prove(self._s3, batch.job, item)

    @staticmethod
    def _fail_large(batch: _Batch, unsettled: list[tuple[Item, Fault]]) -> list[tuple[Item, Fault]]:
        """Fail the large ones on which a probe proved nothing, and give the others; raises Failed where that may pass."""
        others = []
        for item, fault in unsettled:
            if item.size < batch.job.multipart_bytes:
                others.append((item, fault))
            elif fault.next is Next.DENIED:
                batch.fail(item, fault)
            else:
                raise Failed(fault, "copying")
        return others

    async def _try(self, batch: _Batch, item: Item) -> tuple[Item, Fault | None]:
        """Copy an item of a probe once, or as it is now where it has changed; gives it as it was copied."""
        if (refusal := refusal_of(batch.job, item)) is not None:
            return item, refusal
        item, fault = await self._copy_known(batch, item)
        if fault is None or fault.next is Next.DENIED or not is_in_doubt(fault):
            return item, fault
        sure = await self._confirm(batch, item, fault) or fault._replace(next=Next.RETRY)
        if isinstance(sure, Fault):
            return item, sure
        batch.retries += 1
        return await self._copy_known(batch, sure)

    async def _copy_known(self, batch: _Batch, item: Item) -> tuple[Item, Fault | None]:
        """Copy an item and wait, once what its copy needs is known; of a large one prove that it could be copied.

        Gives the item as it is known then.
        """
        if batch.asks_first and item.size < batch.job.multipart_bytes:
            known = await self._known(batch, item)
            if known is None or isinstance(known, Fault):
                return item, known or Fault(Next.RETRY, "NoAnswer", "nothing was known of the object in time")
            item, more = known
        else:
            more = {}
        if item.size >= batch.job.multipart_bytes:
            return item, await self._prove_large(batch, item)
        batch.requests += 1
        return item, await batch.copies.copy(item, more)

    async def _copy_unsettled(self, job: Job, items: list[Item]) -> Outcome:
        """Copy what a probe could not, as any task does, for as long as a fault may last."""
        seconds = RETRY_SECONDS + max((item.size for item in items), default=0) * PATIENCE_SECONDS_PER_BYTE
        batch = _Batch(job, self._s3.copies(job), items, self._clock() + seconds, trusting=True)
        batch.is_divisible = False
        return await self._carry(batch)

    # ---------------------------------------------------------------------------------------------------- the chain

    def _fill(self, now: float, ended: list[_Turn] | None = None) -> None:
        """Send what the pace allows.

        Turns that have ended serve again, each on the connection that it has left free if it can.
        """
        ended = ended or []
        room = self._pace.room(now)
        while room and self._paused and self._paused[0][0] <= now:
            if ended:
                ended.pop().free(now)
            self._repeat(heapq.heappop(self._paused)[2], now)
            room -= 1
        share = max(1, room // max(1, len(self._batches)))
        sends: list[tuple[Connection, bytes, float, _Turn]] = []
        while room and (batch := self._next(now)) is not None:
            room -= self._begin(batch, min(share, room), now, ended, sends)
        for connection, request, deadline, turn in sends:  # in a row, with nothing of ours between two calls of the kernel
            connection.send(request, deadline, turn)
        for turn in ended:
            turn.free(now)
        if not room:
            wait = self._pace.wait(now)
            if wait < inf:
                self._wake_at(now + max(wait, _TICK_SECONDS))
        elif self._paused:
            self._wake_at(self._paused[0][0])

    def _repeat(self, turn: _Turn, now: float) -> None:
        """Send a request again."""
        self._pace.sent(now)
        turn.batch.requests += 1
        turn.batch.in_flight.add(turn)
        self._send(turn, now)

    def _begin(
        self, batch: _Batch, most: int, now: float, ended: list[_Turn], sends: list[tuple[Connection, bytes, float, _Turn]]
    ) -> int:
        """Begin with so many items of a batch at most, and give how many those are.

        What goes out on the connection that a turn has left free is added to `sends`.
        """
        some = batch.copies.take(batch.items, most, now)
        self._pace.sent(now, len(some))
        batch.requests += len(some)
        host, in_flight = batch.copies.host, batch.in_flight
        for item, request in some:
            turn = ended.pop() if ended else _Turn(self)
            # As `begin` does, without the price of a call.
            turn.batch, turn.item, turn.request, turn.tries, turn.unanswered = batch, item, request, 0, False
            turn.more, turn.is_again = None, False
            in_flight.add(turn)
            connection = turn.connection
            if connection is not None and connection.host is host and request is not None:
                turn.is_kept, turn.sent_at, turn.request = True, now, None
                sends.append((connection, request, now + PATIENCE_SECONDS + item[1] * PATIENCE_SECONDS_PER_BYTE, turn))
            else:
                turn.free(now)
                self._send(turn, now)
        return len(some)

    def _next(self, now: float) -> _Batch | None:
        """Give the next batch of which something may be copied now, each in turn."""
        batches = self._batches
        for _ in range(len(batches)):
            batch = batches[0]
            batches.rotate(-1)
            if not batch.items:
                batches.pop()
            elif batch.asks_first:
                self._ask_ahead(batch, now)
            elif batch.troubled < MOST_TROUBLED and now < batch.deadline:
                return batch
        return None

    def _wake_at(self, when: float) -> None:
        if self._wake is not None:
            if self._wake.when() <= when:
                return
            self._wake.cancel()
        self._wake = aio.get_running_loop().call_at(when, self._awake)

    def _awake(self) -> None:
        self._wake = None
        self._fill(self._clock())

    def _send(self, turn: _Turn, now: float) -> None:
        """Send on a kept or on a new connection."""
        kept = turn.batch.copies.host.take(now)
        if kept is not None:
            self._send_on(kept, turn, now)
            return
        dial = aio.create_task(self._send_anew(turn))
        self._dials[dial] = turn
        dial.add_done_callback(self._end_dial)

    def _send_on(self, connection: Connection, turn: _Turn, now: float, *, is_kept: bool = True) -> None:
        batch, item = turn.batch, turn.item
        try:
            request = turn.request or batch.copies.write(item, now, turn.more)
        except Exception as error:  # noqa: BLE001 - a key that no request can name, or whatever it is, is this item's trouble
            self._pace.failed()
            connection.host.give_back(connection, now)
            batch.requests -= 1
            batch.in_flight.discard(turn)
            batch.fail(item, lost(error))
            batch.conclude_turn(turn)
            self._wake_at(now)
            return
        turn.connection, turn.is_kept, turn.sent_at, turn.request = connection, is_kept, now, None
        connection.send(request, now + PATIENCE_SECONDS + item[1] * PATIENCE_SECONDS_PER_BYTE, turn)

    async def _send_anew(self, turn: _Turn) -> None:
        turn.connection, turn.is_kept, turn.request = None, False, None  # the bucket may turn out to be elsewhere meanwhile
        batch, host = turn.batch, turn.batch.copies.host
        try:
            connection = await host.dial()
        except OSError as error:
            turn.sent_at = self._clock()
            turn.failed(error)
            return
        except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
            self._pace.failed()
            self._break_off(batch, error)
            self._fill(self._clock())
            return
        now = self._clock()
        if turn not in batch.in_flight:  # given up meanwhile
            self._pace.failed()
            host.give_back(connection, now)
            self._fill(now)
        elif batch.copies.host is not host:  # the bucket has turned out to be elsewhere
            host.give_back(connection, now)
            self._send(turn, now)
        else:
            self._send_on(connection, turn, now, is_kept=False)

    def _end_dial(self, dial: aio.Task) -> None:
        self._dials.pop(dial)
        if dial.cancelled():
            self._pace.failed()

    def copied(self, turn: _Turn) -> None:
        """Learn that a turn's object is at the destination; what has landed is accounted for together."""
        self._landed.append(turn)
        if len(self._landed) == 1:
            aio.get_running_loop().defer(self._go_on)
        elif len(self._landed) == _AT_ONCE:
            self._go_on()

    def _go_on(self) -> None:
        """Account for what has landed, and send what may go now."""
        now = self._clock()
        self._fill(now, self._account(now))

    def _account(self, now: float) -> list[_Turn]:
        """Account for what has landed; give the turns, with the connections that are still of use."""
        landed, self._landed = self._landed, []
        if not landed:
            return landed
        if now - self._copied_at > RETRY_SECONDS:
            self._resumed_at = now
        self._copied_at, self._proven = now, True
        usual = [turn.sent_at for turn in landed if turn.item[1] < LARGE_BYTES]
        if usual:
            self._pace.answered(usual, now)
        if len(usual) < len(landed):
            self._pace.answered([turn.sent_at for turn in landed if turn.item[1] >= LARGE_BYTES], now, is_telling=False)
        for turn in landed:
            batch, connection = turn.batch, turn.connection
            if turn in batch.in_flight:
                batch.in_flight.discard(turn)
                batch.count_copied(turn)
            if connection is not None and not connection.usable:
                turn.free(now)
        return landed

    def take(self, turn: _Turn, answer: Response | OSError) -> None:
        """Account for what came of a turn's request where that is not plainly a copy, and send what may go now."""
        now = self._clock()
        fault = self._fault(turn, answer, now)
        if fault is None:
            self.copied(turn)
            return
        ended, batch = self._account(now), turn.batch
        is_ours = turn in batch.in_flight
        batch.in_flight.discard(turn)
        self._tell_pace(turn, fault, now)
        turn.unanswered |= turn.connection is not None and isinstance(answer, OSError)
        if is_ours:
            try:
                self._consider(turn, fault, now, is_stale=turn.is_kept and isinstance(answer, ConnectionLost))
            except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
                batch.in_flight.add(turn)
                self._break_off(batch, error, turn)
        turn.free(now)
        self._fill(now, ended)

    @staticmethod
    def _fault(turn: _Turn, answer: Response | OSError, now: float) -> Fault | None:
        """Give what came of a turn's request: None where it copied."""
        if isinstance(answer, OSError):
            return lost(answer)
        try:
            fault = read_copy(answer)
            return None if fault is None else turn.batch.copies.learn(answer, fault, turn.sent_at, now)
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read is as good as none
            return lost(error)

    def _tell_pace(self, turn: _Turn, fault: Fault, now: float) -> None:
        if fault.next is Next.SLOW_DOWN and self._is_telling(turn.batch):
            self._pace.refused(turn.sent_at, now)
        elif fault.next in (Next.SLOW_DOWN, Next.RETRY):
            self._pace.failed()
        else:
            self._pace.answered([turn.sent_at], now, is_telling=False)

    def _is_telling(self, batch: _Batch) -> bool:
        """Tell whether a refusal says something of the store, and not only of the partition that a batch is in."""
        return batch.troubled < TELLING_TROUBLES or all(other.troubled >= TELLING_TROUBLES for other in self._batches)

    def _consider(self, turn: _Turn, fault: Fault, now: float, *, is_stale: bool) -> None:
        """Decide what comes after a fault."""
        batch = turn.batch
        if not turn.tries:
            turn.troubled_since = now
            batch.troubled += 1
        turn.tries += 1
        batch.throttles += fault.next is Next.SLOW_DOWN
        if self._is_passing(turn, fault, now):
            # A kept connection may have been closed before the request arrived; that is not the item's fault.
            is_at_once = turn.tries == 1 and (is_stale or fault.next is Next.MENDED)
            due = now if is_at_once else now + self._pauses(turn.tries)
            if due >= batch.deadline:
                batch.leave_turn(turn)
                return
            if fault.code == TimeoutError.__name__ and not (turn.item.size or turn.item.etag):
                batch.in_flight.add(turn)
                self._look_into(self._size_up(turn))
                return
            self.note_trouble(fault)
            batch.retries += 1
            heapq.heappush(self._paused, (due, next(self._numbers), turn))
            return
        self._raise_if_final(batch, fault, "copying")
        batch.meet(fault)
        if is_in_doubt(fault) and not (turn.is_again and fault.next is Next.CHANGED):
            batch.in_flight.add(turn)
            self._look_into(self._inquire(turn, fault))
            return
        self._conclude(turn, fault)

    def _raise_if_final(self, batch: _Batch, fault: Fault, doing: str) -> None:
        """Raise what is not about an object: Stop for the run, Failed for this environment."""
        if fault.next is Next.STOP:
            raise stop_for(fault)
        unproven = fault.next is Next.DENIED and not self._proven and not batch.trusting
        if unproven or fault.next is Next.EXPIRED:
            raise Failed(fault, doing)

    def _look_into(self, inquiry: Coroutine[None, None, None]) -> aio.Task:
        task = aio.create_task(inquiry)
        self._inquiries.add(task)
        task.add_done_callback(self._inquiries.discard)
        return task

    def _is_passing(self, turn: _Turn, fault: Fault, now: float) -> bool:
        """Tell whether to ask again."""
        troubled_seconds = now - turn.troubled_since
        match fault.next:
            case Next.SLOW_DOWN:
                return troubled_seconds < OUTAGE_SECONDS
            case Next.RETRY | Next.MENDED:
                troubled = sum(batch.troubled for batch in self._under_way)
                if troubled >= OUTAGE_ITEMS and not self.has_copied_since(turn.troubled_since):
                    return troubled_seconds < OUTAGE_SECONDS
                return now - max(turn.troubled_since, self._resumed_at) < RETRY_SECONDS
            case Next.DENIED:
                return not self._proven and not turn.batch.is_denied_for_good(now)
            case _:
                return False

    def _break_off(self, batch: _Batch, error: Exception, turn: _Turn | None = None) -> None:
        """End a batch early; whoever waits for it gets the error.

        Where it is that credentials have expired, `turn` and what was not begun are left, and what is in flight may still land.
        """
        if isinstance(error, Failed) and error.fault.next is Next.EXPIRED and batch.is_divisible and turn is not None:
            batch.expired = error
            self._expire(batch)
            if turn in batch.in_flight:
                batch.in_flight.discard(turn)
                batch.leave_turn(turn)
            return
        batch.end(error)
        self._expire(batch)

    def _expire(self, batch: _Batch) -> None:
        """Begin nothing more of a batch."""
        with suppress(ValueError):
            self._batches.remove(batch)
        batch.leave(batch.items)
        batch.items.clear()
        if batch.troubled or batch.asks_first:
            batch.leave([turn.item for _, _, turn in self._paused if turn.batch is batch])
            self._paused = [entry for entry in self._paused if entry[2].batch is not batch]
            heapq.heapify(self._paused)

    # ------------------------------------------------------------------------------------------------ how items end

    def _settle(self, batch: _Batch, item: Item, fault: Fault) -> None:
        """End an item at a fault that asking again would not change."""
        self._trouble = None
        match fault.next:
            case Next.VANISHED:
                batch.vanished += 1
            case Next.EXISTS:
                self._proven = True
                batch.skipped += 1
            case _:
                batch.fail(item, fault)

    def _conclude(self, turn: _Turn, fault: Fault) -> None:
        """End a turn's item at such a fault."""
        if fault.next is Next.EXISTS and turn.unanswered:  # what exists is what an earlier request copied
            self._trouble = None
            turn.batch.count_copied(turn)
            return
        self._settle(turn.batch, turn.item, fault)
        turn.batch.conclude_turn(turn)

    async def _inquire(self, turn: _Turn, fault: Fault) -> None:
        """End an item whose fault is in doubt, or begin again with it as it is now."""
        batch = turn.batch
        try:
            sure = await self._confirm(batch, turn.item, fault)
        except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
            self._break_off(batch, error, turn)
        else:
            if (changed := self._told(turn, sure)) is not None:
                if turn.is_again:
                    self._conclude(turn, fault._replace(next=Next.RECORD))
                else:
                    self._copy_again(turn, changed)
        self._fill(self._clock())

    async def _size_up(self, turn: _Turn) -> None:
        """Begin again with an item that nobody has told the size of, and so how long its copy may take, as it is listed."""
        batch, listed = turn.batch, None
        try:
            with suppress(Failed):  # it may be copied, and not listed
                page = await self._look(batch, turn.item)
                listed = _in(page, turn.item.key) if isinstance(page, Page) else None
        except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
            self._break_off(batch, error, turn)
        else:
            if turn in batch.in_flight:
                batch.in_flight.discard(turn)
                if listed is None:
                    batch.retries += 1
                    self._copy_now(turn)
                else:
                    self._copy_again(turn, listed)
        self._fill(self._clock())

    def _told(self, turn: _Turn, answer: T | Fault | None) -> T | None:
        """Take what was asked about a turn's item: give it, or end the item at a fault, or where there was no time to ask.

        None also where the turn was given up meanwhile.
        """
        batch = turn.batch
        if turn not in batch.in_flight:
            return None
        batch.in_flight.discard(turn)
        if answer is None:
            batch.leave_turn(turn)
        elif isinstance(answer, Fault):
            self._conclude(turn, answer)
        else:
            return answer
        return None

    def _copy_again(self, turn: _Turn, item: Item) -> None:
        """Copy an item that has changed as it is now, once."""
        batch = turn.batch
        turn.item, turn.is_again, turn.troubled_since = item, True, self._clock()
        batch.retries += 1
        if item.size >= batch.job.multipart_bytes:  # it has grown, and is copied by parts by whoever gets the rest
            batch.leave_turn(turn)
        elif batch.asks_first:
            self._begin_asking(turn)
        else:
            self._copy_now(turn)

    def _copy_now(self, turn: _Turn) -> None:
        """Have a turn copy its item as soon as the pace allows, if there is time left."""
        now = self._clock()
        if now >= turn.batch.deadline:
            turn.batch.leave_turn(turn)
        else:
            heapq.heappush(self._paused, (now, next(self._numbers), turn))

    async def _confirm(self, batch: _Batch, item: Item, fault: Fault) -> Fault | Item | None:
        """Look by a list request what a fault in doubt is; None where the batch ends before there is an answer.

        Gives the item as it is now where it has changed. A role that may not list the whole bucket is told 403, not 404, of
        what is gone; a store that misreads the source says 404 of what is there. Only such objects cost a request. Raises
        Failed where listing is denied too.
        """
        page = await self._look(batch, item)
        if page is None:
            return None
        return fault._replace(next=Next.RECORD) if isinstance(page, Fault) else confirmed(fault, item, page, batch.job)

    async def _look(self, batch: _Batch, item: Item) -> Page | Fault | None:
        """List what begins with an item's key; None where the batch ends before there is an answer. Raises as `_confirm`."""

        async def ask() -> Page | Fault:
            async with self._few_inquiries:
                return await self._s3.page(batch.job.source, item.key, "", max_keys=1, policy=batch.job.policy)

        answer = await self._asked(batch, ask)
        if isinstance(answer, Page):
            batch.pages += 1
        elif answer is not None and answer.next in (Next.DENIED, Next.EXPIRED):
            # Not the object is denied: this environment has lost its rights.
            raise Failed(answer, "copying and listing")
        return answer

    async def _asked(
        self, batch: _Batch, ask: Callable[[], Awaitable[T | Fault]], patience: dict[Next, float] | None = None
    ) -> T | Fault | None:
        """Ask about an object, again while that may help; None where the batch ends before there is an answer.

        `patience` has the seconds for faults that are put up with elsewhere, too.
        """
        patience = {Next.SLOW_DOWN: OUTAGE_SECONDS, Next.RETRY: RETRY_SECONDS, **(patience or {})}
        troubled_since: float | None = None
        for tries in count(1):
            answer = await ask()
            if not isinstance(answer, Fault):
                return answer
            now = self._clock()
            troubled_since = now if troubled_since is None else troubled_since
            batch.throttles += answer.next is Next.SLOW_DOWN
            if now - troubled_since >= patience.get(answer.next, 0.0):
                return answer
            pause = self._pauses(tries)
            if batch.ended.done() or now + pause >= batch.deadline:
                return None
            self.note_trouble(answer)
            batch.retries += 1
            await aio.sleep(pause)
        raise AssertionError("count ends")

    # ------------------------------------------------------------------------- what is to be known before an item is copied

    def _ask_ahead(self, batch: _Batch, now: float) -> None:
        """Ask about the next items of a batch, a bounded number at a time; each is copied once that is known."""
        while batch.items and self._asking < ASKED_FIRST and batch.troubled < MOST_TROUBLED and now < batch.deadline:
            turn = _Turn(self)
            turn.begin(batch, batch.items.popleft(), None)
            self._begin_asking(turn)

    def _begin_asking(self, turn: _Turn) -> None:
        turn.batch.in_flight.add(turn)
        self._asking += 1
        self._look_into(self._ask_first(turn)).add_done_callback(self._end_asking)

    def _end_asking(self, _: aio.Task) -> None:
        self._asking -= 1

    async def _ask_first(self, turn: _Turn) -> None:
        """Ask what is to be known of a turn's item, and have it copied, or end it."""
        batch = turn.batch
        try:
            found = await self._known(batch, turn.item)
            if isinstance(found, Fault):
                self._raise_if_final(batch, found, "looking at an object")
                if is_in_doubt(found):
                    sure = await self._confirm(batch, turn.item, found)
                    found = found._replace(next=Next.RECORD) if isinstance(sure, Item) else sure
        except Exception as error:  # noqa: BLE001 - whoever waits for the batch gets it
            self._break_off(batch, error, turn)
        else:
            if (known := self._told(turn, found)) is not None:
                turn.item, turn.more = known
                if turn.item.size >= batch.job.multipart_bytes:  # nobody had told its size
                    batch.leave_turn(turn)
                else:
                    self._copy_now(turn)
        self._fill(self._clock())

    async def _known(self, batch: _Batch, item: Item) -> tuple[Item, dict[str, str]] | Fault | None:
        """Give an item with its storage class, and the headers that keep its ACL, as far as the policy preserves them.

        Otherwise the fault that keeps either from being known, or None where the batch ends before.
        """
        job = batch.job
        if job.policy.preserves_class and not item.storage_class:
            page = await self._look(batch, item)
            if not isinstance(page, Page):
                return page
            if (found := _in(page, item.key)) is None:
                return Fault(Next.VANISHED, "NoSuchKey", "it is not listed any more")
            item = found
        if not job.policy.preserves_acl:
            return item, {}

        async def ask() -> dict[str, str] | Fault:
            return await self._s3.grants(job.source, item.key, job.policy)

        on_its_way = {} if self._proven or batch.trusting else {Next.DENIED: PROOF_SECONDS}
        grants = await self._asked(batch, ask, on_its_way)
        return grants if grants is None or isinstance(grants, Fault) else (item, grants)


def _raise_for_all(failures: Iterable[Failure], unsettled: Collection[tuple[Item, Fault]]) -> None:
    """Raise Failed where what a probe's items met, of which none was copied, keeps all others from it, too."""
    for failure in failures:
        if failure.code in NOT_KNOWN:
            raise Failed(Fault(Next.RECORD, failure.code, failure.cause), "copying")
    if unsettled:
        raise Failed(min(unsettled, key=lambda one: one[1].next is Next.DENIED)[1], "copying")


def is_in_doubt(fault: Fault) -> bool:
    """Tell whether a fault may be another than it seems, or may be mended, which a list request shows."""
    return fault.next in (Next.DENIED, Next.VANISHED, Next.CHANGED, Next.PRECONDITION)


def _in(page: Page, key: str) -> Item | None:
    return next((one for one in page.items if one.key == key), None)


def confirmed(fault: Fault, item: Item, page: Page, job: Job) -> Fault | Item:
    """Give a fault in doubt as a listing that begins with the item's key shows it, or the item as it is now."""
    found = _in(page, item.key)
    if found is None:
        return fault._replace(next=Next.VANISHED)
    if fault.next is Next.PRECONDITION and not job.overwrite and item.etag in ("", found.etag):
        return fault._replace(next=Next.EXISTS)
    if fault.next in (Next.PRECONDITION, Next.CHANGED) and item.etag != found.etag:
        return found
    if fault.next is Next.VANISHED:
        return fault._replace(next=Next.RECORD, cause=clip(f"{fault.cause} It is still listed."))
    return fault._replace(next=Next.RECORD)


def refusal_of(job: Job, item: Item) -> Fault | None:
    """Give the fault of an item that no request can copy."""
    if item.key == job.source.prefix and not job.destination.prefix:
        return Fault(Next.RECORD, "EmptyKey", "its key is the source's prefix, and nothing is left of it for the copy's")
    return None
