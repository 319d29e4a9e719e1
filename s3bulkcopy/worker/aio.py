"""An event loop, its tasks and futures: the little of asyncio that a worker needs, under the same names.

asyncio costs a worker more to import than all else together, and for each event several calls between the kernel's word and
the callback; where a copy costs some ten microseconds, both show. What is here behaves as its namesake does, and what is not
here a worker does not use. One thing differs: an exception that a callback raises ends `run_until_complete`, for it is a bug.
"""

from __future__ import annotations

import heapq
import os
import select
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
    from types import TracebackType
    from typing import Self, TypeVar

    T = TypeVar("T")

#: What a poller says of a file descriptor. Errors and the end of a stream count as both.
_READ, _WRITE = 1, 4

#: The longest that a poller is asked to wait, in seconds; the kernel takes no more than 24 days.
_LONGEST_POLL_SECONDS = 86_400.0

#: Where so many sockets are watched, if only because they are kept, and the last look found fewer than so many of them ready,
#: one that would wait is this much later, in seconds: to be woken for each answer costs more than all else that is done for it.
_MANY_SOCKETS, _FEW_READY = 64, 32
_GATHER_SECONDS = 0.001

_PENDING, _DONE, _FAILED, _CANCELLED = "pending", "done", "failed", "cancelled"


class CancelledError(BaseException):
    """The task was cancelled, or what it waited for."""


class Future:
    """A result that is not there yet."""

    def __init__(self, loop: Loop) -> None:
        """Belong to a loop, which runs the callbacks."""
        self._loop = loop
        self._state = _PENDING
        self._result: Any = None
        self._callbacks: list[Callable[[Any], object]] = []
        self._is_noticed = False

    def __del__(self) -> None:
        """Tell of an exception that nobody has asked for."""
        if self._state is _FAILED and not self._is_noticed:
            sys.excepthook(type(self._result), self._result, self._result.__traceback__)

    def done(self) -> bool:
        """Tell whether it has a result, an exception, or was cancelled."""
        return self._state is not _PENDING

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self._state is _CANCELLED

    def result(self) -> Any:  # noqa: ANN401 - as the future's own type says
        """Give the result; raises the exception, or CancelledError."""
        self._is_noticed = True
        if self._state is _DONE:
            return self._result
        if self._state is _FAILED:
            raise self._result.with_traceback(self._result.__traceback__)
        if self._state is _CANCELLED:
            raise CancelledError
        raise RuntimeError("there is no result yet")

    def exception(self) -> BaseException | None:
        """Give the exception, or None; raises CancelledError."""
        if self._state is not _FAILED:
            self.result()
            return None
        self._is_noticed = True
        return self._result  # type: ignore[no-any-return]

    def set_result(self, result: Any) -> None:  # noqa: ANN401 - as the future's own type says
        """End with a result."""
        self._end(_DONE, result)

    def set_exception(self, error: BaseException) -> None:
        """End with an exception."""
        self._end(_FAILED, error)

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:  # noqa: ANN401 - see set_result
        """End with a result or an exception, unless it has ended already."""
        if self._state is _PENDING:
            self._end(*((_FAILED, error) if error else (_DONE, result)))

    def cancel(self) -> bool:
        """End as cancelled, if it is not too late; tell whether it was not."""
        if self._state is not _PENDING:
            return False
        self._end(_CANCELLED, None)
        return True

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have a callback called with this future once it is done."""
        if self._state is _PENDING:
            self._callbacks.append(callback)
        else:
            self._loop.call_soon(callback, self)

    def _end(self, state: str, result: Any) -> None:  # noqa: ANN401
        if self._state is not _PENDING:
            raise RuntimeError(f"the future is {self._state} already")
        self._state, self._result = state, result
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback, self)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result."""
        if self._state is _PENDING:
            yield self
        return self.result()


