"""Ctrl-C and SIGTERM, taken note of at once and acted upon where it is safe.

The first one asks the run to stop: whatever waits or polls looks for it and raises Interrupted, so that everything made so
far is known and torn down. The second one leaves at once, with the command that cleans up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Self

from s3bulkcopy.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Watches for the signals while entered."""

    def __init__(self, *, stopping: Callable[[], None], last_words: Callable[[], str]) -> None:
        """Call `stopping` at the first signal; at the second, print `last_words()` and leave."""
        self._stopping = stopping
        self._last_words = last_words
        self._asked = threading.Event()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Begin to watch."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self._asked.is_set():
            raise Interrupted("interrupted")

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until a signal comes; then raise Interrupted."""
        self._asked.wait(seconds)
        self.check()

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked.is_set():
            os.write(sys.stderr.fileno(), f"\n{self._last_words()}\n".encode())
            os._exit(Interrupted.exit_code)
        self._asked.set()
        self._stopping()
