"""All events of a run reduced to counts and completeness. Pure.

Delivery is at least once and in any order; this is where the counts become exact:

- The first `Done` for a task is kept for good; only its children are announced, and only they count.
- An event of a task that nobody announced yet waits. What waits at the end belongs to orphans.
- A `Done` outranks a `Dead`, whichever comes first.
- The run is complete when every announced task has a `Done` or is `Dead`.

A run may have a million tasks, so of one that has ended four bytes are kept. Failures are not kept at all but for the
last: whoever keeps the events asks `counts_attempt` which of them count.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from operator import add, sub
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import compress, crc32, decompress

from s3bulkcopy.worker.model import ARCHIVED, Attempt, Counts, Dead, Done, Event, Failure, Fatal, Listing, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

    from s3bulkcopy.worker.model import Range

#: What is said of a task whose attempts left no word.
NO_WORD = "killed, or never started"

#: How many bytes of a nonce are kept of an attempt that counted, as a type of `array`. Two attempts at one task that agree in
#: them (one pair in four billion) would be taken for one, and their copies not shown as duplicates.
_MARK = "I"


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
        """Give all that was heard of, counted or not yet; of a run that is complete, what counts.

        What ended was listed, even if its lister has not reported yet.
        """
        if self.complete:
            return self.counts
        seen = self.counts + self.provisional + self.under_way
        copied_bytes = seen.copied_bytes + seen.bytes_under_way
        return seen._replace(
            listed=max(seen.listed, seen.ended),
            listed_bytes=max(seen.listed_bytes, copied_bytes),
            copied_bytes=copied_bytes,
        )


class _Waiting(NamedTuple):
    """The first Done of a task that nobody announced yet, without its failures' texts."""

    nonce: str
    children: int
    counts: Counts


class _Grave(NamedTuple):
    """What died with a task: so many items, or so many ranges."""

    items: int
    ranges: int


class _Word(NamedTuple):
    """The last word on a task's troubles: that of its highest attempt."""

    number: int
    cause: str


