"""One task, from start to `Done`: what a worker is, wherever it runs.

Nothing here knows SQS or Lambda: children go out through `emit`, time comes from the event loop and the budget.
"""

from __future__ import annotations

from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING

from s3bulkcopy.worker.attempts import LIST_SLOTS, Children
from s3bulkcopy.worker.model import (
    ARCHIVED,
    MAX_IDLE_HOPS,
    CopyTask,
    Counts,
    Done,
    Failure,
    ListTask,
    PartTask,
    WalkTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.attempts import Budget
    from s3bulkcopy.worker.copying import Copier
    from s3bulkcopy.worker.large import Uploads
    from s3bulkcopy.worker.listing import Lister
    from s3bulkcopy.worker.model import Attempt, Emit, Item, Task
    from s3bulkcopy.worker.s3 import S3

#: Of an item, as its attribute says it; half the price.
_SIZE = itemgetter(1)

#: Sends of one task that may be under way before it waits for the oldest, unless said otherwise.
_SENDS_UNDER_WAY = 16


class TooManyHops(RuntimeError):
    """A task was handed on again and again, and nothing came of it."""


class Worker:
    """Works on tasks; one per environment, with the connections and the pace that outlive a task."""

    def __init__(
        self,
        s3: S3,
        copier: Copier,
        pauses: Callable[[int], float],
        *,
        most_sends: int = _SENDS_UNDER_WAY,
        list_slots: int = LIST_SLOTS,
    ) -> None:
        """Work with these; `pauses(n)` is the pause in seconds before the n-th repetition of a list request.

        A task has no more than `most_sends` children under way to the queue at a time, and all together have no more than
        `list_slots` list requests.
        """
        self._s3 = s3
        self._copier = copier
        self._pauses = pauses
        self._most_sends = most_sends
        self._list_slots = list_slots
        self._is_handing_on = False

    @cached_property
    def _lister(self) -> Lister:
        from s3bulkcopy.worker.listing import Lister  # noqa: PLC0415 - most workers never list

        return Lister(self._s3, self._pauses, slots=self._list_slots)

    @cached_property
    def _uploads(self) -> Uploads:
        from s3bulkcopy.worker.large import Uploads  # noqa: PLC0415 - most workers meet no large object

        return Uploads(self._s3, self._copier, self._pauses)

    def under_way(self) -> Counts:
        """Give what tasks that have not ended have listed and copied so far; of parts of large objects those on their way."""
        listed = self._lister.under_way() if "_lister" in vars(self) else Counts()
        return listed + self._copier.under_way()

    async def hand_on(self, seconds: float) -> None:
        """Have the tasks in hand end soon, handing on what is left; copies in flight have so many seconds to land."""
        self._is_handing_on = True
        if "_lister" in vars(self):
            self._lister.hand_on()
        if "_uploads" in vars(self):
            self._uploads.hand_on()
        await self._copier.hand_on(seconds)

    async def work(self, task: Task, attempt: Attempt, budget: Budget, emit: Emit) -> Done:
        """Work on a task until it ends or the budget is spent, the rest having been handed on.

        Every child was accepted by the queue when this returns. Raises Stop where the run cannot go on, and anything else
        where this attempt failed and another may not.
        """
        if task.idle_hops > MAX_IDLE_HOPS:
            raise TooManyHops(f"handed on {task.idle_hops} times and nothing came of it")
        children = Children(attempt, emit, self._most_sends)
        failures: tuple[Failure, ...] = ()
        try:
            if isinstance(task, ListTask):
                counts = await self._lister.list(task, attempt, budget, children)
            elif isinstance(task, WalkTask):
                counts = await self._lister.walk(task, attempt, budget, children)
            elif isinstance(task, PartTask):
                counts, failures = await self._uploads.work(task, attempt, budget, children)
            elif task.archived:
                counts, failures = _untried(task)
            else:
                counts, failures = await self._copy(task, attempt, budget, children)
            await children.accepted()
        finally:
            await children.stop()
            if "_lister" in vars(self):
                self._lister.forget(attempt)
        return Done(task.id, attempt, children.count, counts, failures)

    async def _copy(
        self, task: CopyTask, attempt: Attempt, budget: Budget, children: Children
    ) -> tuple[Counts, tuple[Failure, ...]]:
        items, counts = task.items, Counts()
        failures: tuple[Failure, ...] = ()
        rest: tuple[Item, ...] = ()
        least = task.job.multipart_bytes
        if max(map(_SIZE, items), default=0) >= least:  # looking at each costs more
            large = [item for item in items if item.size >= least]
            counts, failures, rest = await self._uploads.begin(task, large, attempt, budget, children)
            items = tuple(item for item in items if item.size < least)
            if self._is_handing_on:  # what is small was not begun when the others were told to end
                rest, items = rest + items, ()
        outcome = await self._copier.copy(task.job, items, budget.deadline, attempt=attempt.number)
        if rest := rest + outcome.rest:
            idle = task.idle_hops + 1 if len(rest) == len(task.items) else 0
            await children.add(lambda name: CopyTask(name, task.job, rest, idle))
        return counts + outcome.counts, failures + outcome.failures


def _untried(task: CopyTask) -> tuple[Counts, tuple[Failure, ...]]:
    """Give what is told of objects that are archived, and so are not tried."""
    number, cause = len(task.items), f"in {task.archived}, and not restored"
    failures = tuple(Failure(item.key, item.size, ARCHIVED, cause) for item in task.items)
    return Counts(skipped=number, archived=number), failures
