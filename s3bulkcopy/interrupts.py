"""Ctrl-C, SIGTERM and a closed terminal, taken note of at once and acted upon where it is safe.

The first one asks the run to stop: whatever waits or polls looks for it and raises Interrupted, so that everything made so
far is known and torn down. The second one leaves at once, with the command that cleans up. A closed terminal (SIGHUP) raises
what the run's engine makes of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Self

from s3bulkcopy.errors import Interrupted, S3BulkCopyError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupted() -> S3BulkCopyError:
    return Interrupted("interrupted")


#: A signal that comes so soon after the first is the same: `timeout`, for one, tells the command and then its whole group.
_SAME_SECONDS = 0.1


class Interrupts:
    """Watches for the signals while entered."""

    def __init__(
        self,
        *,
        stopping: Callable[[int], None],
        last_words: Callable[[], str],
        hung_up: Callable[[], S3BulkCopyError] = _interrupted,
    ) -> None:
        """Call `stopping` with the first signal; at the second, print `last_words()` and leave.

        `hung_up` gives what is raised where the terminal is closed. What is ignored, as SIGHUP is under nohup, stays so.
        """
        self._stopping = stopping
        self._last_words = last_words
        self._hung_up = hung_up
        # What a handler may touch while the main thread is anywhere: a lock of `threading` it may hold itself.
        self._is_asked = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._asked_at = 0.0
        self._make: Callable[[], S3BulkCopyError] = _interrupted
        self._before: dict[signal.Signals, object] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise what the signal that came asks for, if one did."""
        if self._is_asked:
            raise self._make()

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal comes; then raise as `check` does."""
        if not self._is_asked:
            with suppress(Empty):
                self._bell.get(timeout=seconds)
        self.check()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._lose_terminal()
        if not self._is_asked:
            # A terminal that closes tells some shells, too, and those tell us again.
            self._make = self._hung_up if number == signal.SIGHUP else _interrupted
            self._asked_at = time.monotonic()
            self._is_asked = True
            self._bell.put(None)
            self._stopping(number)
        elif number != signal.SIGHUP and not self._is_echo():
            with suppress(OSError):
                os.write(sys.stderr.fileno(), f"\n{self._last_words()}\n".encode())
            os._exit(Interrupted.exit_code)

    def _is_echo(self) -> bool:
        return time.monotonic() - self._asked_at <= _SAME_SECONDS

    def _lose_terminal(self) -> None:
        """Let what is still to be said go nowhere: writing to a terminal that is gone is an error."""
        while self._terminals:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._terminals.pop())
            os.close(nowhere)
