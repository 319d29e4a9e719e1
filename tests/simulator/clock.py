"""Virtual time: one queue of events for the whole world, and an event loop for each Lambda environment in it."""

from __future__ import annotations

import heapq
from functools import partial
from itertools import count
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from s3bulkcopy.worker import aio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

#: Virtual seconds after which a schedule is said never to end: more than three hours, where the slowest take one or two.
MOST_SECONDS = 12_000.0

#: How often faults strike in one schedule after which work is done again, at most. A task that is handed on twenty times, and
#: twice each time, is a million tasks.
MOST_STRIKES = 18

#: How often a coroutine of a killed environment is told to end: once for each `await` in its `finally` blocks.
_MOST_CLOSES = 100


class _InOrder(set[aio.Task]):
    """Tasks in the order in which they were begun: a set has an order of its own in each process."""

    def __init__(self) -> None:
        self._begun: dict[aio.Task, None] = {}

    def add(self, task: aio.Task) -> None:
        super().add(task)
        self._begun[task] = None

    def discard(self, task: Any) -> None:
        super().discard(task)
        self._begun.pop(task, None)

    def pop(self) -> aio.Task:
        task = next(iter(self._begun))
        self.discard(task)
        return task


#: How often the command of one schedule is killed, at most.
MOST_KILLS = 3


class Killed(BaseException):
    """The command is killed: nothing of it runs any more, whatever it would have done on leaving."""


class NeverEnds(AssertionError):
    """A schedule that goes on and on."""


class _Future(aio.Future):
    """A future of an environment; of one that was killed nobody hears anything any more."""

    _loop: EnvironmentLoop

    def __del__(self) -> None:
        """Tell of an exception that nobody has asked for."""
        if not self._loop.is_dead:
            super().__del__()


class World:
    """What time it is, what happens next, and chance."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        """Begin at zero."""
        self.random = Random(seed)  # noqa: S311 - it is to be the same each time
        self.now = 0.0
        #: Whether nothing goes wrong yet.
        self.is_calm = True
        self.strikes_left = MOST_STRIKES
        self.kills_left = MOST_KILLS
        self.invocations = 0
        self.trace: list[str] | None = [] if tracing else None
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def strikes(self, share: float) -> bool:
        """Tell whether a fault that multiplies work strikes now, as it does in this share of the cases."""
        if not share or self.is_calm or not self.strikes_left or self.random.random() >= share:
            return False
        self.strikes_left -= 1
        return True

    def may_kill(self, share: float) -> None:
        """Kill the command now, in this share of the cases: raises Killed."""
        if share and not self.is_calm and self.kills_left and self.random.random() < share:
            self.kills_left -= 1
            self.note("the command is killed")
            raise Killed

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), call))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something happen after so many seconds."""
        self.at(self.now + seconds, call)

    def go_on(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        """Let time pass, until something holds."""
        end = self.now + seconds
        events = self._events
        while not until():
            if not events or events[0][0] > end:
                self.now = end
                break
            when, _, call = heapq.heappop(events)
            self.now = max(self.now, when)
            call()
        if self.now > MOST_SECONDS:
            raise NeverEnds(f"after {self.now:,.0f} virtual seconds the run has not ended")

    def note(self, what: str) -> None:
        """Write a line of the trace; ask `trace` first where the line costs something."""
        if self.trace is not None:
            self.trace.append(f"{self.now:10.3f} {what}")


class EnvironmentLoop(aio.Loop):
    """The event loop of one environment, on the world's clock.

    It takes one step at a time: what lies between two awaits. It can be frozen, and killed behind any step.
    """

    def __init__(self, world: World, name: str, killed: Callable[[], object]) -> None:
        """Begin frozen; `killed` is called when a step was the last."""
        super().__init__()
        super().close()  # nothing here waits for the kernel
        self.tasks = _InOrder()
        self.world, self.name = world, name
        self.is_frozen = True
        self.is_dead = False
        self.was_killed = False
        #: Steps that are left; infinity where no step kills.
        self.steps_left = inf
        self._killed = killed
        #: When the credentials of this environment end.
        self.expires_at = inf

    def time(self) -> float:
        """Give the world's time."""
        return self.world.now

    def idle_seconds(self) -> float:
        """Give a process that always has time to spare."""
        return self.world.now

    def create_future(self) -> aio.Future:
        """Make a future."""
        return _Future(self)

    def call_at(self, when: float, call: Callable[[], object]) -> aio.TimerHandle:
        """Call something at a time, or when this is thawed after it."""
        timer = aio.TimerHandle(when, call)
        self.world.at(max(when, self.world.now), partial(self._due, timer))
        return timer

    def _due(self, timer: aio.TimerHandle) -> None:
        if timer.call is not None:
            self.enter(self._call, timer)

    @staticmethod
    def _call(timer: aio.TimerHandle) -> None:
        if timer.call is not None:
            timer.call()

    def enter(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call something in the environment, as its kernel would."""
        if not self.is_dead:
            self.call_soon(call, *arguments)
            self.run()

    def begin(self, main: Coroutine[Any, Any, Any], ended: Callable[[aio.Future], object]) -> None:
        """Thaw, and run a coroutine; then freeze and tell."""
        self.is_frozen = False
        task = self.create_task(main)

        def freeze(task: aio.Future) -> None:
            self.is_frozen = True
            self.steps_left = inf
            assert not self.tasks, f"{self.name} left pending: {self.tasks}"
            ended(task)

        task.add_done_callback(freeze)
        self.run()

    def run(self) -> None:
        """Take steps until there is nothing to do now."""
        ready, deferred = self._ready, self._deferred
        aio._running = self
        try:
            while (deferred or ready) and not self.is_frozen:
                call, arguments = (deferred or ready).popleft()
                call(*arguments)
                self.steps_left -= 1
                if self.steps_left <= 0:
                    self.kill()
        finally:
            aio._running = None

    def kill(self) -> None:
        """End here: nothing of what is under way comes to anything any more."""
        if self.is_frozen:
            return
        self.was_killed = True
        self.bury()
        self._killed()

    def bury(self) -> None:
        """Let go of every coroutine, as the end of a process does: what their `finally` blocks begin leads nowhere."""
        self.is_dead = self.is_frozen = True
        before, aio._running = aio._running, self
        try:
            while self.tasks:
                task = self.tasks.pop()
                for _ in range(_MOST_CLOSES):
                    try:
                        task._coroutine.close()
                    except BaseException as error:
                        if isinstance(error, KeyboardInterrupt):
                            raise
                    else:
                        break
            self._ready.clear()
            self._deferred.clear()
        finally:
            aio._running = before