class Task(Future):
    """A coroutine that runs by itself."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Begin soon."""
        super().__init__(loop)
        self._coroutine = coroutine
        self._waits_for: Future | None = None
        self._is_to_cancel = False
        #: Cancellations that nobody has taken back.
        self.cancellations = 0
        loop.tasks.add(self)
        loop.call_soon(self._step)

    def cancel(self) -> bool:
        """Raise CancelledError where the coroutine waits; tell whether it has not ended."""
        if self.done():
            return False
        self.cancellations += 1
        if self._waits_for is None or not self._waits_for.cancel():
            self._is_to_cancel = True
        return True

    def _step(self, _awaited: Future | None = None) -> None:
        if self.done():
            return
        self._waits_for = None
        before, self._loop.task = self._loop.task, self
        try:
            if self._is_to_cancel:
                self._is_to_cancel = False
                awaited = self._coroutine.throw(CancelledError())
            else:
                awaited = self._coroutine.send(None)
        except StopIteration as end:
            self._end(_CANCELLED if self._is_to_cancel else _DONE, end.value)
        except CancelledError:
            self._end(_CANCELLED, None)
        except Exception as error:  # noqa: BLE001 - it is for whoever waits for the task
            # Without this frame, through which the exception would know the task that keeps it.
            self._end(_FAILED, error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        else:
            if awaited is None:
                self._loop.call_soon(self._step)
            else:
                self._waits_for = awaited
                awaited.add_done_callback(self._step)
                if self._is_to_cancel and awaited.cancel():
                    self._is_to_cancel = False
        finally:
            self._loop.task = before
            if self.done():
                self._loop.tasks.discard(self)


class TimerHandle:
    """A call that is due at some time, unless it is cancelled."""

    __slots__ = ("_when", "call")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        """Be due at `when`, in seconds of the loop's clock."""
        self._when = when
        self.call: Callable[[], object] | None = call

    def when(self) -> float:
        """Give the time it is due."""
        return self._when

    def cancel(self) -> None:
        """Call it off."""
        self.call = None


class _Portable:
    """What `select.epoll` does, where there is none."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, self._events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, self._events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [
            (key.fd, (_READ if events & selectors.EVENT_READ else 0) | (_WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in ready
        ]

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(mask: int) -> int:
        return (selectors.EVENT_READ if mask & _READ else 0) | (selectors.EVENT_WRITE if mask & _WRITE else 0)


class Loop:
    """An event loop; it may be run again and again, and what is under way waits in between."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._poller = select.epoll() if hasattr(select, "epoll") else _Portable()
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._deferred: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._numbers = count()
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        self._idle_seconds = 0.0
        self._ready_sockets = 0
        self._bell: tuple[socket.socket, socket.socket] | None = None
        #: The tasks that have not ended, and the one that runs now.
        self.tasks: set[Task] = set()
        self.task: Task | None = None

    def close(self) -> None:
        """Let go of what the loop holds of the system."""
        self._poller.close()
        for end in self._bell or ():
            end.close()

    # ----------------------------------------------------------------------------------------------------------- time

    #: Gives the time: seconds since whenever. Asked several times for each answer, so without a call of our own.
    time = staticmethod(time.monotonic)

    def idle_seconds(self) -> float:
        """Give the seconds in which there was nothing to do, since the loop was made."""
        return self._idle_seconds

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:  # noqa: ANN401 - whatever the call takes
        """Call something when what runs now has returned."""
        self._ready.append((call, arguments))

    def defer(self, call: Callable[..., object], *arguments: Any) -> None:  # noqa: ANN401 - whatever the call takes
        """Call something once all sockets that are ready have been served, before anything else.

        What is done for many of them in a row costs far less than the same between two calls of the kernel.
        """
        self._deferred.append((call, arguments))

    def call_at(self, when: float, call: Callable[[], object]) -> TimerHandle:
        """Call something at a time."""
        timer = TimerHandle(when, call)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(self, seconds: float, call: Callable[[], object]) -> TimerHandle:
        """Call something after so many seconds."""
        return self.call_at(self.time() + seconds, call)

    # ------------------------------------------------------------------------------------------------------- sockets

    def add_reader(self, fd: int, call: Callable[[], object]) -> None:
        """Call something whenever there is something to read."""
        self._watch(fd, self._readers, call)

    def add_writer(self, fd: int, call: Callable[[], object]) -> None:
        """Call something whenever there is room to write."""
        self._watch(fd, self._writers, call)

    def remove_reader(self, fd: int) -> None:
        """Call nothing any more."""
        self._unwatch(fd, self._readers)

    def remove_writer(self, fd: int) -> None:
        """Call nothing any more."""
        self._unwatch(fd, self._writers)

    def _watch(self, fd: int, calls: dict[int, Callable[[], object]], call: Callable[[], object]) -> None:
        before = self._mask(fd)
        calls[fd] = call
        if not before:
            self._poller.register(fd, self._mask(fd))
        elif before != self._mask(fd):
            self._poller.modify(fd, self._mask(fd))

    def _unwatch(self, fd: int, calls: dict[int, Callable[[], object]]) -> None:
        if calls.pop(fd, None) is None:
            return
        if mask := self._mask(fd):
            self._poller.modify(fd, mask)
        else:
            self._poller.unregister(fd)

    def _mask(self, fd: int) -> int:
        return (_READ if fd in self._readers else 0) | (_WRITE if fd in self._writers else 0)

    async def readable(self, fd: int) -> None:
        """Wait until there is something to read."""
        await self._until(fd, self.add_reader, self.remove_reader)

    async def writable(self, fd: int) -> None:
        """Wait until there is room to write."""
        await self._until(fd, self.add_writer, self.remove_writer)

    async def _until(self, fd: int, add: Callable[..., None], remove: Callable[[int], None]) -> None:
        ready = self.create_future()
        add(fd, ready.settle)
        try:
            await ready
        finally:
            remove(fd)

    async def sock_connect(self, connecting: socket.socket, address: Any) -> None:  # noqa: ANN401 - of any family
        """Connect a socket that does not block; raises OSError."""
        try:
            connecting.connect(address)
        except (BlockingIOError, InterruptedError):
            await self.writable(connecting.fileno())
            if number := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, f"{os.strerror(number)}: {address}") from None

    async def getaddrinfo(self, host: str, port: int, *, type: int = 0) -> list[Any]:  # noqa: A002 - as socket has it
        """Resolve a name in a thread of its own; raises OSError, or UnicodeError where it cannot be a name."""
        import threading  # noqa: PLC0415 - most workers connect to a few names, seldom

        answer = self.create_future()

        def resolve() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=type)
            except Exception as error:  # noqa: BLE001 - it is for whoever waits
                self._call_from_thread(partial(answer.settle, error=error))
            else:
                self._call_from_thread(partial(answer.settle, found))

        self._hang_bell()
        threading.Thread(target=resolve, daemon=True).start()
        return await answer  # type: ignore[no-any-return]

    def _hang_bell(self) -> None:
        """Make what a thread rings to have the loop look."""
        if self._bell is None:
            inside, outside = socket.socketpair()
            inside.setblocking(False)
            self._bell = inside, outside
            self.add_reader(inside.fileno(), lambda: inside.recv(64))

    def _call_from_thread(self, call: Callable[[], object]) -> None:
        self.call_soon(call)  # appending to a deque is safe
        if self._bell is not None:
            with suppress(OSError):  # the loop may have closed meanwhile
                self._bell[1].send(b"!")

    # --------------------------------------------------------------------------------------------------------- tasks

    def create_future(self) -> Future:
        """Make a future."""
        return Future(self)

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        """Have a coroutine run by itself."""
        return Task(self, coroutine)

    def run_until_complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it returns
        """Run until a coroutine ends; give its result, or raise its exception."""
        global _running  # noqa: PLW0603 - as in asyncio, what runs may ask for its loop
        if _running is not None:
            raise RuntimeError("a loop runs already")
        _running = self
        try:
            main = self.create_task(coroutine)
            while not main.done():
                self._turn()
        finally:
            _running = None
        return main.result()

    def _turn(self) -> None:
        """Wait for something to happen, and do what is due."""
        timers, ready, deferred = self._timers, self._ready, self._deferred
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        if ready or deferred:
            seconds = 0.0
        elif timers:
            seconds = max(0.0, timers[0][0] - self.time())
        else:
            seconds = -1.0
        for fd, mask in self._poll(seconds):
            if mask & ~_WRITE and (call := self._readers.get(fd)) is not None:
                call()
            if mask & ~_READ and (call := self._writers.get(fd)) is not None:
                call()
        while deferred:
            function, arguments = deferred.popleft()
            function(*arguments)
        if timers:
            self._make_due(self.time())
        for _ in range(len(ready)):
            function, arguments = ready.popleft()
            function(*arguments)

    def _make_due(self, now: float) -> None:
        """Put calls whose time has come among those that are ready."""
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                self._ready.append((timer.call, ()))

    def _poll(self, seconds: float) -> Iterable[tuple[int, int]]:
        if seconds and self._ready_sockets < _FEW_READY and len(self._readers) >= _MANY_SOCKETS:
            gathering = min(seconds, _GATHER_SECONDS) if seconds > 0 else _GATHER_SECONDS
            time.sleep(gathering)
            self._idle_seconds += gathering  # where it takes longer, the processor was another's
            seconds = max(0.0, seconds - gathering) if seconds > 0 else seconds
        began = time.perf_counter() if seconds else 0.0
        events = self._poller.poll(min(seconds, _LONGEST_POLL_SECONDS))
        if seconds:
            self._idle_seconds += time.perf_counter() - began
        self._ready_sockets = len(events)
        return events


