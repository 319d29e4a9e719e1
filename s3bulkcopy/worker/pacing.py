"""How many requests may be in flight, and how long to pause before asking again. No I/O, no clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def full_jitter(random: Callable[[], float], base_seconds: float = 0.1, most_seconds: float = 10.0) -> Callable[[int], float]:
    """Give pauses in seconds: the n-th (from 1) is anywhere between 0 and `base * 2**n`, at most `most`.

    Source: AWS architecture blog, "Exponential backoff and jitter".

    >>> pauses = full_jitter(lambda: 1.0)
    >>> pauses(1), pauses(3), pauses(30)
    (0.2, 0.8, 10.0)
    """
    return lambda tries: random() * min(most_seconds, base_seconds * 2.0 ** min(tries, 30))


#: How much faster answers must come for a larger window to have been worth it: while doubling, and after.
_DOUBLING_GAIN, _STEADY_GAIN = 1.2, 1.02

#: Rounds without that gain after which doubling ends.
_STALLED_ROUNDS = 2

#: What is kept of the best rate from one round to the next, so that a lucky one is forgotten in time.
_MEMORY = 0.99


class Window:
    """How many requests may be in flight: as many as S3 answers faster for.

    At first it grows by one an answer, which doubles it each round trip, until answers come no faster for it or S3 says
    SlowDown; from then on by one a round trip, where the last rounds were faster for it. A SlowDown halves it, but only once
    for all the requests that were on their way at the time. A store that queues what it cannot serve never says SlowDown: what
    waits there would only delay the lists and messages of all workers.
    """

    def __init__(self, start: int = 16, most: int = 128) -> None:
        """Begin with `start` requests in flight, and never have more than `most`."""
        self.size = float(start)
        self._most = float(most)
        self._doubling = True
        self._blind_until = float("-inf")
        self._answers = 0
        self._round_size = self.size
        self._round_began: float | None = None
        self._best_rate = 0.0
        self._best_size = self.size
        self._stalled = 0
        self._growing = True

    def answered(self, now: float) -> None:
        """Take note of a good answer, in seconds of any steady clock."""
        self._answers += 1
        if self._growing and self.size < self._most:
            self.size = min(self._most, self.size + (1.0 if self._doubling else 1.0 / self.size))
        if self._round_began is None:
            self._round_began, self._answers = now, 0
        elif self._answers >= self._round_size:
            self._end_round(now)

    def _end_round(self, now: float) -> None:
        rate = self._answers / max(now - self._round_began, 1e-9) if self._round_began is not None else 0.0
        gained = rate > self._best_rate * (_DOUBLING_GAIN if self._doubling else _STEADY_GAIN)
        if gained:
            self._best_rate, self._best_size = rate, self._round_size
            self._stalled = 0
        else:
            self._best_rate *= _MEMORY
            self._stalled += 1
        if self._doubling and self._stalled >= _STALLED_ROUNDS:
            self._doubling = False
            self.size = max(1.0, self._best_size)
        self._growing = self._doubling or gained
        self._round_began, self._answers, self._round_size = now, 0, self.size

    def throttled(self, sent_at: float, now: float) -> None:
        """Take note of a SlowDown to a request sent at `sent_at`, in seconds of any steady clock."""
        self._doubling = False
        if sent_at >= self._blind_until:
            self.size = max(1.0, self.size / 2)
            self._blind_until = now
            self._best_rate = 0.0

    def idle(self) -> None:
        """Take note of a pause: what was measured before it and after it is not one round."""
        self._round_began = None