class Tally:
    """Adds events to counts; `add` may be given the same event any number of times."""

    def __init__(self) -> None:
        """Begin with nothing announced."""
        #: Of the children of each attempt, or the roots: what marks the attempt that counted, or 0.
        self._families: dict[str, array[int]] = {}
        self._waiting: dict[str, _Waiting | _Grave] = {}
        self._dead: dict[str, _Grave] = {}
        self._words: dict[str, _Word] = {}
        self._troubles: set[int] = set()
        #: Copies of attempts that did not count, by attempt.
        self._losers: dict[str, int] = {}
        self._tasks = self._open = 0
        self._sums = [0] * len(Counts._fields)
        self._provisional = [0] * len(Counts._fields)
        self._unquiet = False
        self.fatal: Fatal | None = None
        #: Failures heard of, counted or not yet; how many of them are denials; and the last one.
        self.failures = self.denied = 0
        self.last_failure: Failure | None = None
        #: What the engine says that tasks which have not ended have achieved so far; it is shown, and not counted.
        self.under_way = Counts()

    def announce(self, family: str, size: int) -> None:
        """Make known the tasks `family.0 … family.(size-1)`; the run waits for each of them."""
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
    def size(self) -> int:
        """How many things it keeps, with which what `dump` takes grows."""
        kept: tuple[Sized, ...] = (self._families, self._waiting, self._dead, self._words, self._troubles, self._losers)
        return self._tasks + sum(map(len, kept))

    @property
    def complete(self) -> bool:
        """Tell whether every announced task has ended."""
        return not self._open and bool(self._tasks)

    def snapshot(self) -> Snapshot:
        """Give what is known now."""
        provisional = Counts(*self._provisional)
        dead_items = sum(grave.items for grave in self._dead.values())
        return Snapshot(
            counts=Counts(*self._sums) + Counts(failed=dead_items),
            provisional=provisional,
            ranges_failed=sum(grave.ranges for grave in self._dead.values()),
            duplicates=provisional.copied + sum(self._losers.values()),
            tasks=self._tasks,
            tasks_open=self._open,
            dead=len(self._dead),
            troubles=len(self._troubles),
            complete=self.complete,
            unquiet=self._unquiet or bool(self._waiting) or bool(self._dead) or bool(self._troubles),
            fatal=self.fatal,
            under_way=Counts() if self.complete else self.under_way,
        )

    def waits_for(self, task_id: str) -> bool:
        """Tell whether a task was announced and has not ended."""
        found = self._find(task_id)
        return found is not None and not found[0][found[1]] and task_id not in self._dead

    def counts_attempt(self, task_id: str, nonce: str) -> bool:
        """Tell whether what this attempt at a task reported is in the counts."""
        found = self._find(task_id)
        return found is not None and found[0][found[1]] == _mark(nonce)

    def counts_death(self, task_id: str) -> bool:
        """Tell whether a task is counted as dead."""
        return task_id in self._dead

    def may_count(self, task_id: str, nonce: str) -> bool:
        """Tell whether this attempt's report, or without a nonce the task's death, counts; or may, while events are owed."""
        if self.counts_attempt(task_id, nonce) if nonce else self.counts_death(task_id):
            return True
        kept = None if self.complete else self._waiting.get(task_id)
        return kept is not None and (isinstance(kept, _Waiting) and kept.nonce == nonce if nonce else isinstance(kept, _Grave))

    def unclaimed_dead(self) -> tuple[Counts, int]:
        """Give what died with tasks that nobody announced: objects, as failed, and ranges."""
        graves = [kept for kept in self._waiting.values() if isinstance(kept, _Grave)]
        return Counts(failed=sum(grave.items for grave in graves)), sum(grave.ranges for grave in graves)

    def last_word(self, task_id: str) -> str:
        """Give the cause that the highest failed attempt at a task told."""
        word = self._words.get(task_id)
        return word.cause if word is not None else NO_WORD

    # ------------------------------------------------------------------------------------------------------ on disk

    def dump(self) -> dict[str, Any]:
        """Give all of it as a value that JSON can hold; `load` makes a tally of it that goes on from here."""
        return {
            "families": {name: [len(marks), _packed(marks)] for name, marks in self._families.items()},
            "waiting": self._waiting,
            "dead": self._dead,
            "words": self._words,
            "troubles": [*self._troubles],
            "losers": self._losers,
            "tasks": [self._tasks, self._open],
            "counts": self._sums,
            "provisional": self._provisional,
            "unquiet": self._unquiet,
            "fatal": self.fatal,
            "failures": [self.failures, self.denied, self.last_failure],
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Tally:
        """Make a tally of what `dump` gave; raises KeyError, TypeError or ValueError for anything else."""
        tally = cls()
        tally._families = {str(name): _unpacked(text, size) for name, (size, text) in data["families"].items()}
        tally._waiting = {
            name: _Waiting(row[0], row[1], Counts(*row[2])) if len(row) > len(_Grave._fields) else _Grave(*row)
            for name, row in data["waiting"].items()
        }
        tally._dead = {name: _Grave(*row) for name, row in data["dead"].items()}
        tally._words = {name: _Word(*row) for name, row in data["words"].items()}
        tally._troubles, tally._losers = set(data["troubles"]), dict(data["losers"])
        tally._tasks, tally._open = data["tasks"]
        tally._sums, tally._provisional = [*Counts(*data["counts"])], [*Counts(*data["provisional"])]
        tally._unquiet = bool(data["unquiet"])
        tally.failures, tally.denied, last = data["failures"]
        tally.last_failure = Failure(*last) if last is not None else None
        if data["fatal"] is not None:
            name, attempt, kind, cause = data["fatal"]
            tally.fatal = Fatal(name, Attempt(*attempt), kind, cause)
        return tally

    # --------------------------------------------------------------------------------------------------------- inside

    def _add_done(self, event: Done) -> None:
        name, (number, nonce), children, counts, failures = event
        if number > 1:
            self._unquiet = True
        found = self._find(name)
        if found is None:
            self._wait(event)
            return
        marks, place = found
        if not marks[place]:
            self._hear(failures)
            self._count(marks, place, name, _Waiting(nonce, children, counts))
        elif marks[place] != _mark(nonce):
            self._lose(name, nonce, counts)

    def _wait(self, event: Done) -> None:
        """Keep the first Done of a task that nobody announced yet."""
        name, (_, nonce), children, counts, failures = event
        kept = self._waiting.get(name)
        if isinstance(kept, _Waiting):
            if kept.nonce != nonce:
                self._lose(name, nonce, counts)
            return
        self._hear(failures)
        self._waiting[name] = _Waiting(nonce, children, counts)
        self._provisional = [*map(add, self._provisional, counts)]

    def _hear(self, told: tuple[Failure, ...]) -> None:
        if failures := [failure for failure in told if failure.code != ARCHIVED]:
            self.failures += len(failures)
            self.denied += sum(failure.code == "AccessDenied" for failure in failures)
            self.last_failure = failures[-1]

    def _lose(self, name: str, nonce: str, counts: Counts) -> None:
        self._losers[f"{name} {nonce}"] = counts.copied
        self._unquiet = True

    def _add_dead(self, event: Dead) -> None:
        name, task = event
        grave = _Grave(0, len(task.ranges)) if isinstance(task, Listing) else _Grave(len(task.items), 0)
        found = self._find(name)
        if found is None:
            self._waiting.setdefault(name, grave)
        elif not found[0][found[1]]:
            self._bury(name, grave)

    def _add_trouble(self, event: Trouble) -> None:
        name, (number, nonce), cause = event
        self._troubles.add(crc32(f"{name} {nonce}".encode()))
        word = self._words.get(name)
        if word is None or number > word.number:
            self._words[name] = _Word(number, cause)

    def _admit(self, family: str, size: int) -> None:
        """Announce a family, and let its waiting events count, and those of whom they announce in turn."""
        pending = [(family, size)]
        while pending:
            name, size = pending.pop()
            if not size or name in self._families:
                continue
            marks = self._families[name] = array(_MARK, bytes(size * array(_MARK).itemsize))
            self._tasks += size
            self._open += size
            for place in range(size) if self._waiting else ():
                kept = self._waiting.pop(child := f"{name}.{place}", None)
                if isinstance(kept, _Waiting):
                    self._provisional = [*map(sub, self._provisional, kept.counts)]
                    self._end(marks, place, child, kept)
                    pending.append((kept.nonce, kept.children))
                elif kept is not None:
                    self._bury(child, kept)

    def _count(self, marks: array[int], place: int, name: str, done: _Waiting) -> None:
        """Let a Done count, and announce its children; before its end, so that the run is never complete in between."""
        if done.children:
            self._admit(done.nonce, done.children)
        self._end(marks, place, name, done)

    def _end(self, marks: array[int], place: int, name: str, done: _Waiting) -> None:
        marks[place] = _mark(done.nonce)
        self._sums = [*map(add, self._sums, done.counts)]
        self._words.pop(name, None)  # only of the dead it is asked
        if self._dead.pop(name, None) is None:
            self._open -= 1

    def _bury(self, name: str, grave: _Grave) -> None:
        if name not in self._dead:
            self._open -= 1
        self._dead[name] = grave

    def _find(self, name: str) -> tuple[array[int], int] | None:
        """Give where an announced task's mark is."""
        family, _, number = name.rpartition(".")
        marks = self._families.get(family)
        if marks is None or not number.isdecimal() or (number[0] == "0" and number != "0"):
            return None
        place = int(number)
        return (marks, place) if place < len(marks) else None


def _mark(nonce: str) -> int:
    return crc32(nonce.encode()) or 1


def _packed(marks: array[int]) -> str:
    return b64encode(compress(marks.tobytes(), 1)).decode()


def _unpacked(text: str, size: int) -> array[int]:
    marks = array(_MARK, decompress(b64decode(text)))
    if len(marks) != size:
        raise ValueError(f"{len(marks)} tasks in place of {size}")
    return marks
