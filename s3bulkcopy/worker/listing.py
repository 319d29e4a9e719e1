"""Listing: one plan for the ranges of all the tasks that a worker has in hand.

A task brings its ranges and waits. Requests are made where the plan says that they promise most, whichever task's range that
is; what an answer shows counts in the task whose range it lies in, so one answer may serve many. A task ends when nothing of
its ranges is open, or hands on what is when its budget is spent.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from contextlib import contextmanager
from functools import partial
from itertools import compress
from math import inf
from operator import attrgetter, lt
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop, stop_for
from s3bulkcopy.worker.model import Counts, ListTask, Range
from s3bulkcopy.worker.packing import Packer, pack_ranges
from s3bulkcopy.worker.planner import Planner
from s3bulkcopy.worker.s3 import PAGE_KEYS, Page
from s3bulkcopy.worker.sorting import Sorter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from s3bulkcopy.worker.attempts import Budget, Children
    from s3bulkcopy.worker.model import Attempt, Item, Job, Location, Trait, WalkTask
    from s3bulkcopy.worker.planner import Request
    from s3bulkcopy.worker.s3 import S3
    from s3bulkcopy.worker.sorting import Sorting

#: Requests at a time to begin with; one more for each answer that shows much. The first answers tell of many ranges that they
#: are empty, which then need none.
_FIRST_SLOTS = 3

#: Answers of which something waits to be sent on, from which on nothing more is asked: what waits is held in memory.
_MOST_HELD = 8

#: Of those, so many say that listing is held up by what is done with the keys.
_HELD_UP = 4

#: Faults of one list request after which the attempt is given up, and the queue delivers the task again.
_LIST_TRIES = 10

#: Characters of keys in a page from which on fewer keys are asked for at a time, and how many at least: many pages are held.
_PAGE_CHARACTERS = 256 * 1024
_LEAST_PAGE_KEYS = 100

#: Deliveries of a list task after which a denial is believed: until then a permission may be on its way.
_LIST_PROOF_ATTEMPTS = 3

#: How long a range or a plan may wait for others before it is asked for, in seconds; so each task gets on.
_PATIENCE_SECONDS = 0.3

#: Ranges are given away when what is open is expected to take more than so many rounds of all slots, to whoever has the time;
#: each with so many pages at least, so that a message costs little beside what it brings; so many at a time, and of one task.
_ROUNDS_AHEAD = 4
_LEAST_GIVEN_PAGES = 16.0
_MOST_OFFERS = 4
_MOST_GIVEN = 32

#: Stretches without keys that are remembered for ranges still to come: how many, and for how long in seconds.
_DESERTS_KEPT = 32
_DESERT_SECONDS = 10.0

_KEY, _AFTER = attrgetter("key"), attrgetter("after")


class Lister:
    """Lists for all tasks of a worker; one per environment, for what it learns outlives a task."""

    def __init__(self, s3: S3, pauses: Callable[[int], float], *, slots: int) -> None:
        """Send at most so many at a time; `pauses(n)` is the pause in seconds before one is sent the n-th time again."""
        self._s3 = s3
        self._pauses = pauses
        self._slots = slots
        self._window = min(_FIRST_SLOTS, slots)
        #: Requests under way and answers of which something waits to be sent on, and the latter alone; listing waits for them.
        self._busy = self._held = 0
        self._page_keys = PAGE_KEYS
        self._plans: list[_Plan] = []
        #: Of tasks that are listed one page after another.
        self._paging: set[_Share] = set()
        #: By the nonces of attempts, until they are forgotten: what they send may wait long to be accepted.
        self._shares: dict[str, _Share] = {}

    # ------------------------------------------------------------------------------------------------------- for a task

    async def list(self, task: ListTask, attempt: Attempt, budget: Budget, children: Children) -> Counts:
        """List the ranges of a task, handing on items as they come and, at the end, what the budget leaves of the ranges.

        Raises Stop where the run cannot go on, and Failed where nothing was listed.
        """
        share, outlet = self._share(task.job, attempt, budget), _Outlet(task.job, children)
        if task.limit is not None:
            with self._page_after_page(share):
                return await self._list_some(task, task.limit, share, outlet, children)
        plan = self._plan_for(task, share.sorter.prefix)
        plan.join(share, task.ranges, aio.get_running_loop().time())
        try:
            self._ask_on()
            await self._tend(plan, share, outlet, children)
        finally:
            rest = plan.leave(share)
            await self._tidy(plan)
        if share.error is not None and share.is_in_vain:
            raise share.error
        await outlet.rest()
        idle_hops = 0 if share.has_progress else task.idle_hops + 1
        for ranges in pack_ranges(task.job, rest):
            await children.add(lambda name, ranges=ranges: ListTask(name, task.job, ranges, idle_hops))  # type: ignore[misc]
        return share.counts

    async def _list_some(self, task: ListTask, limit: int, share: _Share, outlet: _Outlet, children: Children) -> Counts:
        """List ranges one page after another up to the object that makes `limit`: no page is asked for that may not be needed.

        What the budget leaves is handed on with what is left of the limit.
        """
        rest, left = deque(task.ranges), limit
        while rest and left and not share.is_stopping and not share.is_spent_by(share.counts.pages):
            after, until = rest.popleft()
            try:
                page, effort = await self._page(share, after)
            except Failed:
                if not share.has_progress:
                    raise
                rest.appendleft(Range(after, until))
                break
            page = _checked(page, share.sorter.prefix, after)
            inside = len(page.items) if until is None else bisect_right(page.items, until, key=_KEY)
            sorting = share.sort(page.items[:inside], page.traits[:inside], left)
            share.counts += effort + sorting.counts(task.job)
            left -= sorting.listed
            await outlet.send(sorting)
            if page.truncated and inside == len(page.items) and page.items[-1].key != until:
                rest.appendleft(Range(page.items[-1].key, until))
        await outlet.rest()
        if rest and left:
            idle_hops = 0 if share.has_progress else task.idle_hops + 1
            await children.add(lambda name: ListTask(name, task.job, tuple(rest), idle_hops, left))
        return share.counts

    async def walk(self, task: WalkTask, attempt: Attempt, budget: Budget, children: Children) -> Counts:
        """List everything page after page, each where the store says that the last one ended; no order of keys is relied on.

        What the budget leaves is handed on with the place where it begins. Raises as `list` does.
        """
        share, outlet = self._share(task.job, attempt, budget), _Outlet(task.job, children)
        with self._page_after_page(share):
            rest = await self._walk_on(task, share, outlet)
        await outlet.rest()
        if rest is not None:
            token, left = rest
            idle_hops = 0 if share.has_progress else task.idle_hops + 1
            await children.add(lambda name: task._replace(id=name, idle_hops=idle_hops, limit=left, token=token))
        return share.counts

    async def _walk_on(self, task: WalkTask, share: _Share, outlet: _Outlet) -> tuple[str, int | None] | None:
        """Walk as far as the budget goes; give where the rest begins and what is left of the limit, or None at the end."""
        but, token, left = frozenset(task.but), task.token, task.limit
        while left is None or left:
            if share.is_stopping or share.is_spent_by(share.counts.pages):
                return token, left
            try:
                page, effort = await self._page(share, "", token, is_walk=True)
            except Failed:
                if not share.has_progress:
                    raise
                return token, left
            are_new = [item.key not in but for item in page.items]
            sorting = share.sort([*compress(page.items, are_new)], [*compress(page.traits, are_new)], left)
            share.counts += effort + sorting.counts(task.job)
            await outlet.send(sorting)
            left = left and left - sorting.listed
            if not page.truncated:
                break
            if page.token in ("", token):
                raise Stop("unsupported", "the store says that more keys follow, and not how to ask for them")
            token = page.token
        return None

    @contextmanager
    def _page_after_page(self, share: _Share) -> Iterator[None]:
        """Have a task that is listed page after page end when what is left is to be handed on."""
        self._paging.add(share)
        try:
            yield
        finally:
            self._paging.discard(share)

    def _share(self, job: Job, attempt: Attempt, budget: Budget) -> _Share:
        share = self._shares[attempt.nonce] = _Share(job, attempt, budget)
        return share

    def under_way(self) -> Counts:
        """Give what the attempts that are not forgotten have listed so far."""
        return sum((share.counts for share in self._shares.values()), Counts())

    def forget(self, attempt: Attempt) -> None:
        """Take note that an attempt has ended, whatever came of it."""
        self._shares.pop(attempt.nonce, None)

    def hand_on(self) -> None:
        """Have the tasks in hand end soon, with what is open of them handed on."""
        for plan in self._plans:
            for share in plan.shares:
                plan.stop(share)
                share.wake()
        for share in self._paging:
            share.is_stopping = True

    async def _tend(self, plan: _Plan, share: _Share, outlet: _Outlet, children: Children) -> None:
        """Send on what is found for a task until nothing is open, or what is open is to be handed on."""
        while True:
            while share.offers:  # first: nobody lists them meanwhile
                await self._give(plan, share, share.offers.popleft(), children)
            if share.found:
                with share.found.popleft() as sorting:
                    await outlet.send(sorting)
                continue
            if share.is_stopping or share.error is not None or share.is_spent():
                plan.stop(share)
            if share.has_ended:
                return
            await share.change()

    async def _give(self, plan: _Plan, share: _Share, offer: Range, children: Children) -> None:
        """Send a range away; it is ours until the queue has accepted it."""
        sending = await children.add(lambda name: ListTask(name, share.job, (offer,)))
        sending.add_done_callback(partial(self._settle, plan, share, offer))

    def _settle(self, plan: _Plan, share: _Share, offer: Range, sending: aio.Future) -> None:
        plan.settle(share, offer, is_accepted=not sending.cancelled() and sending.exception() is None)
        self._ask_on()

    def _plan_for(self, task: ListTask, prefix: str) -> _Plan:
        """Give the plan of a source, or another one where the task overlaps one in hand: the same task, delivered again."""
        for plan in self._plans:
            if plan.source == task.job.source and not any(map(plan.overlaps, task.ranges)):
                return plan
        self._plans.append(plan := _Plan(task.job.source, prefix, self._page_keys))
        return plan

    async def _tidy(self, plan: _Plan) -> None:
        """Leave nothing pending where no task is left, and forget a plan that is not the first of its source."""
        if plan.shares:
            return
        requests = [*plan.requests]
        for request in requests:
            request.cancel()
        await aio.gather(*requests, return_exceptions=True)
        if not plan.shares and plan in self._plans and any(one.source == plan.source for one in self._plans if one is not plan):
            self._plans.remove(plan)

    # --------------------------------------------------------------------------------------------------------- requests

    def _ask_on(self) -> None:
        """Begin requests while there are free slots, and something to ask that is worth it."""
        now = aio.get_running_loop().time()
        while self._has_slot() and (found := self._next(now)) is not None:
            plan, request, share = found
            self._busy += 1
            answer = _Answer(self._release)
            plan.begin(self._ask(plan, request, share, answer)).add_done_callback(answer.release)
        for plan in self._plans:
            if self._busy >= self._slots:
                plan.offer(self._slots)

    def _next(self, now: float) -> tuple[_Plan, Request, _Share] | None:
        """Give what to ask next: of the first plan, or while listing is held up of the one that has waited longest."""
        is_held_up = self._held >= _HELD_UP
        since = now - _PATIENCE_SECONDS if is_held_up else -inf
        for plan in sorted(self._plans, key=lambda one: min(one.asked_at, since)):
            asked = plan.next(self._window - self._busy, now, is_held_up=is_held_up)
            if asked is not None:
                plan.asked_at = now
                return plan, *asked
        return None

    def _has_slot(self) -> bool:
        return self._busy < self._window and self._held < _MOST_HELD

    async def _ask(self, plan: _Plan, request: Request, share: _Share, answer: _Answer) -> None:
        """Ask for a page, and deal out what it shows."""
        try:
            page, effort = await self._page(share, request.after)
            page = _checked(page, share.sorter.prefix, request.after)
            answer.is_held = True
            self._held += 1
            shown = plan.take(request, share, page, effort, answer)
            self._window += self._window < self._slots and page.truncated and 2 * shown >= len(page.items)
        except Exception as error:  # noqa: BLE001 - it is for the task that this was asked for
            share.error = share.error or error
        finally:
            plan.planner.failed(request)
            share.requests -= 1
            share.wake()

    def _release(self, answer: _Answer) -> None:
        self._busy -= 1
        self._held -= answer.is_held
        self._ask_on()

    async def _page(self, share: _Share, after: str, token: str = "", *, is_walk: bool = False) -> tuple[Page, Counts]:
        """List one page, asking again where that may help, and on where a page is empty and more follow.

        For a walk an empty page is one, too: it tells where to go on.
        """
        source, policy, sorter = share.job.source, share.job.policy, share.sorter
        pages = retries = throttles = 0
        while True:
            answer = await self._s3.page(source, sorter.prefix, after, self._page_keys, token, policy, sorter.asked)
            if isinstance(answer, Page):
                pages += 1
                leads_on = answer.token not in ("", token)
                if answer.items or not answer.truncated or (is_walk and leads_on):
                    self._page_keys = _keys_to_ask_for(answer.items, self._page_keys)
                    return answer, Counts(pages=pages, retries=retries, throttles=throttles)
                if leads_on and not share.is_late():
                    token = answer.token
                    continue
                answer = Fault(Next.RETRY, "EmptyPage", "an empty page that says more follow")
            if answer.next is Next.SLOW_DOWN:
                throttles += 1
                self._window = max(min(_FIRST_SLOTS, self._slots), self._window * 3 // 4)
            _raise_if_final(answer, share.attempt)
            if retries + 1 >= _LIST_TRIES or share.is_late():
                raise Failed(answer, f"listing {source}")
            retries += 1
            await aio.sleep(self._pauses(retries))


# ------------------------------------------------------------------------------------------------------ what is found


class _Answer:
    """A page that holds its slot until all that was found in it has been sent on."""

    __slots__ = ("_release", "_uses", "is_held")

    def __init__(self, release: Callable[[_Answer], None]) -> None:
        self._uses = 1
        self._release = release
        self.is_held = False

    def use(self) -> None:
        self._uses += 1

    def release(self, _request: object = None) -> None:
        self._uses -= 1
        if not self._uses:
            self._release(self)


class _Outlet:
    """Sends what is found on, packed: what is to be copied, and apart from it what is archived, by its class."""

    def __init__(self, job: Job, children: Children) -> None:
        self._job = job
        self._children = children
        self._packers: dict[str, Packer] = {}

    async def send(self, sorting: Sorting) -> None:
        """Send batches that are full; of a dry job nothing is sent."""
        if self._job.dry:
            return
        await self._send("", sorting.items)
        for name, items in sorting.archived.items():
            await self._send(name, items)

    async def _send(self, archived: str, items: Sequence[Item]) -> None:
        packer = self._packers.get(archived)
        if packer is None:
            packer = self._packers[archived] = Packer(self._job, archived)
        await self._children.add_batches(self._job, packer.add(items), archived)

    async def rest(self) -> None:
        """Send what is left."""
        for archived, packer in self._packers.items():
            await self._children.add_batches(self._job, packer.rest(), archived)


class _Found(NamedTuple):
    """What is for one task, out of an answer; entered for as long as it takes to send it on."""

    sorting: Sorting
    answer: _Answer

    def __enter__(self) -> Sorting:
        return self.sorting

    def __exit__(self, *_: object) -> None:
        self.answer.release()


class _Share:
    """What a task has in a plan: what was found for it, and what is to be sent away."""

    def __init__(self, job: Job, attempt: Attempt, budget: Budget | None = None) -> None:
        self.job = job
        self.attempt = attempt
        self._budget = budget
        self.sorter = Sorter(job)
        self.counts = Counts()
        self.found: deque[_Found] = deque()
        self.offers: deque[Range] = deque()
        #: Ranges of which something is open, or was when the task was stopped.
        self.open = 0
        #: Ranges that were open and are no more in the plan.
        self.rest: list[Range] = []
        #: Requests for this task, begun and under way.
        self.asked = self.requests = 0
        #: Ranges to be given away: in all, and those that nobody has accepted yet.
        self.given = self.giving = 0
        self.is_stopping = False
        self.error: Exception | None = None
        self._changed: aio.Future | None = None

    @property
    def has_progress(self) -> bool:
        return bool(self.counts.pages or self.counts.listed)

    @property
    def is_in_vain(self) -> bool:
        """Tell whether an error ends the attempt: unless a request failed, and what was listed before would be again."""
        return not (self.has_progress and isinstance(self.error, Failed))

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will be found."""
        if self.error is not None and self.is_in_vain:
            return True
        return not self.requests and not self.giving and (self.is_stopping or not self.open)

    def is_spent(self) -> bool:
        return self.open > 0 and self._budget is not None and self._budget.is_spent(self.asked)

    def is_spent_by(self, pages: int) -> bool:
        return self._budget is not None and self._budget.is_spent(pages)

    def sort(self, items: Sequence[Item], traits: Sequence[Trait], most: int | None = None) -> Sorting:
        """Sort what was listed, as a Sorter does."""
        try:
            return self.sorter.sort(items, traits, most)
        except ValueError as error:
            raise Stop("unsupported", f"the listing does not tell when objects were modified: {error}") from error

    def is_late(self) -> bool:
        return self._budget is not None and self._budget.is_spent(0)

    def wake(self) -> None:
        if self._changed is not None:
            self._changed.settle()

    async def change(self) -> None:
        """Wait until something has changed, or the budget's time is over."""
        loop = aio.get_running_loop()
        seconds = None
        if self._budget is not None and self.open and not self.is_stopping:
            seconds = max(0.0, self._budget.deadline - loop.time())
        self._changed = loop.create_future()
        try:
            await aio.wait(self._changed, seconds)
        finally:
            self._changed = None