_running: Loop | None = None


def get_running_loop() -> Loop:
    """Give the loop that runs."""
    if _running is None:
        raise RuntimeError("no loop runs")
    return _running


def current_task() -> Task | None:
    """Give the task that runs."""
    return get_running_loop().task


def all_tasks() -> set[Task]:
    """Give the tasks that have not ended."""
    return set(get_running_loop().tasks)


def create_task(coroutine: Coroutine[Any, Any, Any]) -> Task:
    """Have a coroutine run by itself."""
    return Task(get_running_loop(), coroutine)


def run(coroutine: Coroutine[Any, Any, T], loop: Loop | None = None) -> T:
    """Run a coroutine in a loop of its own; give its result."""
    loop = loop or Loop()
    try:
        return loop.run_until_complete(coroutine)  # type: ignore[no-any-return]
    finally:
        loop.close()


async def sleep(seconds: float) -> None:
    """Wait."""
    loop = get_running_loop()
    woken = loop.create_future()
    timer = loop.call_later(seconds, woken.settle)
    try:
        await woken
    finally:
        timer.cancel()


async def wait(future: Future, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as in asyncio
    """Wait until a future is done, for so many seconds at most; tell whether it is. It may wait on when this does not."""
    loop = get_running_loop()
    woken = loop.create_future()
    future.add_done_callback(woken.settle)
    timer = loop.call_later(timeout, woken.settle) if timeout is not None and timeout < inf else None
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()
    return future.done()


async def gather(*awaitables: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """Run coroutines at the same time; give their results in order.

    Raises the first exception, the others then going on by themselves; with `return_exceptions` it is among the results. Where
    this is cancelled they are, and all of them are waited for.
    """
    loop = get_running_loop()
    futures = [one if isinstance(one, Future) else loop.create_task(one) for one in awaitables]  # type: ignore[arg-type]
    ended = _Gathering(loop, futures)
    left = len(futures)

    def note(one: Future) -> None:
        nonlocal left
        left -= 1
        if _error(one) is not None and not return_exceptions and not ended.is_to_cancel:
            ended.settle(one)
        elif not left:
            ended.settle()

    for future in futures:
        future.add_done_callback(note)
    failed = await ended if futures else None
    if ended.is_to_cancel:
        raise CancelledError
    if return_exceptions:
        return [_error(future) or future.result() for future in futures]
    if failed is not None:
        failed.result()
    return [future.result() for future in futures]


class _Gathering(Future):
    """The end of several futures; to cancel it is to cancel them, and it ends when they have."""

    def __init__(self, loop: Loop, futures: list[Future]) -> None:
        super().__init__(loop)
        self._futures = futures
        self.is_to_cancel = False

    def cancel(self) -> bool:
        if self.done():
            return False
        for future in self._futures:
            self.is_to_cancel |= future.cancel()
        return self.is_to_cancel


def _error(future: Future) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


class timeout:  # noqa: N801 - as in asyncio
    """Bounds what happens inside: after so many seconds it is cancelled, and TimeoutError raised."""

    def __init__(self, seconds: float) -> None:
        """Allow so many seconds."""
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> Self:
        """Begin to count."""
        loop = get_running_loop()
        task = loop.task
        if task is None:
            raise RuntimeError("only a task can be timed")
        self._task = task
        self._cancellations = task.cancellations
        self._timer = loop.call_later(self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        self._timer.cancel()
        if self._expired:
            self._task.cancellations -= 1
            if kind is CancelledError and self._task.cancellations <= self._cancellations:
                raise TimeoutError from error


class Semaphore:
    """Lets so many in at a time, in the order in which they came."""

    def __init__(self, value: int) -> None:
        """Let `value` in."""
        self._value = value
        self._queue: deque[Future] = deque()

    async def __aenter__(self) -> None:
        """Wait to be let in."""
        if self._value > 0 and not self._queue:
            self._value -= 1
            return
        turn = get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                with suppress(ValueError):  # passed over already
                    self._queue.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self._release()

    def _release(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._value += 1
