"""The event loop of a worker, which knows how much it has to do."""

from __future__ import annotations

import asyncio
import selectors
import time


class _Selector(selectors.DefaultSelector):
    """Sums up how long it has waited for something to happen."""

    def __init__(self) -> None:
        super().__init__()
        self.idle_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0.0:
            return super().select(timeout)
        began = time.perf_counter()
        ready = super().select(timeout)
        self.idle_seconds += time.perf_counter() - began
        return ready


class WorkerLoop(asyncio.SelectorEventLoop):
    """An event loop that tells how long it had nothing to do."""

    def __init__(self) -> None:
        """Begin with none."""
        self._watched = _Selector()
        super().__init__(self._watched)

    def idle_seconds(self) -> float:
        """Give the seconds in which the loop waited, since it was made."""
        return self._watched.idle_seconds
