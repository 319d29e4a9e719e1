"""One task, from start to `Done`: what a worker is, wherever it runs.

Nothing here knows SQS or Lambda: children go out through `emit`, time comes from the event loop and the budget.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import count
from operator import attrgetter, lt
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.model import MAX_IDLE_HOPS, Attempt, CopyTask, Counts, Done, Failure, Item, ListTask, Range, Task
from s3bulkcopy.worker.packing import Packer
from s3bulkcopy.worker.s3 import PAGE_KEYS, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from s3bulkcopy.worker.copying import Copier
    from s3bulkcopy.worker.model import Emit, Job, Location
    from s3bulkcopy.worker.s3 import S3

#: How long one attempt at a list task lasts, in seconds.
LIST_SECONDS = 20.0

#: Sends of one list task that may be under way before it waits for the oldest, unless said otherwise.
_SENDS_UNDER_WAY = 16

#: Faults of one list request after which the attempt is given up, and the queue delivers the task again.
_LIST_TRIES = 10

#: Pages that are remembered for the ranges next to them: how many, and for how long in seconds.
_ANSWERS_KEPT = 12
_ANSWER_SECONDS = 10.0

#: Characters of keys in a page from which on fewer keys are asked for at a time, and how many at least: many pages are held.
_PAGE_CHARACTERS = 256 * 1024
_LEAST_PAGE_KEYS = 100

#: Ranges of which the first page is asked for at a time.
_FIRST_PAGES = 8

#: Deliveries of a list task after which a denial is believed: until then a permission may be on its way.
_LIST_PROOF_ATTEMPTS = 3


class Budget(NamedTuple):
    """How far one attempt may go: until when (seconds of the event loop's clock), and how many pages."""

    deadline: float
    pages: int = 50

    def is_spent(self, pages: int) -> bool:
        """Tell whether the attempt is to hand on the rest."""
        return pages >= self.pages or aio.get_running_loop().time() >= self.deadline


_KEY, _SIZE = attrgetter("key"), attrgetter("size")

NO_FAILURES: tuple[Failure, ...] = ()


class TooManyHops(RuntimeError):
    """A task was handed on again and again, and nothing came of it."""


class _Children:
    """The children of one attempt: their ids, and the sends under way."""

    def __init__(self, attempt: Attempt, emit: Emit, most_sends: int) -> None:
        self._nonce = attempt.nonce
        self._emit = emit
        self._most_sends = most_sends
        self._sends: list[aio.Task] = []
        self.count = 0

    async def add(self, child: Callable[[str], Task]) -> None:
        """Begin to send the child that is made with its id; waits only where too many sends are under way."""
        task = child(f"{self._nonce}.{self.count}")
        self.count += 1
        self._sends.append(aio.create_task(self._emit(task)))
        if len(self._sends) > self._most_sends:
            await self._sends.pop(0)

    async def accepted(self) -> None:
        """Wait until the queue has accepted every child; raises what a send raised."""
        while self._sends:
            await self._sends.pop(0)

    async def stop(self) -> None:
        """End the sends that nobody waits for any more, so that nothing is pending."""
        for send in self._sends:
            send.cancel()
        await aio.gather(*self._sends, return_exceptions=True)


class _Answers:
    """The last few pages that ranges began with.

    A page shows all keys from where it was asked for to its own last key, or to the top where no more follow. A range that
    begins in between needs no request of its own; most ranges of a first fan-out are empty, and begin so.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[Location, str, Page, float]] = deque(maxlen=_ANSWERS_KEPT)

    def keep(self, where: Location, after: str, page: Page, now: float) -> None:
        self._kept.append((where, after, page, now))

    def find(self, where: Location, after: str, now: float) -> Page | None:
        for place, began, page, asked_at in reversed(self._kept):
            reaches = not page.truncated or (bool(page.items) and after < page.items[-1].key)
            if place == where and began <= after and reaches and now - asked_at <= _ANSWER_SECONDS:
                return Page(page.items[bisect_right(page.items, after, key=_KEY) :], page.truncated)
        return None


class Worker:
    """Works on tasks; one per environment, with the connections and the pace that outlive a task."""

    def __init__(self, s3: S3, copier: Copier, pauses: Callable[[int], float], *, most_sends: int = _SENDS_UNDER_WAY) -> None:
        """Work with these; `pauses(n)` is the pause in seconds before the n-th repetition of a list request.

        A task has no more than `most_sends` children under way to the queue at a time.
        """
        self._s3 = s3
        self._copier = copier
        self._pauses = pauses
        self._most_sends = most_sends
        self._answers = _Answers()
        self._first_pages = aio.Semaphore(_FIRST_PAGES)
        self._page_keys = PAGE_KEYS

    async def work(self, task: Task, attempt: Attempt, budget: Budget, emit: Emit) -> Done:
        """Work on a task until it ends or the budget is spent, the rest having been handed on.

        Every child was accepted by the queue when this returns. Raises Stop where the run cannot go on, and anything else
        where this attempt failed and another may not.
        """
        if task.idle_hops > MAX_IDLE_HOPS:
            raise TooManyHops(f"handed on {task.idle_hops} times and nothing came of it")
        children = _Children(attempt, emit, self._most_sends)
        try:
            if isinstance(task, ListTask):
                counts, failures = await self._list(task, attempt, budget, children), NO_FAILURES
            else:
                outcome = await self._copier.copy(task.job, task.items, budget.deadline, attempt=attempt.number)
                counts, failures = outcome.counts, outcome.failures
                if outcome.rest:
                    idle = task.idle_hops + 1 if len(outcome.rest) == len(task.items) else 0
                    await children.add(lambda name: CopyTask(name, task.job, outcome.rest, idle))
            await children.accepted()
        finally:
            await children.stop()
        return Done(task.id, attempt, children.count, counts, failures)

    async def _list(self, task: ListTask, attempt: Attempt, budget: Budget, children: _Children) -> Counts:
        """List a range, handing its items on as they come, and what the budget leaves of it at the end."""
        job, after = task.job, task.range.after
        packer = Packer(job)
        counts = Counts()
        for answered in count():
            if budget.is_spent(answered):
                idle = 0 if answered else task.idle_hops + 1
                await _hand_on(job, Range(after, task.range.until), idle, children)
                break
            try:
                ask = self._page if answered else self._first_page
                page, effort = await ask(job, after, attempt, budget)
            except Failed:
                if not answered:
                    raise
                # What was listed stands; otherwise it would be listed, and copied, again.
                await _hand_on(job, Range(after, task.range.until), 0, children)
                break
            items = _within(page.items, task.range)
            counts += effort + Counts(listed=len(items), listed_bytes=sum(map(_SIZE, items)))
            await _send_batches(job, packer.add(items), children)
            if not page.truncated or len(items) < len(page.items):
                break
            after = page.items[-1].key
            if after == task.range.until:
                break
        await _send_batches(job, packer.rest(), children)
        return counts

    async def _first_page(self, job: Job, after: str, attempt: Attempt, budget: Budget) -> tuple[Page, Counts]:
        """List the first page of a range, few ranges at a time: the answer often tells of the next ones too."""
        async with self._first_pages:
            now = aio.get_running_loop().time()
            known = self._answers.find(job.source, after, now)
            if known is not None:
                return known, Counts()
            page, effort = await self._page(job, after, attempt, budget)
            self._answers.keep(job.source, after, page, now)
            return page, effort

    async def _page(self, job: Job, after: str, attempt: Attempt, budget: Budget) -> tuple[Page, Counts]:
        """List one page, asking again where that may help."""
        retries = throttles = 0
        while True:
            answer = await self._s3.page(job.source, job.source.prefix, after, self._page_keys)
            if isinstance(answer, Page):
                self._page_keys = _keys_to_ask_for(answer.items)
                _check(answer, job.source.prefix, after)
                return answer, Counts(pages=1, retries=retries, throttles=throttles)
            throttles += answer.next is Next.SLOW_DOWN
            _raise_if_final(answer, attempt)
            if retries + 1 >= _LIST_TRIES or budget.is_spent(0):
                raise Failed(answer, f"listing {job.source}")
            retries += 1
            await aio.sleep(self._pauses(retries))


def _keys_to_ask_for(items: tuple[Item, ...]) -> int:
    """Give how many keys the next page may have, judging by those of the last one."""
    characters = sum(map(len, map(_KEY, items)))
    return min(PAGE_KEYS, max(_LEAST_PAGE_KEYS, _PAGE_CHARACTERS * len(items) // characters)) if characters else PAGE_KEYS


def _within(items: tuple[Item, ...], where: Range) -> tuple[Item, ...]:
    """Give the items of a page that belong to a range, which begins no later than the page."""
    if where.until is None or not items or items[-1].key <= where.until:
        return items
    return items[: bisect_right(items, where.until, key=_KEY)]


async def _hand_on(job: Job, rest: Range, idle_hops: int, children: _Children) -> None:
    await children.add(lambda name: ListTask(name, job, rest, idle_hops))


async def _send_batches(job: Job, batches: Iterable[tuple[Item, ...]], children: _Children) -> None:
    for batch in batches:
        await children.add(lambda name, items=batch: CopyTask(name, job, items))  # type: ignore[misc]


def _check(page: Page, prefix: str, after: str) -> None:
    """Refuse a store whose answers our ranges cannot be built on."""
    keys = [item.key for item in page.items]
    if not keys and page.truncated:
        raise Failed(Fault(Next.RETRY, "EmptyPage", "an empty page that says more follow"), "listing")
    if keys and keys[0] <= after:
        raise Stop("unsupported", f"the store ignores start-after: asked behind {after!r}, it answered {keys[0]!r}")
    if not all(map(lt, keys, keys[1:])):
        raise Stop("unsupported", "the store does not list keys in the order of their UTF-8 bytes")
    if any(not key.startswith(prefix) for key in (keys[:1] + keys[-1:])):
        raise Stop("unsupported", f"the store ignores prefix: asked for {prefix!r}, it answered {keys[0]!r}")


def _raise_if_final(fault: Fault, attempt: Attempt) -> None:
    """Raise what no repetition of a list request would change."""
    match fault.next:
        case Next.RETRY | Next.SLOW_DOWN:
            return
        case Next.VANISHED | Next.STOP:
            raise Stop("not_found" if fault.code == "NoSuchBucket" else "not_permitted", str(fault))
        case Next.DENIED if attempt.number >= _LIST_PROOF_ATTEMPTS:
            raise Stop("not_permitted", str(fault))
        case _:
            raise Failed(fault, "listing")
