"""What one attempt at a task may use up, and what it hands on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker import aio
from s3bulkcopy.worker.model import CopyTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from s3bulkcopy.worker.model import Attempt, Emit, Item, Job, Task

#: How long one attempt at a list task lasts, in seconds.
LIST_SECONDS = 20.0

#: LIST requests of one worker at a time. Two workers of the lambda engine, at 100 ms an answer, send 1,280 a second, of the
#: 5,500 that S3 answers from one partition.
LIST_SLOTS = 64

#: Pages that one attempt at a list task asks for. When a lister is killed, what it has queued is copied a second time: so it is
#: half a million objects at most. And to hand on what is left takes a message or two, which is little beside so many requests.
LIST_PAGES = 500


class Budget(NamedTuple):
    """How far one attempt may go: until when (seconds of the event loop's clock), and how many pages."""

    deadline: float
    pages: int = LIST_PAGES

    def is_spent(self, pages: int) -> bool:
        """Tell whether the attempt is to hand on the rest."""
        return pages >= self.pages or aio.get_running_loop().time() >= self.deadline


class Children:
    """The children of one attempt: their ids, and the sends under way."""

    def __init__(self, attempt: Attempt, emit: Emit, most_sends: int) -> None:
        """Begin without any; at most `most_sends` are under way to the queue at a time."""
        self._nonce = attempt.nonce
        self._emit = emit
        self._most_sends = most_sends
        self._sends: list[aio.Task] = []
        self.count = 0

    async def add(self, child: Callable[[str], Task]) -> aio.Task:
        """Begin to send the child that is made with its id, and give the sending.

        Waits only where too many sends are under way, and raises what the oldest of them raised.
        """
        sending = self.begin(child)
        if len(self._sends) > self._most_sends:
            await self._sends.pop(0)
        return sending

    def begin(self, child: Callable[[str], Task]) -> aio.Task:
        """Begin to send a child, however many are under way."""
        task = child(f"{self._nonce}.{self.count}")
        self.count += 1
        self._sends.append(sending := aio.create_task(self._emit(task)))
        return sending

    async def add_batches(self, job: Job, batches: Iterable[tuple[Item, ...]]) -> None:
        """Begin to send batches of items as CopyTasks, as `add` does."""
        for batch in batches:
            await self.add(lambda name, items=batch: CopyTask(name, job, items))  # type: ignore[misc]

    async def accepted(self) -> None:
        """Wait until the queue has accepted every child; raises what a send raised."""
        while self._sends:
            await self._sends.pop(0)

    async def stop(self) -> None:
        """End the sends that nobody waits for any more, so that nothing is pending."""
        for send in self._sends:
            send.cancel()
        await aio.gather(*self._sends, return_exceptions=True)
