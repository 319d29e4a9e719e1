"""Many list tasks at once in one worker, against a store that answers in virtual time."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import aio, listing
from s3bulkcopy.worker.attempts import Budget
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.keyspace import cut
from s3bulkcopy.worker.model import (
    Attempt,
    CopyTask,
    Counts,
    Done,
    Item,
    Job,
    ListTask,
    Range,
    Task,
    WalkTask,
    encode_task,
)
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.planner import Planner, Request
from s3bulkcopy.worker.work import Worker
from tests.unit.worker.worker_fakes import (
    DENIED,
    JOB,
    SLOW_DOWN,
    FakeS3,
    Queue,
    Scripted,
    error,
    item,
    items,
    keys,
    number,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = Range("", None)
FIRST = Attempt(1, "nonce")
AMPLE = Budget(float("inf"), 10_000)

few = settings(max_examples=40, deadline=None)
small_jobs = st.builds(lambda n, m: JOB._replace(batch_keys=n, message_bytes=m), st.integers(1, 10), st.just(65_536))
stores = st.builds(
    lambda found, page_keys: FakeS3.of(found, page_keys=page_keys), st.lists(items, max_size=40), st.integers(1, 12)
)
ranges = st.builds(Range, st.one_of(st.just(""), keys), st.one_of(st.none(), keys))


def numbered(count: int) -> list[Item]:
    """Give items whose keys are in the order of their numbers."""
    return [item(f"k{n:05}") for n in range(count)]


def by_key(found: list[Item]) -> list[Item]:
    """Put items in the order of their keys' bytes."""
    return sorted(found, key=lambda it: it.key.encode())


def inside(store: FakeS3, whole: Range) -> list[Item]:
    """Give the items of a range, in order."""
    return by_key([it for key, it in store.objects.items() if key in whole])


def listed(found: list[Item], pages: int) -> Counts:
    """Give the counts of a task that listed these."""
    return Counts(listed=len(found), listed_bytes=sum(it.size for it in found), pages=pages)


@dataclass
class Environment:
    """A worker that may be given several tasks, at once or one after another, while virtual time goes on."""

    store: FakeS3
    slots: int = 64
    queue: Queue = field(default_factory=Queue)
    dones: list[Done] = field(default_factory=list)
    attempts: int = 0

    def __post_init__(self) -> None:
        pauses = full_jitter(lambda: 1.0)
        s3 = self.store.client()
        self.worker = Worker(s3, Copier(s3, Pace(), pauses), pauses, list_slots=self.slots)

    async def work(self, task: Task, budget: Budget = AMPLE) -> Done:
        """Work on a task; every attempt has a nonce of its own."""
        self.attempts += 1
        done = await self.worker.work(task, Attempt(1, f"nonce-{self.attempts}"), budget, self.queue)
        self.dones.append(done)
        return done


def work(
    store: FakeS3, task: Task, queue: Queue | None = None, *, budget: Budget = AMPLE, attempt: Attempt = FIRST, slots: int = 64
) -> tuple[Done, Queue]:
    """Work on a task in an environment of its own; gives what it reported and what it sent."""
    environment = Environment(store, slots, queue or Queue())

    async def main() -> Done:
        done = await environment.worker.work(task, attempt, budget, environment.queue)
        assert aio.all_tasks() == {aio.current_task()}
        assert environment.queue.under_way == 0
        return done

    return run(main()), environment.queue


def work_side_by_side(store: FakeS3, tasks: list[ListTask], slots: int = 64) -> tuple[list[Done], Queue]:
    """Work on list tasks at the same time in one environment."""
    environment = Environment(store, slots)

    async def main() -> list[Done]:
        return await aio.gather(*map(environment.work, tasks))

    return run(main()), environment.queue


# --------------------------------------------------------------------------------------------------------------- one task