class _Plot(NamedTuple):
    """A range of the plan, and whose it is."""

    after: str
    until: str | None
    share: _Share


class _Desert(NamedTuple):
    """A stretch after a key in which an answer showed none, up to the one before `until`, or to the top."""

    after: str
    until: str | None
    seen_at: float


class _Plan:
    """The ranges of several tasks in one source, none of which overlaps another, and the requests for them."""

    def __init__(self, source: Location, prefix: str, page_keys: int) -> None:
        self.source = source
        self.planner = Planner((), prefix, page_keys)
        self.shares: set[_Share] = set()
        self.requests: set[aio.Task] = set()
        self._plots: list[_Plot] = []
        self._waiting: deque[tuple[float, _Plot]] = deque()
        self._offers = 0
        #: When it was last asked for anything.
        self.asked_at = -inf
        self._deserts: deque[_Desert] = deque(maxlen=_DESERTS_KEPT)

    # ------------------------------------------------------------------------------------------------------------ tasks

    def overlaps(self, whole: Range) -> bool:
        """Tell whether a range has something in common with one in hand."""
        place = bisect_right(self._plots, whole.after, key=_AFTER)
        if place and ((below := self._plots[place - 1].until) is None or whole.after < below):
            return True
        return place < len(self._plots) and (whole.until is None or self._plots[place].after < whole.until)

    def join(self, share: _Share, ranges: Sequence[Range], now: float) -> None:
        """Take over the ranges of a task; those known to be empty are done at once."""
        self.shares.add(share)
        for piece in ranges:
            if (piece.until is None or piece.after < piece.until) and not self._is_empty(piece, now):
                insort(self._plots, plot := _Plot(piece.after, piece.until, share), key=_AFTER)
                self._waiting.append((now, plot))
                self.planner.add([piece])
                share.open += 1

    def stop(self, share: _Share) -> None:
        """Begin no more for a task: from now on it only waits for what is under way."""
        share.is_stopping = True
        for plot in self._plots_of(share):
            share.rest += self.planner.withdraw(Range(plot.after, plot.until), but_busy=True)

    def leave(self, share: _Share) -> list[Range]:
        """Forget a task; give what remains of its ranges."""
        self.shares.discard(share)
        for plot in self._plots_of(share):
            share.rest += self.planner.withdraw(Range(plot.after, plot.until))
        self._plots = [plot for plot in self._plots if plot.share is not share]
        while share.found:
            share.found.popleft().answer.release()
        self._offers -= len(share.offers)
        return sorted(share.rest, key=_AFTER)

    def _plots_of(self, share: _Share) -> list[_Plot]:
        return [plot for plot in self._plots if plot.share is share]

    def _is_empty(self, piece: Range, now: float) -> bool:
        return any(
            after <= piece.after and (until is None or (piece.until is not None and piece.until < until))
            for after, until, seen_at in self._deserts
            if now - seen_at <= _DESERT_SECONDS
        )

    # --------------------------------------------------------------------------------------------------------- requests

    def next(self, free: int, now: float, *, is_held_up: bool = False) -> tuple[Request, _Share] | None:
        """Give what to ask next, and for whom, or None where nothing is worth a request now."""
        while (request := self._overdue(now) or self.planner.request(free, is_held_up=is_held_up)) is not None:
            share = self._plots[bisect_right(self._plots, request.after, key=_AFTER) - 1].share
            if not (share.is_stopping or share.is_spent()):
                share.asked += 1
                share.requests += 1
                return request, share
            self.planner.failed(request)
            share.rest += self.planner.withdraw(Range(request.after, request.until))
            share.wake()
        return None

    def _overdue(self, now: float) -> Request | None:
        """Give a request for the task that has waited longest for its first, if that is long."""
        while self._waiting and (self._waiting[0][1].share.asked or self._waiting[0][1].share not in self.shares):
            self._waiting.popleft()
        if not self._waiting or now - self._waiting[0][0] < _PATIENCE_SECONDS:
            return None
        plot = self._waiting.popleft()[1]
        return self.planner.first_request(Range(plot.after, plot.until))

    def begin(self, asking: Coroutine[None, None, None]) -> aio.Task:
        """Begin a request."""
        task = aio.create_task(asking)
        self.requests.add(task)
        task.add_done_callback(self.requests.discard)
        return task

    def take(self, request: Request, share: _Share, page: Page, effort: Counts, answer: _Answer) -> int:
        """Give each task what an answer shows of its ranges; give how many keys of it are new."""
        share.counts += effort
        keys = [*map(_KEY, page.items)]
        shown = 0
        for part in self.planner.answered(request, keys, page.truncated):
            shown += part.stop - part.start
            owner = self._plots[bisect_left(self._plots, keys[part.start], key=_AFTER) - 1].share
            sorting = owner.sort(page.items[part], page.traits[part])
            owner.counts += sorting.counts(owner.job)
            answer.use()
            owner.found.append(_Found(sorting, answer))
            owner.wake()
        now = aio.get_running_loop().time()
        self._deserts.append(_Desert(request.after, keys[0] if keys else None, now))
        if not page.truncated and keys:
            self._deserts.append(_Desert(keys[-1], None, now))
        self._close(request.after, keys[-1] if page.truncated else None)
        return shown

    def _close(self, after: str, until: str | None) -> None:
        """Take note of the ranges of which an answer that shows the keys between these has left nothing open."""
        first = max(0, bisect_right(self._plots, after, key=_AFTER) - 1)
        end = len(self._plots) if until is None else bisect_right(self._plots, until, key=_AFTER)
        left = []
        for plot in self._plots[first:end]:
            if self.planner.is_open(Range(plot.after, plot.until)):
                left.append(plot)
            elif not plot.share.is_stopping:
                plot.share.open -= 1
                plot.share.wake()
        self._plots[first:end] = left

    # ------------------------------------------------------------------------------------------------------ giving away

    def offer(self, slots: int) -> None:
        """Offer a range to other workers, if there is much more than our slots will list soon."""
        if self._offers >= _MOST_OFFERS or self.planner.expected() < _ROUNDS_AHEAD * slots:
            return
        given = self.planner.offer(_LEAST_GIVEN_PAGES)
        if given is None:
            return
        share = self._plots[bisect_right(self._plots, given.after, key=_AFTER) - 1].share
        if share.is_stopping or share.given >= _MOST_GIVEN:
            self.planner.refused(given)
            return
        self._offers += 1
        share.given += 1
        share.giving += 1
        share.offers.append(given)
        share.wake()

    def settle(self, share: _Share, offer: Range, *, is_accepted: bool) -> None:
        """Let go of a range that the queue has accepted, or go on with it where it has not."""
        self._offers -= 1
        share.giving -= 1
        if share not in self.shares:
            return
        if is_accepted:
            self.planner.accepted(offer)
            self._cede(share, offer)
        else:
            self.planner.refused(offer)
        share.wake()

    def _cede(self, share: _Share, offer: Range) -> None:
        """Take a range out of the one that it was part of."""
        place = bisect_right(self._plots, offer.after, key=_AFTER) - 1
        whole = self._plots[place]
        parts = [Range(whole.after, offer.after)] if whole.after < offer.after else []
        parts += [Range(offer.until, whole.until)] if offer.until is not None and offer.until != whole.until else []
        still_open = [_Plot(part.after, part.until, share) for part in parts if self.planner.is_open(part)]
        self._plots[place : place + 1] = still_open
        if not share.is_stopping:
            share.open += len(still_open) - 1


