"""All events of a run reduced to counts and completeness. Pure.

Delivery is at least once and in any order; this is where the counts become exact:

- The first `Done` for a task is kept for good; only its children are announced, and only they count.
- An event of a task that nobody announced yet waits. What waits at the end belongs to orphans.
- A `Done` outranks a `Dead`, whichever comes first.
- The run is complete when every announced task has a `Done` or is `Dead`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3bulkcopy.worker.model import CopyTask, Counts, Dead, Done, Event, Failure, Fatal, Range, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What is said of a task whose attempts left no word.
NO_WORD = "killed, or never started"


@dataclass(frozen=True, slots=True)
class RangeFailure:
    """A range that was not listed to its end, and why."""

    range: Range
    cause: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a run at a moment."""

    counts: Counts
    #: Objects reported by tasks that nobody announced yet: most will count, those of orphans will not.
    provisional: Counts
    ranges_failed: int
    #: Copies made more than once.
    duplicates: int
    tasks: int
    tasks_open: int
    dead: int
    troubles: int
    complete: bool
    #: Whether anything hints that an attempt may still be at work: a repetition, a trouble, an orphan.
    unquiet: bool
    fatal: Fatal | None
    #: What tasks that have not ended have achieved so far; all of it counts once they end.
    under_way: Counts = field(default_factory=Counts)

    @property
    def seen(self) -> Counts:
        """Give all that was heard of, counted or not yet. What ended was listed, even if its lister has not reported yet."""
        seen = self.counts + self.provisional + self.under_way
        return seen._replace(listed=max(seen.listed, seen.ended), listed_bytes=max(seen.listed_bytes, seen.copied_bytes))


@dataclass(slots=True)
class _Family:
    """The children of one attempt (or the roots): how many, and which have ended, as bits."""

    size: int
    ended: int = 0

    @property
    def open(self) -> int:
        return self.size - self.ended.bit_count()


@dataclass(slots=True)
class _Word:
    """The last word on a task's troubles: that of its highest attempt."""

    number: int
    cause: str


