"""Where tasks run. The interface is the contract; one suite of tests runs against every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from s3bulkcopy.worker.model import Dead, Done, PartTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from s3bulkcopy.worker.model import Counts, Event, Item, Job, Task


@dataclass(frozen=True, slots=True)
class Depth:
    """About how many messages a queue holds: waiting, and with a worker."""

    waiting: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Depths:
    """About how much work is queued; these lag, and nothing is decided by them but when to stop waiting."""

    list: Depth
    copy: Depth
    dead: int
    #: About how many workers are busy.
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """What a probe copied on the way, as the event that counts it, and how many of its items it took."""

    events: tuple[Event, ...]
    taken: int


@dataclass(slots=True)
class Signs:
    """What was seen of multipart uploads: whether a run is known to have begun some, or may have, unheard of."""

    known: bool = False
    possible: bool = False

    def look_at(self, *events: Event) -> None:
        """Take note of what events tell."""
        for event in events:
            match event:
                case Done(attempt=attempt, counts=counts):
                    self.known |= counts.uploads > 0
                    self.possible |= attempt.number > 1
                case Dead(task=task):
                    self.known |= isinstance(task, PartTask)
                    self.possible = True
                case _:
                    self.possible = True


class Engine(Protocol):
    """Runs tasks. Entering makes what it needs; leaving unmakes it, and then no worker can write any more."""

    #: What the summary calls it.
    name: str
    #: Whether what is queued goes on where the command leaves it, and reports wait.
    goes_on: bool
    #: When the last event that was given was sent, in seconds since the epoch; 0 where that is not known.
    sent_until: float
    #: What could not be removed on leaving, as lines for people.
    left: tuple[str, ...]

    def __enter__(self) -> Self:
        """Make what tasks need; raises DeployFailed or NotPermitted, having taken back what was made."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        """Unmake it. After an error, workers are halted first."""

    @property
    def job(self) -> Job:
        """Give the job with what only the engine knows: how large a message may be."""

    def prove(self, task_id: str, first_items: Sequence[Item]) -> Proof:
        """Prove that workers can list, read, write and report, by copying one of the first items of the source.

        The outcome is an event of the task `task_id`. Raises NotPermitted where they cannot, after a while.
        """

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks; returns once all were accepted."""

    def poll(self, seconds: float) -> list[Event]:
        """Give events, waiting up to so many seconds for the first; an event may come more than once."""

    def ack(self) -> None:
        """Say that the events which the last poll gave are counted, and need not come again.

        Until then an engine whose reports outlive it keeps them; one that ends with the command may forget them at once.
        """

    def depths(self) -> Depths:
        """Give about how much work is queued."""

    def under_way(self) -> Counts:
        """Give about what the tasks that have not ended have achieved so far; nothing where that is not known.

        For display, and to stop early: their `Done` says it again, and that counts.
        """

    def hand_on(self) -> list[Event]:
        """Have the workers end soon, with what is left of their tasks kept for whoever goes on; give what they report.

        Nothing, where nobody goes on with a run that a command has stopped, or it goes on by itself.
        """

    def settle(self) -> None:
        """Wait until no worker is at work any more; for runs in which an attempt may have been left behind."""
