"""A model of workers that copy from one store, to try `Pace` against: exact, seeded, and in no real time.

A store has partitions. Each is a token bucket: what it cannot serve it refuses. A store may also queue what it cannot serve,
or refuse and fail at random.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3bulkcopy.worker.pacing import Pace

#: The longest pause of a refused item before it is offered again; any part of it is as likely.
_PAUSE_SECONDS = 0.2

#: What a caller's timer adds at most to a wait.
_TIMER_SECONDS = 0.001


@dataclass
class Store:
    """What the workers copy from. All times in seconds, all rates in requests a second."""

    rate: float = math.inf  #: of each partition
    partitions: int = 1
    burst: float = 1.0  #: seconds of its rate that a partition saves
    latency: float = 0.05  #: of a good answer, more or less `jitter` of it
    jitter: float = 0.1
    refusal_latency: float = 0.0
    capacity: float = math.inf  #: of the whole store, which queues what comes faster
    refused_share: float = 0.0  #: refused whatever the rate
    failed_share: float = 0.0
    changes: tuple[tuple[float, float], ...] = ()  #: from when on a partition's rate is another


@dataclass
class Run:
    """What came of it. `good`, `refused` and `in_flight` are by tenths of a second."""

    seconds: float = 0.0
    good: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    sent_at: list[float] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        """Of all answers."""
        return sum(self.refused) / max(1, sum(self.refused) + sum(self.good))

    def goodput(self, begin: float, end: float) -> float:
        """Good answers a second between two moments, in seconds."""
        return sum(self.good[round(begin * 10) : round(end * 10)]) / (end - begin)


class Model:
    """Some workers that copy `items` in all, each with its own part of them; one joins every `joins` seconds.

    Good answers are accounted for together with those that come within `gathers` seconds, or before a refusal.
    """

    def __init__(
        self,
        store: Store,
        paces: list[Pace],
        items: int,
        *,
        cpu_seconds: float = 2e-5,
        joins: float = 0.0,
        gathers: float = 0.0,
        seed: int = 1,
    ) -> None:
        self._store, self._paces = store, paces
        self._gathers = gathers
        self._gathered: list[list[float]] = [[] for _ in paces]
        self._cpu_seconds = cpu_seconds
        self._random = Random(seed).random  # noqa: S311 - a model
        self._rates = [store.rate] * store.partitions
        self._tokens = [rate * store.burst for rate in self._rates]
        self._counted = [0.0] * store.partitions
        self._changes = deque(store.changes)
        self._served = 0.0
        self._left = items
        self._again_left = [0] * len(paces)
        self._unfinished = items
        self._cpu_free = [worker * joins for worker in range(len(paces))]
        self._timers = [math.inf] * len(paces)
        self._events: list[tuple[float, int, Callable[[int, float, float], None], int, float]] = []
        self._made = 0
        self.run = Run()

    def until(self, end: float = math.inf) -> Run:
        """Go on until all is copied, or `end` seconds."""
        for worker in range(len(self._paces)):
            self._offer(worker, 0.0)
        now = 0.0
        while self._events and now < end:
            now, _, act, worker, sent_at = heappop(self._events)
            act(worker, sent_at, now)
            self._offer(worker, now)
        self.run.seconds = max(self.run.finished) if self.run.finished else now
        return self.run

    def _at(self, when: float, act: Callable[[int, float, float], None], worker: int, sent_at: float = 0.0) -> None:
        self._made += 1
        heappush(self._events, (when, self._made, act, worker, sent_at))

    def _offer(self, worker: int, now: float) -> None:
        pace = self._paces[worker]
        while self._left or self._again_left[worker]:
            if self._cpu_free[worker] > now + self._cpu_seconds:
                return self._set_timer(worker, self._cpu_free[worker])
            seconds = 0.0 if pace.room(now) else pace.wait(now)
            if seconds:
                return self._set_timer(worker, now + seconds + _TIMER_SECONDS * self._random())
            if self._again_left[worker]:
                self._again_left[worker] -= 1
            else:
                self._left -= 1
            pace.sent(now)
            self.run.sent_at.append(now)
            self._cpu_free[worker] = max(now, self._cpu_free[worker]) + self._cpu_seconds
            self._serve(worker, now)
        return None

    def _set_timer(self, worker: int, when: float) -> None:
        if when < self._timers[worker]:
            self._timers[worker] = when
            self._at(when, self._woken, worker)

    def _serve(self, worker: int, now: float) -> None:
        store = self._store
        if self._random() < store.failed_share:
            return self._at(now + store.latency, self._failed, worker, now)
        if self._random() < store.refused_share or not self._token(now):
            return self._at(now + store.refusal_latency, self._refused, worker, now)
        self._served = max(self._served, now) + 1 / store.capacity
        latency = store.latency * (1 + store.jitter * (2 * self._random() - 1))
        return self._at(self._served + latency, self._answered, worker, now)

    def _token(self, now: float) -> bool:
        while self._changes and self._changes[0][0] <= now:
            self._rates = [self._changes.popleft()[1]] * self._store.partitions
        partition = int(self._random() * self._store.partitions)
        rate = self._rates[partition]
        if rate == math.inf:
            return True
        tokens = min(max(1.0, rate * self._store.burst), self._tokens[partition] + (now - self._counted[partition]) * rate)
        self._counted[partition] = now
        self._tokens[partition] = tokens - (tokens >= 1.0)
        return tokens >= 1.0

    def _answered(self, worker: int, sent_at: float, now: float) -> None:
        self._count(self.run.good, now)
        self._gathered[worker].append(sent_at)
        if not self._gathers:
            self._account(worker, now)
        elif len(self._gathered[worker]) == 1:
            self._at(now + self._gathers, lambda worker, _, now: self._account(worker, now), worker)
        self._unfinished -= 1
        if not self._unfinished:
            self.run.finished.append(now)

    def _account(self, worker: int, now: float) -> None:
        gathered, self._gathered[worker] = self._gathered[worker], []
        if gathered:
            self._paces[worker].answered(gathered, now)

    def _refused(self, worker: int, sent_at: float, now: float) -> None:
        self._count(self.run.refused, now)
        self._account(worker, now)
        self._paces[worker].refused(sent_at, now)
        self._at(now + self._random() * _PAUSE_SECONDS, self._again, worker)

    def _failed(self, worker: int, _sent_at: float, now: float) -> None:
        self._paces[worker].failed()
        self._at(now + self._random() * _PAUSE_SECONDS, self._again, worker)

    def _again(self, worker: int, _sent_at: float, _now: float) -> None:
        self._again_left[worker] += 1

    def _woken(self, worker: int, _sent_at: float, now: float) -> None:
        if self._timers[worker] <= now:
            self._timers[worker] = math.inf

    def _count(self, tenths: list[int], now: float) -> None:
        tenth = int(now * 10)
        while len(self.run.in_flight) <= tenth:
            self.run.in_flight.append(sum(pace.in_flight for pace in self._paces))
        while len(tenths) <= tenth:
            tenths.append(0)
        tenths[tenth] += 1