@dataclass(slots=True)
class Tally:
    """Adds events to counts; `add` may be given the same event any number of times."""

    _families: dict[str, _Family] = field(default_factory=dict)
    _closed: dict[str, int] = field(default_factory=dict)
    _waiting: dict[str, Done | Dead] = field(default_factory=dict)
    _dead: dict[str, Dead] = field(default_factory=dict)
    _words: dict[str, _Word] = field(default_factory=dict)
    _troubles: set[tuple[str, str]] = field(default_factory=set)
    #: The attempts whose Done counted, so that a repeated event is known from a second attempt's.
    _winners: dict[str, str] = field(default_factory=dict)
    _losers: dict[tuple[str, str], int] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _provisional: Counts = field(default_factory=Counts)
    failures: list[Failure] = field(default_factory=list)
    _unquiet: bool = False
    fatal: Fatal | None = None
    #: What the engine says that tasks which have not ended have achieved so far; it is shown, and not counted.
    under_way: Counts = field(default_factory=Counts)

    def announce(self, family: str, size: int) -> None:
        """Make known the tasks `family.0 … family.(size-1)`; the run waits for each of them."""
        self._open(family, size)
        self._admit(family, size)

    def add(self, events: Iterable[Event]) -> None:
        """Take note of events, in any order and as often as they come."""
        for event in events:
            match event:
                case Done():
                    self._add_done(event)
                case Dead():
                    self._add_dead(event)
                case Trouble():
                    self._add_trouble(event)
                case Fatal():
                    self.fatal = self.fatal or event

    def would_reopen(self, event: Event) -> bool:
        """Tell whether an event is the late `Done` of a task that is taken for dead, and announces children."""
        return isinstance(event, Done) and event.children > 0 and event.id in self._dead

    @property
    def complete(self) -> bool:
        """Tell whether every announced task has ended."""
        return not self._families and bool(self._closed)

    def snapshot(self) -> Snapshot:
        """Give what is known now."""
        dead_copies = [d.task for d in self._dead.values() if isinstance(d.task, CopyTask)]
        lost = sum(len(task.items) for task in dead_copies)
        orphans = sum(e.counts.copied for e in self._waiting.values() if isinstance(e, Done))
        return Snapshot(
            counts=self.counts + Counts(failed=lost),
            provisional=self._provisional,
            ranges_failed=len(self._dead) - len(dead_copies),
            duplicates=orphans + sum(self._losers.values()),
            tasks=sum(self._closed.values()) + sum(f.size for f in self._families.values()),
            tasks_open=sum(f.open for f in self._families.values()),
            dead=len(self._dead),
            troubles=len(self._troubles),
            complete=self.complete,
            unquiet=self._unquiet or bool(self._waiting) or bool(self._dead) or bool(self._troubles),
            fatal=self.fatal,
            under_way=Counts() if self.complete else self.under_way,
        )

    def all_failures(self) -> list[Failure]:
        """Give every object that is not at the destination, those of dead tasks included."""
        lost = [
            Failure(
                item.key,
                item.size,
                "DeadLetter",
                f"its task died ({self._last_word(dead.id)}); may have been copied",
            )
            for dead in self._dead.values()
            if isinstance(dead.task, CopyTask)
            for item in dead.task.items
        ]
        return [*self.failures, *lost]

    def failed_ranges(self) -> list[RangeFailure]:
        """Give every range that was not listed to its end."""
        return [
            RangeFailure(dead.task.range, self._last_word(dead.id))
            for dead in self._dead.values()
            if not isinstance(dead.task, CopyTask)
        ]

    # --------------------------------------------------------------------------------------------------------- inside

    def _add_done(self, event: Done) -> None:
        self._unquiet |= event.attempt.number > 1
        kept = self._winners.setdefault(event.id, event.attempt.nonce)
        if kept != event.attempt.nonce:
            self._losers[event.id, event.attempt.nonce] = event.counts.copied
            self._unquiet = True
            return
        if self._is_announced(event.id):
            if not self._has_ended(event.id) or self._dead.pop(event.id, None) is not None:
                self._admit(*self._count(event))
            return
        if not isinstance(self._waiting.get(event.id), Done):
            self._waiting[event.id] = event
            self._provisional += event.counts

    def _add_dead(self, event: Dead) -> None:
        if event.id in self._winners or event.id in self._dead:
            return
        if self._is_announced(event.id):
            self._bury(event)
        else:
            self._waiting.setdefault(event.id, event)

    def _add_trouble(self, event: Trouble) -> None:
        self._troubles.add((event.id, event.attempt.nonce))
        word = self._words.get(event.id)
        if word is None or event.attempt.number > word.number:
            self._words[event.id] = _Word(event.attempt.number, event.cause)

    def _open(self, family: str, size: int) -> None:
        if size and family not in self._closed:
            self._families.setdefault(family, _Family(size))

    def _admit(self, family: str, size: int) -> None:
        """Let the waiting events of a family count, and of those that they announce in turn."""
        pending = [(family, size)]
        while pending:
            name, size = pending.pop()
            for n in range(size):
                event = self._waiting.pop(f"{name}.{n}", None)
                if isinstance(event, Done):
                    self._provisional -= event.counts
                    pending.append(self._count(event))
                elif event is not None:
                    self._bury(event)

    def _count(self, event: Done) -> tuple[str, int]:
        """Let a Done count, and give the family that it announces."""
        self.counts += event.counts
        self.failures.extend(event.failures)
        # The children's family is opened before this task is closed, so that the run is never complete in between.
        self._open(event.attempt.nonce, event.children)
        self._close(event.id)
        return event.attempt.nonce, event.children

    def _bury(self, event: Dead) -> None:
        self._dead[event.id] = event
        self._close(event.id)

    def _close(self, name: str) -> None:
        family_name, _, number = name.rpartition(".")
        family = self._families.get(family_name)
        if family is None:
            return
        family.ended |= 1 << int(number)
        if not family.open:
            self._closed[family_name] = family.size
            del self._families[family_name]

    def _is_announced(self, name: str) -> bool:
        family, _, number = name.rpartition(".")
        if not number.isdecimal():
            return False
        known = self._families.get(family)
        size = known.size if known is not None else self._closed.get(family, 0)
        return int(number) < size

    def _has_ended(self, name: str) -> bool:
        family, _, number = name.rpartition(".")
        known = self._families.get(family)
        return known is None or bool(known.ended >> int(number) & 1)

    def _last_word(self, name: str) -> str:
        word = self._words.get(name)
        return word.cause if word is not None else NO_WORD