@few
@given(stores, small_jobs, st.lists(keys, max_size=6), st.integers(1, 64))
def test_ranges_are_listed_whatever_the_keys_and_the_page_size(
    store: FakeS3, job: Job, boundaries: list[str], slots: int
) -> None:
    pieces = tuple(cut(ALL, boundaries)[::2])
    expected = by_key([it for piece in pieces for it in inside(store, piece)])

    done, queue = work(store, ListTask("run.0", job, pieces), slots=slots)

    assert by_key(queue.items) == expected
    assert done == Done("run.0", FIRST, len(queue.accepted), listed(expected, len(store.list_requests)))
    assert {task.id for task in queue.accepted} == {f"nonce.{n}" for n in range(done.children)}
    assert all(isinstance(task, CopyTask) and len(task.items) <= job.batch_keys for task in queue.accepted)


@few
@given(stores, ranges)
def test_keys_outside_the_range_do_not_count(store: FakeS3, whole: Range) -> None:
    done, queue = work(store, ListTask("run.0", JOB, (whole,)))

    assert by_key(queue.items) == inside(store, whole)
    assert done.counts == listed(inside(store, whole), len(store.list_requests))


@few
@given(stores, st.lists(keys, max_size=5), st.integers(1, 5), st.integers(1, 4))
def test_ranges_cut_anywhere_and_handed_on_at_any_page_list_every_object_once(
    store: FakeS3, boundaries: list[str], pages: int, slots: int
) -> None:
    open_tasks = deque[Task](ListTask("", JOB, (piece,)) for piece in cut(ALL, boundaries))
    found: list[Item] = []
    while open_tasks:
        done, queue = work(store, open_tasks.popleft(), budget=Budget(float("inf"), pages), slots=slots)
        assert done.counts.pages <= pages
        found += queue.items
        open_tasks += [task for task in queue.accepted if isinstance(task, ListTask)]

    assert by_key(found) == inside(store, ALL)


def test_a_range_is_listed_by_many_requests_at_a_time() -> None:
    store = FakeS3.of(numbered(20_000), page_keys=100)

    environment = Environment(store)
    seconds = run(_timed(environment, ListTask("run.0", JOB, (ALL,))))

    assert seconds < 1.5  # one after another, 200 pages take 10 s
    assert len(environment.queue.items) == 20_000


async def _timed(environment: Environment, task: Task) -> float:
    await environment.work(task)
    return aio.get_running_loop().time()


def test_no_more_requests_are_under_way_than_there_are_slots() -> None:
    store = FakeS3.of(numbered(3000), page_keys=10)
    work(store, ListTask("run.0", JOB, (ALL,)), slots=3)

    assert store.most_lists_under_way == 3


def test_a_small_bucket_costs_little_more_than_its_pages() -> None:
    store = FakeS3.of(numbered(13_000))
    roots = [ListTask(f"run.{n}", JOB, (piece,)) for n, piece in enumerate(cut(ALL, map(chr, range(33, 133))))]

    done, queue = work_side_by_side(store, roots)

    assert len(queue.items) == 13_000
    assert sum(one.counts.pages for one in done) == len(store.list_requests) <= 13 + 20


def test_only_the_prefix_is_listed() -> None:
    store = FakeS3.of(item(key) for key in ("a", "p", "p/", "p/1", "p0", "q"))
    job = JOB._replace(source=JOB.source._replace(prefix="p/"))
    _, queue = work(store, ListTask("run.0", job, (ALL,)))

    assert queue.items == [item("p/"), item("p/1")]


def test_a_dry_job_is_listed_and_counted_and_nothing_is_handed_on_but_ranges() -> None:
    store = FakeS3.of(numbered(900), page_keys=10)
    done, queue = work(store, ListTask("run.0", JOB._replace(dry=True), (ALL,)), budget=Budget(float("inf"), 20))

    assert done.counts.pages == 20
    assert done.counts.listed + sum(len(inside(store, piece)) for piece in queue.ranges) == 900
    assert {type(task) for task in queue.accepted} == {ListTask}
    assert done.children == len(queue.accepted)