# ------------------------------------------------------------------------------------------------------ what is pure


def _keys_to_ask_for(items: Sequence[Item], asked_for: int) -> int:
    """Give how many keys the next page may have, judging by those of the last one."""
    characters = sum(map(len, map(_KEY, items)))
    return min(PAGE_KEYS, max(_LEAST_PAGE_KEYS, _PAGE_CHARACTERS * len(items) // characters)) if characters else asked_for


def _checked(page: Page, prefix: str, after: str) -> Page:
    """Give a page with the keys behind `after` only; refuses a store whose answers our ranges cannot be built on."""
    keys = [*map(_KEY, page.items)]
    if not all(map(lt, keys, keys[1:])):
        raise Stop("unsupported", "the store does not list keys in the order of their UTF-8 bytes")
    if any(not key.startswith(prefix) for key in (keys[:1] + keys[-1:])):
        raise Stop("unsupported", f"the store ignores prefix: asked for {prefix!r}, it answered {keys[0]!r}")
    if not keys or keys[0] > after:
        return page
    if page.truncated:
        raise Stop("unsupported", f"the store ignores start-after: asked behind {after!r}, it answered {keys[0]!r}")
    first = bisect_right(keys, after)
    return Page(page.items[first:], truncated=False, traits=page.traits[first:])


def _raise_if_final(fault: Fault, attempt: Attempt) -> None:
    """Raise what no repetition of a list request would change."""
    match fault.next:
        case Next.RETRY | Next.SLOW_DOWN:
            return
        case Next.VANISHED | Next.STOP:
            raise stop_for(fault)
        case Next.DENIED if attempt.number >= _LIST_PROOF_ATTEMPTS:
            raise Stop("not_permitted", str(fault))
        case _:
            raise Failed(fault, "listing")
