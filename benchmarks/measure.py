"""What a command costs: time, processor and memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: How often memory is looked at, in seconds.
SAMPLE_SECONDS = 0.1
#: The unit of ru_maxrss in bytes (getrusage(2)).
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command and its descendants used."""

    #: Exit code; negative: the signal that ended it.
    code: int
    seconds: float
    #: User and system time of all processes that were waited for, which is every one of a tool that ends properly.
    cpu_seconds: float
    #: Most memory (RSS) of any one process.
    largest_bytes: int
    #: Most memory of the command's first process, and of any one that it started, as far as it was seen in time.
    first_bytes: int
    other_bytes: int
    #: Most memory of all processes together; what they share counts in each.
    tree_bytes: int
    #: The last line that it wrote to stderr; where that is a hint, with the one before it.
    last_words: str

    @property
    def trouble(self) -> str:
        """Say how the command failed; empty where it did not."""
        return f"exit code {self.code}: {self.last_words or 'without a word'}" if self.code else ""


class Process(Protocol):
    """What tells its memory, as psutil's processes do."""

    def memory_info(self) -> Any:  # noqa: ANN401 - psutil has no types
        """Give a value whose `rss` is in bytes."""


class Memory(threading.Thread):
    """Looks at the memory of a process and its descendants from time to time, and ends them when their time is over."""

    def __init__(self, group: int, give_up_seconds: float) -> None:
        """Watch a process group, whose first process names it."""
        super().__init__(daemon=True)
        self._group = group
        self._give_up_at = time.monotonic() + give_up_seconds
        self.ended = threading.Event()
        self.first_bytes = self.other_bytes = 0
        self.tree_bytes = 0

    @property
    def largest_bytes(self) -> int:
        """Give the most memory of any one process."""
        return max(self.first_bytes, self.other_bytes)

    def run(self) -> None:
        """Look until it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._group)
            while not self.ended.is_set():
                own = _words(root)
                # Until a child is a program of its own it is its parent once more, memory and all.
                self.look([root, *(child for child in root.children(recursive=True) if _words(child) != own)])
                if time.monotonic() > self._give_up_at:
                    _kill(self._group)
                self.ended.wait(SAMPLE_SECONDS)

    def look(self, processes: Iterable[Process]) -> None:
        """Take what these processes hold now, the command's own first."""
        first, *others = map(_held_bytes, processes)
        self.first_bytes = max(self.first_bytes, first)
        self.other_bytes = max(self.other_bytes, *others, 0)
        self.tree_bytes = max(self.tree_bytes, first + sum(others))


def _words(process: psutil.Process) -> list[str]:
    """Give a process's command line, nothing where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


def _held_bytes(process: Process) -> int:
    """Give the memory of a process, 0 where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def measure(
    command: Sequence[str], environment: Mapping[str, str], give_up_seconds: float, out: IO[bytes] | None = None
) -> Usage:
    """Run a command to its end, or kill it when its time is over; raises OSError where there is no such command.

    What it writes to stdout goes to `out`, or nowhere.
    """
    own_bytes = psutil.Process().memory_info().rss
    # A SIGTERM ends this process as Ctrl-C does, through every `finally`: nothing that was started outlives it.
    ended_by = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryFile() as words:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if out is None else out,
            stderr=words,
            start_new_session=True,
        )
        memory = Memory(process.pid, give_up_seconds)
        memory.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            memory.ended.set()
            _kill(process.pid)
            signal.signal(signal.SIGTERM, ended_by)
        memory.join()
        words.seek(0)
        lines = [line.strip() for line in words.read().decode(errors="replace").split("\n") if line.strip()]
    # A process begins with ru_maxrss as its parent's, so nothing below that is known from it.
    peak_bytes = used.ru_maxrss * _MAXRSS_BYTES
    largest_bytes = max(memory.largest_bytes, peak_bytes if peak_bytes > own_bytes * 1.1 else 0)
    return Usage(
        process.returncode,
        seconds,
        used.ru_utime + used.ru_stime,
        largest_bytes,
        memory.first_bytes,
        memory.other_bytes,
        max(memory.tree_bytes, largest_bytes),
        " ".join(lines[-2:] if lines and lines[-1].startswith("hint:") else lines[-1:]),
    )


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