def test_of_long_keys_fewer_are_asked_for_at_a_time() -> None:
    found = [item("k" * 1000 + f"{n:04}") for n in range(3000)]
    store = FakeS3.of(found)
    _, queue = work(store, ListTask("run.0", JOB, (ALL,)))

    assert {query["max-keys"] for query in store.list_requests[1:]} == {str(256 * 1024 // 1004)}
    assert by_key(queue.items) == found


@few
@given(stores, st.integers())
def test_an_empty_page_that_says_more_follow_is_followed(store: FakeS3, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - repeatable
    store.is_empty = lambda: random.random() < 0.3
    done, queue = work(store, ListTask("run.0", JOB, (ALL,)))

    assert by_key(queue.items) == inside(store, ALL)
    assert done.counts.pages == len(store.list_requests)


def test_pages_that_stay_empty_though_more_follow_fail_the_attempt() -> None:
    with pytest.raises(Failed, match="EmptyPage"):
        work(FakeS3.of([item("a")], page_keys=0), ListTask("run.0", JOB, (ALL,)), budget=Budget(5.0))


@few
@given(stores, st.lists(items, max_size=10), st.integers())
def test_what_is_there_all_the_time_counts_once_though_other_keys_come_and_go(
    store: FakeS3, others: list[Item], seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - repeatable
    stays = {key: it for key, it in store.objects.items() if key not in {other.key for other in others}}

    def change(found: list[Item], _query: dict[str, str]) -> list[Item]:
        other = random.choice(others) if others else None
        if other is not None and other.key in store.objects:
            del store.objects[other.key]
        elif other is not None:
            store.objects[other.key] = other
        return found

    store.list_rule = change
    _, queue = work(store, ListTask("run.0", JOB, (ALL,)))

    times = Counter(it.key for it in queue.items)
    assert all(times[key] == 1 for key in stays)
    assert max(times.values(), default=0) <= 1


# ------------------------------------------------------------------------------------------------------------- many tasks


@few
@given(stores, st.lists(keys, max_size=8), st.randoms(), st.integers(1, 8))
def test_each_task_counts_what_lies_in_its_ranges_whoever_asked(
    store: FakeS3, boundaries: list[str], random: Random, slots: int
) -> None:
    pieces = cut(ALL, boundaries)
    random.shuffle(pieces)
    tasks = [ListTask(f"run.{n}", JOB, tuple(pieces[n::3])) for n in range(3)]

    done, queue = work_side_by_side(store, tasks, slots)

    for task, report in zip(tasks, done, strict=True):
        given = queue.ranges_of(report.attempt.nonce)
        mine = by_key([it for piece in task.ranges for it in inside(store, piece) if not any(it.key in one for one in given)])
        assert by_key(queue.items_of(report.attempt.nonce)) == mine
        assert (report.counts.listed, report.counts.listed_bytes) == (len(mine), sum(it.size for it in mine))
    assert sum(report.counts.pages for report in done) == len(store.list_requests)


def test_an_answer_that_shows_that_ranges_are_empty_saves_their_requests() -> None:
    store = FakeS3.of([item("b"), item("x")])
    tasks = [ListTask(f"run.{n}", JOB, (piece,)) for n, piece in enumerate(cut(ALL, "acdefghijklmnopqrstuvwyz"))]

    _, queue = work_side_by_side(store, tasks)

    assert len(store.list_requests) <= 4
    assert [it.key for it in queue.items] == ["b", "x"]


def test_a_range_that_comes_soon_after_it_was_seen_to_be_empty_needs_no_request() -> None:
    store = FakeS3.of([item("b"), item("x")])
    environment = Environment(store)

    async def main() -> list[Done]:
        await environment.work(ListTask("run.0", JOB, (Range("", "a"),)))
        soon = await environment.work(ListTask("run.1", JOB, (Range("a", "a1"), Range("y", None))))
        await aio.sleep(60)
        return [soon, await environment.work(ListTask("run.2", JOB, (Range("y", None),)))]

    assert [done.counts for done in run(main())] == [Counts(), Counts(pages=1)]


def test_a_task_that_overlaps_one_in_hand_is_listed_for_itself() -> None:
    store = FakeS3.of(numbered(200), page_keys=10)
    twice = [ListTask("run.1", JOB, (Range("", "k00150"),)), ListTask("run.1", JOB, (Range("k00100", None),))]

    done, queue = work_side_by_side(store, twice)

    assert [one.counts.listed for one in done] == [151, 99]
    assert [len(queue.items_of(one.attempt.nonce)) for one in done] == [151, 99]


def test_a_task_that_is_listed_for_itself_gets_on_while_listing_is_held_up() -> None:
    job = JOB._replace(batch_keys=10)
    store, queue = FakeS3.of(numbered(6000), page_keys=10), Queue(seconds=1.0)
    environment = Environment(store, 8, queue)

    async def main() -> None:
        large = aio.create_task(environment.work(ListTask("run.1", job, (Range("", "k05000"),))))
        await aio.sleep(2.0)
        await aio.gather(large, environment.work(ListTask("run.2", job, (Range("k04900", "k05100"),))))

    run(main())

    sent = [task.items[0].key for task in queue.accepted if isinstance(task, CopyTask)]
    first = next(n for n, key in enumerate(sent) if key > "k05000")
    assert first < 0.8 * len(sent)


@few
@given(stores, st.lists(keys, min_size=1, max_size=6, unique=True), st.floats(0.0, 0.6), st.integers(1, 8))
def test_a_task_that_is_cut_off_leaves_those_beside_it_exact_and_may_be_delivered_again(
    store: FakeS3, boundaries: list[str], seconds: float, slots: int
) -> None:
    pieces = cut(ALL, boundaries)
    tasks = [ListTask(f"run.{n}", JOB, (piece,)) for n, piece in enumerate(pieces)]
    environment = Environment(store, slots)

    async def cut_off(task: ListTask) -> Done | None:
        try:
            async with aio.timeout(seconds):
                return await environment.work(task)
        except TimeoutError:
            return None

    async def main() -> list[Done]:
        first, *others = await aio.gather(cut_off(tasks[0]), *map(environment.work, tasks[1:]))
        assert aio.all_tasks() == {aio.current_task()}
        return [first or await environment.work(tasks[0]), *others]

    for piece, done in zip(pieces, run(main()), strict=True):
        assert by_key(environment.queue.items_of(done.attempt.nonce)) == inside(store, piece)


# -------------------------------------------------------------------------------------------------------------- handing on


def test_after_so_many_pages_the_rest_is_handed_on() -> None:
    found = numbered(300)
    store = FakeS3.of(found, page_keys=5)
    done, queue = work(store, ListTask("run.0", JOB, (Range("k00002", "k00270"),), 7), budget=Budget(float("inf"), 9))

    assert done.counts.pages == len(store.list_requests) == 9
    assert by_key([*queue.items, *(it for piece in queue.ranges for it in inside(store, piece))]) == found[3:271]
    assert [task.idle_hops for task in queue.accepted if isinstance(task, ListTask)] == [0]


def test_at_the_deadline_the_rest_is_handed_on_and_what_is_under_way_still_counts() -> None:
    found = numbered(3000)
    store = FakeS3.of(found, page_keys=5)
    done, queue = work(store, ListTask("run.0", JOB, (ALL,)), budget=Budget(0.42))

    assert done.counts.pages == len(store.list_requests)
    assert by_key([*queue.items, *(it for piece in queue.ranges for it in inside(store, piece))]) == found


def test_a_budget_without_a_page_hands_on_all_ranges_and_counts_the_hop() -> None:
    both = (Range("", "b"), Range("c", None))
    done, queue = work(FakeS3.of([item("a")]), ListTask("run.0", JOB, both, 3), budget=Budget(float("inf"), 0))

    assert (done.counts, queue.accepted) == (Counts(), [ListTask("nonce.0", JOB, both, 4)])


@pytest.mark.parametrize("character", ["k", "\x01", "\U0001f600"])
def test_ranges_between_the_longest_keys_are_handed_on_in_messages_that_fit(character: str) -> None:
    length = 1020 // len(character.encode())
    bounds = [chr(0x100 + n) + character * (length - 1) for n in range(65)]
    ranges = tuple(Range(after, until) for after, until in pairwise(bounds))
    job = JOB._replace(message_bytes=262_144)

    _, queue = work(FakeS3(), ListTask("run.0", job, ranges), budget=Budget(float("inf"), 0))

    assert queue.ranges == [*ranges]
    assert all(len(encode_task(task)) <= job.message_bytes for task in queue.accepted)


def test_a_range_that_promises_nothing_is_asked_for_in_time_all_the_same() -> None:
    found = [item(f"a{n:05}") for n in range(30_000)] + [item("z")]
    store = FakeS3.of(found, page_keys=10)
    tasks = [ListTask("run.0", JOB, (Range("", "b"),)), ListTask("run.1", JOB, (Range("y", None),))]
    environment = Environment(store, slots=2)

    async def main() -> Done:
        huge = aio.create_task(environment.work(tasks[0], Budget(8.0)))
        small: Done = await environment.work(tasks[1], Budget(20.0))
        assert not huge.done()
        await huge
        return small

    assert run(main()).counts.listed == 1


# ------------------------------------------------------------------------------------------------------------- giving away


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ranges given away that are small enough for a test."""
    monkeypatch.setattr(listing, "_ROUNDS_AHEAD", 1)
    monkeypatch.setattr(listing, "_LEAST_GIVEN_PAGES", 2.0)


@pytest.mark.usefixtures("generous")
def test_what_is_too_much_for_the_slots_is_given_away_and_what_was_given_is_not_listed_here() -> None:
    found = numbered(4000)
    store = FakeS3.of(found, page_keys=10)
    done, queue = work(store, ListTask("run.0", JOB, (ALL,)), slots=4)

    assert 1 <= len(queue.ranges) <= 32
    assert by_key([*queue.items, *(it for piece in queue.ranges for it in inside(store, piece))]) == found
    assert done.counts == listed(queue.items, len(store.list_requests))
    assert done.children == len(queue.accepted)


def test_what_is_given_away_goes_before_what_was_found() -> None:
    """Nobody lists it meanwhile, and what was found may wait for as long as there is something to list."""
    job = JOB._replace(batch_keys=10)

    _, queue = work(FakeS3.of(numbered(4000), page_keys=10), ListTask("run.0", job, (ALL,)), Queue(seconds=1.0), slots=8)

    given = [n for n, task in enumerate(queue.accepted) if isinstance(task, ListTask)]
    assert len(given) >= 2
    assert max(given) < len(queue.accepted) // 3, given


@pytest.mark.usefixtures("generous")
def test_what_was_given_away_may_come_back_to_the_same_worker() -> None:
    found = numbered(4000)
    store = FakeS3.of(found, page_keys=10)
    environment = Environment(store, slots=4)

    async def main() -> None:
        works = [aio.create_task(environment.work(ListTask("run.0", JOB, (ALL,))))]
        taken: set[str] = set()
        while works:
            await works.pop(0)
            given = [task for task in environment.queue.accepted if isinstance(task, ListTask) and task.id not in taken]
            taken |= {task.id for task in given}
            works += [aio.create_task(environment.work(task)) for task in given]

    run(main())

    assert by_key(environment.queue.items) == found
    assert sum(done.counts.pages for done in environment.dones) == len(store.list_requests)


@pytest.mark.usefixtures("generous")
def test_a_range_that_no_queue_takes_fails_the_attempt() -> None:
    def refuse(task: Task) -> None:
        if isinstance(task, ListTask):
            raise Failed(Fault(Next.RETRY, "Nope", ""), "sending")

    with pytest.raises(Failed, match="sending: Nope"):
        work(FakeS3.of(numbered(4000), page_keys=10), ListTask("run.0", JOB, (ALL,)), Queue(refuse=refuse), slots=4)


def test_of_a_bucket_of_13_000_keys_nothing_is_given_away() -> None:
    _, queue = work(FakeS3.of(numbered(13_000)), ListTask("run.0", JOB, (ALL,)), slots=4)

    assert queue.ranges == []


# ----------------------------------------------------------------------------------------------------------------- children


def test_done_is_given_only_after_every_child_was_accepted() -> None:
    done, queue = work(
        FakeS3.of(numbered(60), page_keys=7), ListTask("run.0", JOB._replace(batch_keys=1), (ALL,)), Queue(seconds=5.0)
    )

    assert (done.children, len(queue.accepted)) == (60, 60)


def test_listing_waits_until_the_queue_takes_what_was_listed() -> None:
    store = FakeS3.of(numbered(2000), page_keys=10)
    queue = Queue(seconds=1.0)
    shown: set[Item] = set()
    held: list[int] = []

    def watch(found: list[Item], _query: dict[str, str]) -> list[Item]:
        shown.update(found[:10])
        held.append(len(shown) - len(queue.items))
        return found

    store.list_rule = watch

    work(store, ListTask("run.0", JOB._replace(batch_keys=10), (ALL,)), queue, slots=8)

    assert by_key([*queue.items, *(it for piece in queue.ranges for it in inside(store, piece))]) == numbered(2000)
    assert max(held) <= 10 * (8 + 16 + 8 + 1)  # slots, sends under way, pages that wait, and the batch that is being filled


def test_the_plan_knows_when_listing_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    request_of = Planner.request

    def spy(planner: Planner, free: int, *, is_held_up: bool) -> Request | None:
        told.append(is_held_up)
        return request_of(planner, free, is_held_up=is_held_up)

    monkeypatch.setattr(Planner, "request", spy)

    work(FakeS3.of(numbered(2000), page_keys=10), ListTask("run.0", JOB, (ALL,)), Queue(seconds=1.0), slots=8)

    assert not told[0]
    assert any(told)


@pytest.mark.parametrize("which", [0, 5, 59])
def test_a_send_that_fails_fails_the_attempt(which: int) -> None:
    def refuse(task: Task) -> None:
        if number(task.id) == which:
            raise Failed(Fault(Next.RETRY, "Nope", ""), "sending")

    with pytest.raises(Failed, match="sending: Nope"):
        work(FakeS3.of(numbered(60)), ListTask("run.0", JOB._replace(batch_keys=1), (ALL,)), Queue(refuse=refuse))


# ------------------------------------------------------------------------------------------------------------------- faults


def test_list_faults_that_pass_are_retried_and_counted() -> None:
    faults: list[Scripted] = [SLOW_DOWN, error(500, "InternalError"), TimeoutError("late")]
    store = FakeS3.of([item("a")], list_faults=faults)
    done, _ = work(store, ListTask("run.0", JOB, (ALL,)))

    assert done.counts == listed([item("a")], 1) + Counts(retries=3, throttles=1)


@few
@given(stores, st.lists(keys, max_size=4), st.lists(st.booleans(), max_size=8))
def test_throttled_requests_change_no_count_but_those_of_effort(
    store: FakeS3, boundaries: list[str], faults: list[bool]
) -> None:
    store.list_faults = [SLOW_DOWN if throttled else error(500, "InternalError") for throttled in faults]
    done, queue = work(store, ListTask("run.0", JOB, tuple(cut(ALL, boundaries))))

    effort = Counts(retries=len(faults), throttles=sum(faults))
    left = effort if len(store.list_faults) == 0 else None
    assert by_key(queue.items) == inside(store, ALL)
    if left is not None:
        assert done.counts == listed(queue.items, len(store.list_requests) - len(faults)) + left


def test_list_faults_that_last_fail_the_attempt() -> None:
    with pytest.raises(Failed, match="listing s3://source: SlowDown"):
        work(FakeS3(list_faults=[SLOW_DOWN] * 100), ListTask("run.0", JOB, (ALL,)))


def _fail_behind(key: str) -> Callable[[list[Item], dict[str, str]], list[Item]]:
    def rule(found: list[Item], query: dict[str, str]) -> list[Item]:
        if query.get("start-after", "") >= key:
            raise TimeoutError("late")
        return found

    return rule


def test_list_faults_that_last_leave_what_was_listed_and_hand_on_the_rest() -> None:
    found = numbered(60)
    store = FakeS3.of(found, page_keys=3, list_rule=_fail_behind("k00030"))
    _, queue = work(store, ListTask("run.0", JOB, (Range("", "z"),), 4), budget=Budget(20.0))

    assert queue.items
    assert by_key([*queue.items, *(it for piece in queue.ranges for it in inside(store, piece))]) == found
    assert {task.idle_hops for task in queue.accepted if isinstance(task, ListTask)} == {0}


def test_requests_that_fail_fail_their_own_task_and_not_those_beside_it() -> None:
    found = numbered(60)
    store = FakeS3.of(found, page_keys=3, list_rule=_fail_behind("k00030"))
    environment = Environment(store)
    tasks = [ListTask("run.0", JOB, (Range("", "k00020"),)), ListTask("run.1", JOB, (Range("k00040", None),))]

    async def main() -> list[Done | BaseException]:
        return await aio.gather(*map(environment.work, tasks), return_exceptions=True)

    good, bad = run(main())

    assert isinstance(good, Done)
    assert good.counts.listed == 21
    assert isinstance(bad, Failed)


def test_what_no_code_expects_fails_the_task_it_was_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "_checked", breaks)
    with pytest.raises(ZeroDivisionError):
        work(FakeS3.of([item("a")]), ListTask("run.0", JOB, (ALL,)))


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_denied_list_request_fails_the_attempt_at_first(attempt: int) -> None:
    with pytest.raises(Failed, match="AccessDenied"):
        work(FakeS3(list_faults=[DENIED] * 9), ListTask("run.0", JOB, (ALL,)), attempt=Attempt(attempt, "n"))


@pytest.mark.parametrize(
    ("fault", "attempt", "kind"),
    [
        (DENIED, 3, "not_permitted"),
        (error(404, "NoSuchBucket"), 1, "not_found"),
        (error(403, "InvalidAccessKeyId"), 1, "not_permitted"),
    ],
)
def test_a_list_request_that_can_never_succeed_stops_the_run(fault: Scripted, attempt: int, kind: str) -> None:
    with pytest.raises(Stop) as stop:
        work(FakeS3(list_faults=[fault]), ListTask("run.0", JOB, (ALL,)), attempt=Attempt(attempt, "n"))
    assert stop.value.kind == kind


# --------------------------------------------------------------------------------------------- stores of another mind


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (lambda _found, _query: [item("a"), item("b"), *[item("c")] * 2000], "ignores start-after: asked behind 'm'"),
        (lambda _found, _query: [item("z"), item("y")], "does not list keys in the order"),
        (lambda _found, _query: [item("y"), item("y")], "does not list keys in the order"),
        (lambda _found, _query: [item("n"), item("p/1")], "ignores prefix: asked for 'p/'"),
    ],
)
def test_a_store_that_ignores_what_it_was_asked_is_refused(
    rule: Callable[[list[Item], dict[str, str]], list[Item]], cause: str
) -> None:
    job = JOB._replace(source=JOB.source._replace(prefix="p/" if "prefix" in cause else ""))
    store = FakeS3(list_rule=rule, page_keys=2)
    with pytest.raises(Stop, match=cause) as stop:
        work(store, ListTask("run.0", job, (Range("m", None),)))
    assert stop.value.kind == "unsupported"


def test_a_store_that_ignores_start_after_and_shows_all_its_keys_at_once_is_believed() -> None:
    store = FakeS3(list_rule=lambda _found, _query: [item("a"), item("m"), item("z")])
    done, queue = work(store, ListTask("run.0", JOB, (Range("m", None),)))

    assert (done.counts.listed, queue.items) == (1, [item("z")])


@few
@given(stores, st.randoms(), st.integers(0, 3))
def test_a_store_that_knows_no_order_is_walked_page_after_page(store: FakeS3, random: Random, taken: int) -> None:
    order = [*store.objects]
    random.shuffle(order)
    store.list_rule = lambda _found, _query: [store.objects[key] for key in order]

    done, queue = work(store, WalkTask("run.1", JOB, tuple(order[:taken])))

    expected = [store.objects[key] for key in order[taken:]]
    assert queue.items == expected
    assert done.counts == listed(expected, len(store.list_requests))


def test_a_store_that_says_that_more_follow_and_not_how_to_ask_is_refused() -> None:
    store = FakeS3.of(numbered(9), page_keys=3, has_tokens=False)
    with pytest.raises(Stop, match="not how to ask"):
        work(store, WalkTask("run.1", JOB))


def walked_in_turns(store: FakeS3, task: WalkTask, budget: Budget) -> tuple[list[Done], list[Item]]:
    """Walk, each rest by an attempt of its own; gives what each reported, and the items that were sent on."""
    dones: list[Done] = []
    found: list[Item] = []
    todo = [task]
    while todo:
        done, queue = work(store, todo.pop(), budget=budget, attempt=Attempt(1, f"nonce-{len(dones)}"))
        dones.append(done)
        found += queue.items
        todo += [sent for sent in queue.accepted if isinstance(sent, WalkTask)]
    return dones, found


@few
@given(stores, st.randoms(), st.integers(0, 3), st.integers(1, 3))
def test_what_the_budget_leaves_of_a_walk_goes_on_at_the_same_place(
    store: FakeS3, random: Random, taken: int, pages: int
) -> None:
    order = [*store.objects]
    random.shuffle(order)
    store.list_rule = lambda _found, _query: [store.objects[key] for key in order]

    dones, found = walked_in_turns(store, WalkTask("run.1", JOB, tuple(order[:taken])), Budget(float("inf"), pages))

    expected = [store.objects[key] for key in order[taken:]]
    asked = max(1, -(-len(order) // store.page_keys))
    assert found == expected
    assert sum((done.counts for done in dones), Counts()) == listed(expected, asked)
    assert (len(store.list_requests), len(dones)) == (asked, -(-asked // pages))


def test_a_limit_holds_for_all_attempts_at_a_walk_together() -> None:
    store = FakeS3.of(numbered(30), page_keys=4)
    _, found = walked_in_turns(store, WalkTask("run.1", JOB, ("k00002",), limit=11), Budget(float("inf"), 1))

    assert found == [it for it in numbered(12) if it.key != "k00002"]
    assert len(store.list_requests) == 3


def test_a_walk_that_is_told_to_end_hands_on_the_rest_once_its_page_has_come() -> None:
    store = FakeS3.of(numbered(30), page_keys=10)
    environment = Environment(store)

    async def main() -> Done:
        walking = aio.create_task(environment.work(WalkTask("run.1", JOB)))
        await aio.sleep(0.01)
        await environment.worker.hand_on(5.0)
        done: Done = await walking
        return done

    done = run(main())
    (rest,) = [sent for sent in environment.queue.accepted if isinstance(sent, WalkTask)]

    assert (done.counts, rest.idle_hops) == (listed(numbered(10), 1), 0)
    assert walked_in_turns(store, rest, AMPLE)[1] == numbered(30)[10:]


def test_a_page_of_a_walk_that_cannot_be_had_leaves_what_was_listed_and_hands_on_the_rest() -> None:
    store = FakeS3.of(numbered(30), page_keys=10)
    store.list_rule = lambda found, query: _late() if "continuation-token" in query else found
    done, queue = work(store, WalkTask("run.1", JOB))
    (rest,) = [sent for sent in queue.accepted if isinstance(sent, WalkTask)]
    store.list_rule = lambda found, _query: found

    assert done.counts.listed == 10
    assert walked_in_turns(store, rest, AMPLE)[1] == numbered(30)[10:]


def _late() -> list[Item]:
    raise TimeoutError("late")


def test_a_place_that_the_store_does_not_know_any_more_fails_the_walk_and_begins_no_other() -> None:
    store = FakeS3.of(numbered(3), list_faults=[error(400, "InvalidArgument", "The continuation token is not valid")])
    with pytest.raises(Failed, match="continuation token"):
        work(store, WalkTask("run.1", JOB, token="old"))


def test_an_empty_page_of_a_walk_tells_where_to_go_on_and_is_handed_on() -> None:
    answers = iter([True, True])
    store = FakeS3.of(numbered(9), is_empty=lambda: next(answers, False))
    dones, found = walked_in_turns(store, WalkTask("run.1", JOB), Budget(float("inf"), 1))

    assert (found, len(dones), {done.counts.pages for done in dones}) == (numbered(9), 3, {1})


def test_what_is_listed_is_under_way_until_its_task_has_ended() -> None:
    store, seen = FakeS3.of(numbered(3000)), list[int]()

    async def main() -> Done:
        env = Environment(store)

        async def emit(task: Task) -> None:
            await aio.sleep(1.0)
            seen.append(env.worker.under_way().listed)
            await env.queue(task)

        done = await env.worker.work(ListTask("t", JOB, (ALL,)), FIRST, AMPLE, emit)
        seen.append(env.worker.under_way().listed)
        return done

    counts = run(main()).counts
    assert (counts.listed, max(seen), seen[-1]) == (3000, 3000, 0)
