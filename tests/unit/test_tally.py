"""The tally: exact counts whatever the order, the repetitions and the attempts.

A generated run tells every event that any worker of it may send: several attempts at a task, children of attempts that
failed or lost, dead letters. What the tally makes of a delivery is compared with a walk over the tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.journal import Facts, Journal
from s3bulkcopy.tally import NO_WORD, RangeFailure, Snapshot, Tally
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Dead,
    Done,
    Event,
    Failure,
    Fatal,
    Item,
    Job,
    ListTask,
    Location,
    PartTask,
    Range,
    Trouble,
    WalkTask,
)

RUN = "run"
FACTS = Facts(RUN, "memory")
JOB = Job(RUN, Location("a", "", "", ""), Location("b", "", "", ""))
several = settings(max_examples=100, deadline=None)
randoms = st.integers(0, 2**32).map(Random)

# ---------------------------------------------------------------------------------------------------------- generated runs


@dataclass
class Story:
    """All events of a run over `objects` objects, none twice."""

    random: Random
    with_deaths: bool
    roots: int = 0
    objects: int = 0
    events: list[Event] = field(default_factory=list)
    _nonces: int = 0

    def tell(self) -> Story:
        """Make up the run."""
        self.roots = self.random.randint(1, 4)
        for n in range(self.roots):
            size = self.random.randint(0, 6)
            self.objects += size
            self._task(ListTask(f"{RUN}.{n}", JOB, (Range("", None),)), size, depth=0)
        return self

    def _task(self, task: ListTask | CopyTask, size: int, depth: int) -> None:
        chance = self.random.random
        attempts = 1 if depth > 4 else self.random.choice([1, 1, 1, 2, 3])
        dies = self.with_deaths and chance() < 0.15
        for number in range(1, attempts + 1):
            self._nonces += 1
            attempt = Attempt(number, f"n{self._nonces}")
            ends = number == attempts or chance() < 0.5
            if not ends or (dies and chance() < 0.7):
                self.events.append(Trouble(task.id, attempt, f"attempt {number}"))
                if chance() < 0.5:
                    self._work(task, attempt, size, depth)  # its children were queued, and its Done never sent
                continue
            self.events.append(self._work(task, attempt, size, depth))
        if dies:
            self.events.append(Dead(task.id, task))

    def _work(self, task: ListTask | CopyTask, attempt: Attempt, size: int, depth: int) -> Done:
        here = size if depth > 4 else self.random.randint(0, size)
        children: list[tuple[ListTask | CopyTask, int]] = []

        def name() -> str:
            return f"{attempt.nonce}.{len(children)}"

        if isinstance(task, CopyTask):
            bad = self.random.randint(0, here)
            failures = tuple(Failure(it.key, it.size, "Nope", "why") for it in task.items[:bad])
            counts = Counts(copied=here - bad, copied_bytes=10 * (here - bad), failed=bad, copy_requests=here)
            if here < size:
                children.append((CopyTask(name(), JOB, task.items[here:]), size - here))
        else:
            failures = ()
            counts = Counts(listed=here, listed_bytes=10 * here, pages=1)
            left = here
            while left:
                some = self.random.randint(1, left)
                left -= some
                items = tuple(Item(f"{attempt.nonce}/{left + n}", 10, '"e"') for n in range(some))
                children.append((CopyTask(name(), JOB, items), some))
            if here < size:
                children.append((ListTask(name(), JOB, (Range(attempt.nonce, None),)), size - here))
        for child, its_size in children:
            self._task(child, its_size, depth + 1)
        return Done(task.id, attempt, len(children), counts, failures)


@st.composite
def stories(draw: st.DrawFn, *, with_deaths: bool = True) -> Story:
    """Make up runs."""
    return Story(draw(randoms), with_deaths).tell()


@st.composite
def deliveries(draw: st.DrawFn, *, with_deaths: bool = True) -> tuple[Story, list[Event]]:
    """Give a run, and its events in some order, some of them several times."""
    story = draw(stories(with_deaths=with_deaths))
    random = draw(randoms)
    events = story.events + random.choices(story.events, k=random.randint(0, len(story.events)))
    random.shuffle(events)
    return story, events


def tallied(roots: int, events: list[Event], announce_at: int = 0) -> Tally:
    tally = Tally()
    tally.add(events[:announce_at])
    tally.announce(RUN, roots)
    tally.add(events[announce_at:])
    return tally


def failed(tally: Tally, events: list[Event]) -> list[Failure]:
    journal = Journal.in_memory(FACTS)
    journal.append(events)
    return [*journal.failures(tally)]


def failed_ranges(tally: Tally, events: list[Event]) -> list[RangeFailure]:
    journal = Journal.in_memory(FACTS)
    journal.append(events)
    return [*journal.failed_ranges(tally)]


def walked(roots: int, events: list[Event]) -> tuple[Snapshot, list[Failure], set[str]]:
    """Give what is to be known after a delivery, by a walk from the roots; with the failures and the tasks that count."""
    first: dict[str, Done] = {}
    done: dict[tuple[str, str], Done] = {}
    dead: dict[str, Dead] = {}
    troubles = set()
    for event in events:
        match event:
            case Done():
                first.setdefault(event.id, event)
                done[event.id, event.attempt.nonce] = event
            case Dead():
                dead[event.id] = event
            case Trouble():
                troubles.add((event.id, event.attempt.nonce))
    words: dict[str, tuple[int, str]] = {}
    for event in events:
        if isinstance(event, Trouble):
            words[event.id] = max(words.get(event.id, (0, "")), (event.attempt.number, event.cause))

    counts = Counts()
    failures: list[Failure] = []
    announced = [f"{RUN}.{n}" for n in range(roots)]
    ended: set[str] = set()
    buried: list[Dead] = []
    for name in announced:  # grows
        if name in first:
            ended.add(name)
            counts += first[name].counts
            failures += first[name].failures
            announced += [f"{first[name].attempt.nonce}.{n}" for n in range(first[name].children)]
        elif name in dead:
            ended.add(name)
            buried.append(dead[name])
    lost = [
        Failure(it.key, it.size, "DeadLetter", f"its task died ({words.get(d.id, (0, NO_WORD))[1]}); may have been copied")
        for d in buried
        if isinstance(d.task, CopyTask)
        for it in d.task.items
    ]
    provisional = sum((event.counts for name, event in first.items() if name not in ended), Counts())
    waiting = (first.keys() | dead.keys()) - ended
    snapshot = Snapshot(
        counts=counts + Counts(failed=len(lost)),
        provisional=provisional,
        ranges_failed=sum(isinstance(d.task, ListTask) for d in buried),
        duplicates=sum(event.counts.copied for event in done.values()) - counts.copied,
        tasks=len(announced),
        tasks_open=len(announced) - len(ended),
        dead=len(buried),
        troubles=len(troubles),
        complete=len(announced) == len(ended),
        unquiet=bool(troubles or waiting or buried)
        or len(done) > len(first)
        or any(event.attempt.number > 1 for event in done.values()),
        fatal=None,
    )
    return snapshot, failures + lost, ended


def by_key(failures: list[Failure]) -> list[tuple[str, int, str, str]]:
    return sorted((f.key, f.size, f.code, f.cause) for f in failures)


# --------------------------------------------------------------------------------------------------------------- properties


@several
@given(deliveries(), st.data())
def test_any_order_and_any_repetition_give_the_counts_of_the_tree(
    delivery: tuple[Story, list[Event]], data: st.DataObject
) -> None:
    story, events = delivery
    tally = tallied(story.roots, events, data.draw(st.integers(0, len(events))))
    expected, failures, _ = walked(story.roots, events)

    assert tally.snapshot() == expected
    assert by_key(failed(tally, events)) == by_key(failures)
    assert tally.complete


@several
@given(deliveries())
def test_at_every_moment_the_run_is_complete_only_if_all_that_was_announced_has_ended(
    delivery: tuple[Story, list[Event]],
) -> None:
    story, events = delivery
    tally = Tally()
    tally.announce(RUN, story.roots)
    for n, event in enumerate(events, 1):
        tally.add([event])
        assert tally.snapshot() == walked(story.roots, events[:n])[0]


@several
@given(deliveries())
def test_the_same_first_done_gives_the_same_counts_in_order_and_once_each(delivery: tuple[Story, list[Event]]) -> None:
    story, events = delivery
    winners = {event.id: event for event in reversed(events) if isinstance(event, Done)}
    in_order: list[Event] = [*winners.values(), *(event for event in story.events if event not in winners.values())]

    assert tallied(story.roots, events).snapshot() == tallied(story.roots, in_order).snapshot()


@several
@given(deliveries(with_deaths=False))
def test_whichever_attempt_wins_an_unchanged_source_gives_the_same_listed(delivery: tuple[Story, list[Event]]) -> None:
    story, events = delivery
    counts = tallied(story.roots, events).snapshot().counts

    assert (counts.listed, counts.listed_bytes) == (story.objects, 10 * story.objects)
    assert counts.copied + counts.failed == story.objects


@several
@given(deliveries(), st.data())
def test_losing_what_ends_any_one_task_leaves_the_run_open(delivery: tuple[Story, list[Event]], data: st.DataObject) -> None:
    story, events = delivery
    _, _, ended = walked(story.roots, events)
    missing = data.draw(st.sampled_from(sorted(ended)))
    kept: list[Event] = [e for e in events if e.id != missing or isinstance(e, Trouble)]
    tally = tallied(story.roots, kept)

    assert not tally.complete
    assert tally.snapshot().tasks_open >= 1


@several
@given(stories(with_deaths=False))
def test_what_is_provisional_in_any_order_counts_or_belongs_to_orphans_at_the_end(story: Story) -> None:
    tally = tallied(story.roots, story.events[::-1])
    _, _, ended = walked(story.roots, story.events[::-1])
    orphans = [e for e in story.events if isinstance(e, Done) and e.id not in ended]

    assert bool(tally.snapshot().provisional.listed + tally.snapshot().provisional.copied) <= bool(orphans)


# ----------------------------------------------------------------------------------------------------------------- examples

ONE = Attempt(1, "one")
TWO = Attempt(2, "two")
COPY = CopyTask(f"{RUN}.0", JOB, (Item("a", 3, '"e"'), Item("b", 4, '"e"')))
LIST = ListTask(f"{RUN}.0", JOB, (Range("k", "m"),))
COPIED = Done(f"{RUN}.0", ONE, 0, Counts(copied=2, copied_bytes=7))


def test_nothing_announced_is_not_complete() -> None:
    assert not Tally().complete


def test_a_done_outranks_a_dead_in_both_orders() -> None:
    dead = Dead(COPY.id, COPY)
    orders: list[list[Event]] = [[COPIED, dead], [dead, COPIED], [dead, COPIED, dead]]
    snapshots = [tallied(1, events).snapshot() for events in orders]

    assert snapshots[0] == snapshots[1] == snapshots[2]
    assert (snapshots[0].counts, snapshots[0].dead, snapshots[0].complete) == (COPIED.counts, 0, True)
    assert failed(tallied(1, [dead, COPIED]), [dead, COPIED]) == []


def test_a_done_that_outranks_a_dead_opens_the_run_again_for_its_children() -> None:
    tally = tallied(1, [Dead(LIST.id, LIST)])
    assert tally.snapshot().tasks_open == 0

    tally.add([Done(LIST.id, ONE, 1, Counts(listed=1))])
    assert tally.snapshot().tasks_open == 1
    tally.add([COPIED._replace(id="one.0")])
    assert tally.snapshot().tasks_open == 0
    assert failed_ranges(tally, [Dead(LIST.id, LIST)]) == []


def test_the_items_of_a_dead_copy_task_are_failed_with_the_word_of_its_highest_attempt() -> None:
    words = [Trouble(COPY.id, Attempt(n, f"n{n}"), f"attempt {n}") for n in (2, 5, 3)]
    events: list[Event] = [Dead(COPY.id, COPY), *words]
    tally = tallied(1, events)
    cause = "its task died (attempt 5); may have been copied"

    assert failed(tally, events) == [Failure("a", 3, "DeadLetter", cause), Failure("b", 4, "DeadLetter", cause)]
    assert tally.snapshot().counts == Counts(failed=2)


@pytest.mark.parametrize("reports", [True, False])
def test_of_dead_part_tasks_the_one_that_reports_is_the_end_of_its_object(reports: bool) -> None:  # noqa: FBT001
    dead = Dead("run.0", PartTask("run.0", JOB, Item("a", 3, "e"), "upload", 1, 1, 3, reports=reports, begun=0))
    tally = tallied(1, [dead])

    assert tally.snapshot().counts == Counts(failed=int(reports))
    assert [failure.key for failure in failed(tally, [dead])] == ["a"] * reports
    assert tally.complete


@pytest.mark.parametrize(
    ("task", "ranges"),
    [
        (LIST, [Range("k", "m")]),
        (LIST._replace(ranges=(Range("k", "m"), Range("x", None))), [Range("k", "m"), Range("x", None)]),
        (WalkTask(LIST.id, JOB), [Range("", None)]),
    ],
)
def test_each_range_of_a_dead_list_task_has_failed(task: ListTask | WalkTask, ranges: list[Range]) -> None:
    tally = tallied(1, [Dead(task.id, task)])

    assert failed_ranges(tally, [Dead(task.id, task)]) == [RangeFailure(piece, NO_WORD) for piece in ranges]
    assert (tally.snapshot().ranges_failed, tally.snapshot().counts, tally.complete) == (len(ranges), Counts(), True)


def test_the_second_attempt_s_copies_are_duplicates() -> None:
    again = COPIED._replace(attempt=TWO)
    snapshot = tallied(1, [COPIED, again, COPIED, again]).snapshot()

    assert (snapshot.counts, snapshot.duplicates, snapshot.unquiet) == (COPIED.counts, 2, True)


def test_an_orphan_s_copies_are_duplicates_and_count_for_nothing() -> None:
    events: list[Event] = [COPIED._replace(id="lost.0", attempt=TWO), COPIED]
    snapshot = tallied(1, events).snapshot()

    assert (snapshot.counts, snapshot.duplicates, snapshot.complete, snapshot.unquiet) == (COPIED.counts, 2, True, True)
    assert snapshot.seen == COPIED.counts


def test_work_reported_before_it_was_announced_is_provisional_until_then() -> None:
    child = COPIED._replace(id="one.0", attempt=Attempt(1, "child"))
    tally = tallied(1, [child])
    assert (tally.snapshot().provisional, tally.snapshot().counts) == (child.counts, Counts())

    tally.add([Done(LIST.id, ONE, 1, Counts(listed=2))])
    assert (tally.snapshot().provisional, tally.snapshot().counts) == (Counts(), Counts(listed=2) + child.counts)


def test_a_quiet_run_is_quiet() -> None:
    assert not tallied(1, [COPIED, COPIED]).snapshot().unquiet


def test_the_first_fatal_is_kept() -> None:
    first, second = (Fatal(LIST.id, ONE, "not_found", cause) for cause in ("first", "second"))

    assert tallied(1, [first, second]).fatal == first


def test_names_that_no_attempt_gives_are_never_announced() -> None:
    odd = ["", "x", f"{RUN}.", f"{RUN}.-1", f"{RUN}.1", f"{RUN}.²", f"{RUN}.a", f"x.{RUN}.0"]
    tally = tallied(1, [COPIED._replace(id=name) for name in odd])

    assert (tally.snapshot().counts, tally.snapshot().tasks_open) == (Counts(), 1)


def test_the_late_end_of_a_dead_task_would_reopen_a_run_where_it_announces_children() -> None:
    tally = Tally()
    tally.announce("run", 1)
    task = CopyTask("run.0", JOB, ())
    late = Done("run.0", Attempt(1, "n"), 1, Counts())
    assert not tally.would_reopen(late)

    tally.add([Dead("run.0", task)])

    assert tally.would_reopen(late)
    assert not tally.would_reopen(late._replace(children=0))
