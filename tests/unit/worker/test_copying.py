"""Copying the items of many tasks over one pace, against a store that answers in virtual time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker import aio, copying
from s3bulkcopy.worker.connections import Host
from s3bulkcopy.worker.copying import (
    INQUIRIES,
    LANDING_SECONDS,
    MOST_TROUBLED,
    PROOF_SECONDS,
    RETRY_SECONDS,
    Copier,
    Outcome,
)
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.model import Counts, Failure, Item
from s3bulkcopy.worker.pacing import Pace, full_jitter
from s3bulkcopy.worker.properties import Policy
from s3bulkcopy.worker.s3 import S3, JobCopies, read_copy
from tests.unit.worker.worker_fakes import (
    ACL,
    CREDENTIALS,
    DENIED,
    GRANTS,
    JOB,
    NO_SUCH_KEY,
    NOW,
    SLOW_DOWN,
    FakeS3,
    answer,
    error,
    fake_host,
    item,
    items,
    run,
)

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable

    from s3bulkcopy.worker.connections import Connection
    from s3bulkcopy.worker.http import Response
    from s3bulkcopy.worker.model import Job
    from tests.unit.worker.worker_fakes import Request

ANY_TIME = float("inf")


def copier(store: FakeS3, window: Pace | None = None, seconds: float = 0.05) -> Copier:
    return Copier(store.client(seconds), window or Pace(), full_jitter(lambda: 1.0))


def copy(store: FakeS3, found: Iterable[Item], deadline: float = ANY_TIME, attempt: int = 1) -> Outcome:
    """Copy the items of one task in an environment of its own."""

    async def main() -> Outcome:
        return await copier(store).copy(JOB, found, deadline, attempt=attempt)

    return run(main())


def all_copied(found: Iterable[Item], **more: int) -> Counts:
    sizes = [it.size for it in found]
    counts = Counts(copied=len(sizes), copied_bytes=sum(sizes), copy_requests=len(sizes))
    return counts + Counts(**more)


# ------------------------------------------------------------------------------------------------------------ all is well


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(items.map(lambda it: it._replace(size=it.size % 10**6)), max_size=20), max_size=6), st.integers(1, 40))
def test_the_items_of_all_tasks_are_copied(batches: list[list[Item]], window: int) -> None:
    store = FakeS3.of(reversed([it for batch in batches for it in batch]))
    batches = [[it for it in batch if store.objects[it.key] == it] for batch in batches]

    async def main() -> list[Outcome]:
        one = copier(store, Pace(window))
        return await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches))

    assert run(main()) == [Outcome(all_copied(batch), (), ()) for batch in batches]
    assert store.copied == {it.key: it for batch in batches for it in batch}


def order_of(tasks: str, items_each: int, window: int) -> str:
    """Copy tasks of a letter each at the same time; give the letters in the order in which their items were copied."""
    batches = [[item(f"{task}{n:03}") for n in range(items_each)] for task in tasks]
    store = FakeS3.of(it for batch in batches for it in batch)

    async def main() -> None:
        one = copier(store, Pace(window, window))
        await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches))

    run(main())
    return "".join(key[0] for key in store.copied)


def test_work_of_several_tasks_is_interleaved() -> None:
    order = order_of("abc", 4, window=1)

    assert [sorted(order[n : n + 3]) for n in range(0, 12, 3)] == [["a", "b", "c"]] * 4


def test_tasks_share_what_has_become_free_at_a_time() -> None:
    order = order_of("ab", 100, window=16)

    assert order[:16] == "a" * 16  # of the task that came first
    assert [order[n : n + 16].count("a") for n in range(16, 160, 16)] == [8] * 9


@pytest.mark.parametrize("window", [63, 64, 65, 300])
def test_however_many_copies_end_at_a_time_their_connections_serve_what_comes_next(window: int) -> None:
    found = [item(str(n)) for n in range(2000)]
    store = FakeS3.of(found)
    host, dials = fake_host(store.serve), 0
    for it in found[::5]:
        store.copy_faults[it.key] = [error(500, "InternalError")]
    dial = host._dial

    async def counted() -> Connection:
        nonlocal dials
        dials += 1
        return await dial()

    host._dial = counted

    async def main() -> Outcome:
        one = Copier(S3(lambda: CREDENTIALS, host=lambda _: host), Pace(window, window), full_jitter(lambda: 1.0))
        return await one.copy(JOB, found, ANY_TIME, attempt=1)

    assert run(main()).counts == all_copied(found, copy_requests=400, retries=400)
    assert window <= dials <= window + 1


def test_what_is_under_way_is_told_until_the_task_has_ended() -> None:
    found = [item(str(n)) for n in range(10)]
    told = []

    async def main() -> None:
        one = copier(FakeS3.of(found), Pace(1, 1))
        task = aio.create_task(one.copy(JOB, found, ANY_TIME, attempt=1))
        for _ in range(2):
            await aio.sleep(0.2)
            told.append(one.under_way().copied)
        await task
        told.append(one.under_way().copied)

    run(main())
    assert 0 < told[0] < told[1] < 10
    assert told[2] == 0


def test_there_are_never_more_requests_on_their_way_than_the_window_allows() -> None:
    found = [item(str(n)) for n in range(200)]
    store = FakeS3.of(found)
    on_their_way, most_on_their_way = 0, 0

    def serve(request: Request) -> Response:
        nonlocal on_their_way
        on_their_way -= 1
        return store.serve(request)

    class Counting(S3):
        def copies(self, job: Job) -> JobCopies:
            copies = super().copies(job)
            take = copies.take

            def counted(items: deque[Item], most: int, now: float) -> list[tuple[Item, bytes | None]]:
                nonlocal on_their_way, most_on_their_way
                some = take(items, most, now)
                on_their_way += len(some)
                most_on_their_way = max(most_on_their_way, on_their_way)
                return some

            copies.take = counted  # type: ignore[method-assign]
            return copies

    async def main() -> Outcome:
        s3 = Counting(lambda: CREDENTIALS, host=lambda _: fake_host(serve))
        return await Copier(s3, Pace(4, 10), full_jitter(lambda: 1.0)).copy(JOB, found, ANY_TIME, attempt=1)

    assert run(main()).counts.copied == 200
    assert 4 <= most_on_their_way <= 10


def test_a_task_without_items_ends_at_once() -> None:
    assert copy(FakeS3(), []) == Outcome(Counts(), (), ())


# ------------------------------------------------------------------------------------------------------------- throttling


def test_throttles_are_counted_and_everything_still_arrives() -> None:
    found = [item(f"k{n}") for n in range(100)]
    store = FakeS3.of(found)
    store.copy_rule = lambda _key, n: SLOW_DOWN if n % 3 == 0 else None

    outcome = copy(store, found)
    throttles = store.copy_requests.total() // 3
    assert outcome == Outcome(all_copied(found, copy_requests=throttles, retries=throttles, throttles=throttles), (), ())


def test_a_store_that_always_throttles_gets_ever_fewer_requests_and_the_items_back() -> None:
    found = [item(f"k{n}") for n in range(50)]
    store = FakeS3.of(found, copy_rule=lambda _key, _n: SLOW_DOWN)

    outcome = copy(store, found, 60.0)
    assert (sorted(outcome.rest), outcome.failures) == (sorted(found), ())
    assert outcome.counts.throttles == outcome.counts.copy_requests == store.copy_requests.total()
    assert store.copy_requests.total() < 12 * len(found)


def test_a_task_whose_items_are_throttled_does_not_hold_up_the_others() -> None:
    hot, cold = ([item(f"{side}{n:03}") for n in range(500)] for side in ("hot", "cold"))
    store = FakeS3.of([*hot, *cold], copy_rule=lambda key, _n: SLOW_DOWN if key.startswith("hot") else None)

    async def main() -> list[Outcome]:
        one = copier(store)
        return await aio.gather(*(one.copy(JOB, batch, 20.0, attempt=1) for batch in (hot, cold)))

    held_up, free = run(main())
    assert free.counts == all_copied(cold)
    assert len(held_up.rest) == 500
    assert len([key for key in store.copy_requests if key.startswith("hot")]) < 2 * MOST_TROUBLED


def test_where_all_tasks_are_in_trouble_refusals_tell_the_pace() -> None:
    class Told(Pace):
        refusals = 0

        def refused(self, sent_at: float, now: float) -> None:
            self.refusals += 1
            super().refused(sent_at, now)

    batches = [[item(f"{side}{n:03}") for n in range(100)] for side in "ab"]
    store, pace = FakeS3.of(it for batch in batches for it in batch), Told()
    store.copy_rule = lambda key, _n: SLOW_DOWN if store.copy_requests[key] <= 3 else None

    async def main() -> list[Outcome]:
        one = copier(store, pace)
        return await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches))

    assert [outcome.counts.throttles for outcome in run(main())] == [300, 300]
    assert pace.refusals > 500


# ----------------------------------------------------------------------------------------------------- faults of one object


def test_a_fault_that_passes_is_retried() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["a"] = [error(500, "InternalError"), TimeoutError("late"), ConnectionResetError("reset")]

    assert copy(store, [item("a"), item("b")]) == Outcome(
        all_copied([item("a"), item("b")], copy_requests=3, retries=3), (), ()
    )


def test_a_fault_that_does_not_pass_is_recorded_in_the_end() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["a"] = [error(500, "InternalError", "sorry")] * 1000

    async def main() -> tuple[Outcome, float]:
        outcome = await copier(store).copy(JOB, [item("a"), item("b")], ANY_TIME, attempt=1)
        return outcome, aio.get_running_loop().time()

    outcome, seconds = run(main())
    tries = store.copy_requests["a"]
    assert outcome.failures == (Failure("a", 1, "InternalError", "sorry"),)
    assert outcome.counts == all_copied([item("b")], copy_requests=tries, retries=tries - 1, failed=1)
    assert RETRY_SECONDS <= seconds < RETRY_SECONDS + 11
    assert 5 < tries < 20


def test_while_nothing_succeeds_nothing_is_recorded_for_long() -> None:
    found = [item(f"k{n}") for n in range(50)]
    store = FakeS3.of(found)

    async def main() -> Outcome:
        loop = aio.get_running_loop()
        store.copy_rule = lambda _key, _n: ConnectionRefusedError("nobody") if loop.time() < 10 * RETRY_SECONDS else None
        return await copier(store).copy(JOB, found, ANY_TIME, attempt=1)

    outcome = run(main())
    assert (outcome.counts.copied, outcome.failures) == (50, ())


def test_throttles_do_not_count_as_tries() -> None:
    store = FakeS3.of([item("a")])
    store.copy_faults["a"] = [SLOW_DOWN] * 30

    assert copy(store, [item("a")]).counts == all_copied([item("a")], copy_requests=30, retries=30, throttles=30)


def test_a_fault_of_the_object_is_recorded_at_once() -> None:
    store = FakeS3.of([item("a")])
    store.copy_faults["a"] = [error(403, "InvalidObjectState", "archived")]

    assert copy(store, [item("a")]) == Outcome(
        Counts(failed=1, copy_requests=1), (Failure("a", 1, "InvalidObjectState", "archived"),), ()
    )


def test_an_object_that_changed_since_it_was_listed_is_copied_as_it_is_now() -> None:
    now = item("a", 7)
    store = FakeS3.of([now, item("b")])

    outcome = copy(store, [item("a"), item("b")])

    assert outcome == Outcome(all_copied([now, item("b")], copy_requests=1, pages=1, retries=1), (), ())
    assert store.copied == {"a": now, "b": item("b")}


def test_an_object_that_changes_all_the_time_is_copied_once_more_and_then_recorded() -> None:
    store = FakeS3.of([item("a")])

    def change(key: str, n: int) -> None:
        store.objects[key] = item(key, 1 + n)

    store.copy_rule = change
    outcome = copy(store, [item("a")])

    assert outcome.counts == Counts(failed=1, copy_requests=2, pages=1, retries=1)
    assert outcome.failures == (Failure("a", 2, "PreconditionFailed", "because"),)


def test_an_object_that_vanishes_after_it_changed_counts_as_vanished() -> None:
    store = FakeS3.of([item("a", 7)])

    def remove(key: str, n: int) -> None:
        if n > 1:
            del store.objects[key]

    store.copy_rule = remove
    assert copy(store, [item("a")]).counts == Counts(vanished=1, copy_requests=2, pages=2, retries=1)


def test_an_object_that_has_become_large_is_left_to_be_copied_by_parts() -> None:
    large = item("a", JOB.multipart_bytes)

    assert copy(FakeS3.of([large]), [item("a")]) == Outcome(Counts(copy_requests=1, pages=1, retries=1), (), (large,))


def test_a_probe_copies_what_has_changed_as_it_is_now() -> None:
    store = FakeS3.of([item("a", 7)])

    async def main() -> Outcome | Failed:
        return await copier(store).probe(JOB, [item("a")])

    assert run(main()) == Outcome(all_copied([item("a", 7)], copy_requests=1, pages=1, retries=1), (), ())


def test_an_object_that_is_gone_is_counted_as_vanished_once_a_list_request_has_confirmed_it() -> None:
    store = FakeS3.of([item("b")])

    assert copy(store, [item("a"), item("b")]) == Outcome(all_copied([item("b")], vanished=1, copy_requests=1, pages=1), (), ())
    assert [(query["prefix"], query["max-keys"]) for query in store.list_requests] == [("a", "1")]


def test_an_object_that_is_said_to_be_gone_and_still_listed_is_recorded() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(404, "NoSuchKey", "Not there."))

    assert copy(store, [item("a")]) == Outcome(
        Counts(failed=1, copy_requests=1, pages=1), (Failure("a", 1, "NoSuchKey", "Not there. It is still listed."),), ()
    )


def test_a_404_that_does_not_come_from_s3_is_recorded() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: answer(404, "<html>no such page</html>"))

    assert copy(store, [item("a")]) == Outcome(Counts(failed=1, copy_requests=1), (Failure("a", 1, "HTTP 404", ""),), ())


def test_few_list_requests_about_objects_are_under_way_at_a_time() -> None:
    gone = [[item(f"{batch}-{n:02}") for n in range(40)] for batch in range(8)]
    store, under_way = FakeS3(), [0, 0]

    def serve(request: Request) -> Response:
        under_way[0] -= request.method == "GET"
        return store.serve(request)

    def seconds(request: bytes) -> float:
        is_list = request.startswith(b"GET")
        under_way[0] += is_list
        under_way[1] = max(under_way)
        return 0.5 if is_list else 0.01

    async def main() -> list[Outcome]:
        s3 = S3(lambda: CREDENTIALS, host=lambda _: fake_host(serve, seconds))
        one = Copier(s3, Pace(64, 64), full_jitter(lambda: 1.0))
        return await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in gone))

    assert [outcome.counts for outcome in run(main())] == [Counts(vanished=40, copy_requests=40, pages=40)] * 8
    assert under_way == [0, INQUIRIES]


def test_a_list_request_about_an_object_is_asked_again_while_that_may_help() -> None:
    store = FakeS3(list_faults=[SLOW_DOWN, error(500, "InternalError"), ConnectionResetError("reset")])

    assert copy(store, [item("a")]) == Outcome(Counts(vanished=1, copy_requests=1, pages=1, retries=3, throttles=1), (), ())


def test_an_object_that_no_list_request_tells_of_is_recorded_in_the_end() -> None:
    store = FakeS3(list_faults=[error(500, "InternalError")] * 1000)
    outcome = copy(store, [item("a")])

    assert outcome.failures == (Failure("a", 1, "NoSuchKey", "The specified key does not exist."),)
    assert outcome.counts.copy_requests == 1


def test_an_object_that_no_list_request_tells_of_by_the_deadline_is_handed_back() -> None:
    store = FakeS3(list_faults=[SLOW_DOWN] * 1000)
    outcome = copy(store, [item("a")], deadline=60.0)

    assert (outcome.rest, outcome.failures, outcome.counts.vanished) == ((item("a"),), (), 0)


def test_an_object_that_exists_is_skipped_where_the_job_does_not_overwrite() -> None:
    store = FakeS3.of([item("a"), item("b")], copied={"a": item("a", 7)})

    async def main() -> Outcome:
        return await copier(store).copy(JOB._replace(overwrite=False), [item("a"), item("b")], ANY_TIME, attempt=1)

    assert run(main()) == Outcome(all_copied([item("b")], skipped=1, copy_requests=1), (), ())
    assert store.copied == {"a": item("a", 7), "b": item("b")}


NO_OVERWRITE = JOB._replace(overwrite=False)
UNNAMED = error(412, "PreconditionFailed")


@pytest.mark.parametrize(
    ("listed", "found", "expected"),
    [
        (item("a"), [item("a")], Counts(skipped=1)),
        (item("a")._replace(etag=""), [item("a")], Counts(skipped=1)),
        (item("a"), [item("a")._replace(etag="new")], Counts(skipped=1, copy_requests=1, pages=1, retries=1)),
        (item("a"), [], Counts(vanished=1)),
    ],
)
def test_a_precondition_without_a_name_is_made_out_by_one_list_request(
    listed: Item, found: list[Item], expected: Counts
) -> None:
    store = FakeS3.of(found, copy_rule=lambda _key, _n: UNNAMED)

    async def main() -> Outcome:
        return await copier(store).copy(NO_OVERWRITE, [listed], ANY_TIME, attempt=1)

    assert run(main()).counts == expected + Counts(copy_requests=1, pages=1)


def test_a_precondition_without_a_name_is_the_sources_where_the_job_overwrites() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: UNNAMED)

    assert copy(store, [item("a")]).counts == Counts(failed=1, copy_requests=1, pages=1)


def test_a_precondition_without_a_name_that_the_source_fails_has_it_copied_as_it_is_now() -> None:
    store = FakeS3.of([item("a", 7)], copy_rule=lambda _key, n: UNNAMED if n == 1 else None)

    assert copy(store, [item("a")]).counts == all_copied([item("a", 7)], copy_requests=1, pages=1, retries=1)


# ------------------------------------------------------------------------------------------ properties that cost requests

WITH_ACL = JOB._replace(policy=Policy(acl="preserve", request_payer=True))
WITH_CLASS = JOB._replace(policy=Policy(storage_class="preserve"))


@dataclass
class Asked(FakeS3):
    """A store that knows ACLs, and takes note of every request."""

    acl_faults: list[Response | Exception] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def serve(self, request: Request) -> Response:
        """Answer a request."""
        self.requests.append(request)
        if "acl" not in request.query:
            return super().serve(request)
        if not self.acl_faults:
            return answer(200, ACL) if request.path[8:] in self.objects else NO_SUCH_KEY
        fault = self.acl_faults.pop(0)
        if isinstance(fault, Exception):
            raise fault
        return fault

    @property
    def copies(self) -> list[dict[str, str]]:
        """Give the headers of all requests to copy."""
        return [request.headers for request in self.requests if request.method == "PUT"]


def copy_by(job: Job, store: FakeS3, found: Iterable[Item], deadline: float = ANY_TIME, attempt: int = 1) -> Outcome:
    async def main() -> Outcome:
        return await copier(store).copy(job, found, deadline, attempt=attempt)

    return run(main())


def test_an_acl_that_is_preserved_costs_one_request_and_is_there_from_the_first_moment() -> None:
    found = [item(f"k {n}") for n in range(300)]
    store = Asked.of(found)

    outcome = copy_by(WITH_ACL, store, found)

    assert outcome == Outcome(all_copied(found), (), ())
    requests = store.requests
    assert len(requests) == 2 * len(found)
    assert all(GRANTS.items() <= headers.items() for headers in store.copies)
    assert {request.headers["x-amz-request-payer"] for request in requests} == {"requester"}


@pytest.mark.parametrize("fault", [SLOW_DOWN, error(500, "InternalError"), ConnectionResetError("reset"), DENIED])
def test_an_acl_is_asked_for_again_while_that_may_help(fault: Response | Exception) -> None:
    store = Asked.of([item("a")])
    store.acl_faults = [fault, fault]

    outcome = copy_by(WITH_ACL, store, [item("a")])

    assert (outcome.counts.copied, outcome.counts.retries, outcome.failures) == (1, 2, ())


def test_an_acl_that_may_not_be_read_fails_its_object_alone() -> None:
    store = Asked.of([item("a"), item("b")])

    async def main() -> list[Outcome]:
        one = copier(store)
        first = await one.copy(WITH_ACL, [item("b")], ANY_TIME, attempt=1)
        store.acl_faults = [DENIED]
        return [first, await one.copy(WITH_ACL, [item("a")], ANY_TIME, attempt=1)]

    assert [outcome.counts.copied for outcome in run(main())] == [1, 0]
    assert "a" not in store.copied


def test_a_store_that_answers_something_else_when_asked_for_an_acl_shows_none_of_it() -> None:
    found = [item("a"), item("b")]
    store = Asked.of(found, acl_faults=[answer(200, b"its own content"), answer(200, ACL.replace("READ", "DANCE"))])

    outcome = copy_by(WITH_ACL, store, found)

    assert [(one.key, one.code) for one in outcome.failures] == [("a", "UnknownAnswer"), ("b", "UnknownAnswer")]
    assert "content" not in outcome.failures[0].cause
    assert outcome.counts.retries == 0


def test_what_ends_the_run_or_the_environment_does_so_before_a_copy_too() -> None:
    for code, expected in (("NoSuchBucket", Stop), ("ExpiredToken", Failed)):
        with pytest.raises(expected):
            copy_by(WITH_ACL, Asked.of([item("a")], acl_faults=[error(404, code)]), [item("a")])


def test_an_object_that_is_gone_before_its_acl_is_read_counts_as_vanished() -> None:
    assert copy_by(WITH_ACL, Asked(), [item("a")]).counts == Counts(vanished=1, pages=1)


def test_what_was_not_known_in_time_is_handed_back() -> None:
    found = [item(f"k{n:03}") for n in range(400)]
    store = Asked.of(found)

    async def main() -> Outcome:
        one = Copier(store.client(1.0), Pace(4, 4), full_jitter(lambda: 1.0))
        return await one.copy(WITH_ACL, found, 10.0, attempt=1)

    outcome = run(main())
    assert 0 < outcome.counts.copied < 400
    assert sorted([*outcome.rest, *store.copied.values()]) == found


def test_a_probe_preserves_the_acl_too_and_tells_what_keeps_it_from_that() -> None:
    store = Asked.of([item("a")])

    async def main() -> list[Outcome | Failed]:
        first = await copier(store).probe(WITH_ACL, [item("a")])
        store.acl_faults = [DENIED]
        return [first, await copier(store).probe(WITH_ACL, [item("a")])]

    good, bad = run(main())
    assert good == Outcome(all_copied([item("a")]), (), ())
    assert isinstance(bad, Failed)
    assert bad.fault.next is Next.DENIED
    assert len(store.copies) == 1


def test_a_storage_class_that_is_preserved_comes_from_the_listing_and_costs_nothing() -> None:
    found = [item(f"k{n}")._replace(storage_class="GLACIER_IR" if n % 3 else "STANDARD") for n in range(50)]
    store = Asked.of(found)

    assert copy_by(WITH_CLASS, store, found) == Outcome(all_copied(found), (), ())
    classes = {headers["x-amz-copy-source"][8:]: headers["x-amz-storage-class"] for headers in store.copies}
    assert classes == {it.key: it.storage_class for it in found}


def test_a_storage_class_that_a_retry_does_not_know_is_looked_up() -> None:
    now = item("a")._replace(storage_class="STANDARD_IA")
    store = Asked.of([now])

    outcome = copy_by(WITH_CLASS, store, [Item("a", 1, "")])

    assert outcome == Outcome(all_copied([now], pages=1), (), ())
    assert [(h["x-amz-storage-class"], h["x-amz-copy-source-if-match"]) for h in store.copies] == [
        ("STANDARD_IA", f'"{now.etag}"')
    ]
    assert copy_by(WITH_CLASS, Asked(), [Item("a", 1, "")]).counts.vanished == 1


@pytest.mark.parametrize("exists", [UNNAMED, error(412, "PreconditionFailed", extra="<Condition>If-None-Match</Condition>")])
@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([TimeoutError("late")], "copied"),
        ([ConnectionResetError("reset"), SLOW_DOWN], "copied"),
        ([SLOW_DOWN], "skipped"),
        ([], "skipped"),
    ],
)
def test_what_exists_after_an_answer_was_lost_counts_as_copied(
    exists: Response, faults: list[Response | Exception], expected: str
) -> None:
    store = FakeS3.of([item("a")])
    store.copy_faults["a"] = [*faults, exists]

    async def main() -> Outcome:
        return await copier(store).copy(NO_OVERWRITE, [item("a")], ANY_TIME, attempt=1)

    counts = run(main()).counts
    assert (counts.copied, counts.copied_bytes, counts.skipped) == ((1, 1, 0) if expected == "copied" else (0, 0, 1))


def test_what_exists_where_no_connection_could_be_opened_at_first_counts_as_skipped() -> None:
    store = FakeS3.of([item("a")], copied={"a": item("a")})
    refusals = iter([True])

    async def main() -> Outcome:
        async def dial() -> Connection:
            if next(refusals, False):
                raise ConnectionRefusedError("nobody")
            return await ready.dial()

        ready = fake_host(store.serve)
        one = Copier(S3(lambda: CREDENTIALS, host=lambda _: Host(dial)), Pace(), full_jitter(lambda: 1.0))
        return await one.copy(NO_OVERWRITE, [item("a")], ANY_TIME, attempt=1)

    assert run(main()).counts == Counts(skipped=1, copy_requests=2, retries=1)


def test_what_no_copy_object_copies_is_recorded_without_a_request() -> None:
    job = JOB._replace(source=JOB.source._replace(prefix="p/"))

    async def main() -> Outcome:
        return await copier(FakeS3()).copy(job, [item("p/")], ANY_TIME, attempt=1)

    outcome = run(main())
    assert outcome.counts == Counts(failed=1)
    assert [(failure.key, failure.code) for failure in outcome.failures] == [("p/", "EmptyKey")]


@given(st.permutations(["p/", "p/a", "p/b", "p/c"]), st.integers(0, 4))
def test_what_a_probe_leaves_is_what_comes_last(order: list[str], denied: int) -> None:
    job = JOB._replace(source=JOB.source._replace(prefix="p/"))
    found = [item(key) for key in order]
    store = FakeS3.of(found)
    store.copy_faults = defaultdict(list, {it.key: [SLOW_DOWN] for it in found[:denied]})

    async def main() -> Outcome | Failed:
        return await copier(store).probe(job, found)

    outcome = run(main())
    if isinstance(outcome, Outcome):
        ended = outcome.counts.copied + outcome.counts.failed
        assert outcome.rest == tuple(found[ended:])
        assert {f"p/{key}" for key in store.copied} | {one.key for one in outcome.failures} == {it.key for it in found[:ended]}


def test_skipping_what_exists_is_getting_on() -> None:
    found = [item(f"k{n:03}") for n in range(200)]
    refused = error(412, "PreconditionFailed", extra="<Condition>If-None-Match</Condition>")
    told: list[str] = []

    async def main() -> Counts:
        store = FakeS3.of(found, copy_rule=lambda key, n: SLOW_DOWN if key < "k010" and n < 150 else refused)
        one = copier(store, Pace(1, 1), 0.2)

        async def look() -> None:
            while True:
                told.append(f"{one.trouble()}")
                await aio.sleep(1.0)

        looking = aio.create_task(look())
        outcome = await one.copy(NO_OVERWRITE, found, ANY_TIME, attempt=1)
        looking.cancel()
        return outcome.counts

    assert run(main()).skipped == 200
    assert len(told) > 50
    assert {*told[15:]} == {"None"}  # from the first that is skipped on


def test_what_keeps_everything_from_being_copied_is_told_until_something_is() -> None:
    found, begins, ends = [item(f"k{n}") for n in range(20)], 20.0, 60.0
    told: list[tuple[float, str]] = []

    async def main() -> Counts:
        clock = aio.get_running_loop().time
        broken = error(500, "InternalError", "of its own")
        one = copier(FakeS3.of(found, copy_rule=lambda *_: broken if begins <= clock() < ends else None))

        async def look() -> None:
            while True:
                told.append((clock(), f"{one.trouble()}"))
                await aio.sleep(1.0)

        looking = aio.create_task(look())
        await one.copy(JOB, found[:1], ANY_TIME, attempt=1)
        await aio.sleep(begins - clock())
        outcome = await one.copy(JOB, found, ANY_TIME, attempt=1)
        await aio.sleep(2.0)
        looking.cancel()
        return outcome.counts

    counts = run(main())
    assert (counts.copied, counts.failed) == (20, 0)
    assert {text for when, text in told if begins + 25 <= when < ends} == {"InternalError: of its own"}
    assert {text for when, text in told if when < begins + 10} == {told[-1][1]} == {"None"}


# -------------------------------------------------------------------------------------------------------------- permissions


def test_denials_that_pass_while_nothing_was_copied_yet_fail_nothing() -> None:
    found = [item(f"k{n}") for n in range(40)]
    store = FakeS3.of(found, copy_rule=lambda _key, n: DENIED if n < 60 else None)
    outcome = copy(store, found)

    assert (outcome.counts.copied, outcome.failures, outcome.rest) == (40, (), ())


@pytest.mark.parametrize("attempt", [1, 2])
def test_denials_that_last_give_the_attempt_up(attempt: int) -> None:
    found = [item(f"k{n}") for n in range(40)]
    store = FakeS3.of(found, copy_rule=lambda _key, _n: DENIED)

    async def main() -> float:
        with pytest.raises(Failed, match="copying: AccessDenied"):
            await (one := copier(store)).copy(JOB, found, ANY_TIME, attempt=attempt)
        await one.stop()
        return aio.get_running_loop().time()

    assert PROOF_SECONDS < run(main()) < PROOF_SECONDS + 10.5


def test_denials_that_last_are_believed_at_the_third_delivery() -> None:
    found = [item(f"k{n:03}") for n in range(100)]
    store = FakeS3.of(found, copy_rule=lambda _key, _n: DENIED)

    async def main() -> tuple[Outcome, float]:
        outcome = await copier(store).copy(JOB, found, ANY_TIME, attempt=3)
        return outcome, aio.get_running_loop().time()

    outcome, seconds = run(main())
    assert sorted(outcome.failures, key=lambda failure: failure.key) == [
        Failure(it.key, 1, "AccessDenied", "Access Denied") for it in found
    ]
    assert seconds < PROOF_SECONDS + 15


def test_once_something_was_copied_a_denial_is_about_the_object() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["b"] = [DENIED] * 1000

    async def main() -> list[Outcome]:
        one = copier(store)
        return [await one.copy(JOB, [item(key)], ANY_TIME, attempt=1) for key in "ab"]

    assert run(main()) == [
        Outcome(all_copied([item("a")]), (), ()),
        Outcome(Counts(failed=1, copy_requests=1, pages=1), (Failure("b", 1, "AccessDenied", "Access Denied"),), ()),
    ]


@pytest.mark.parametrize("neighbour", ["gone+", "gone/"])
def test_a_denied_object_that_is_gone_counts_as_vanished_by_one_list_request(neighbour: str) -> None:
    store = FakeS3.of([item("a"), item(neighbour)])
    store.copy_faults["gone"] = [DENIED]

    async def main() -> list[Outcome]:
        one = copier(store)
        return [await one.copy(JOB, [item(key)], ANY_TIME, attempt=1) for key in ("a", "gone")]

    assert run(main())[1] == Outcome(Counts(vanished=1, copy_requests=1, pages=1), (), ())
    assert [(query["prefix"], query["max-keys"]) for query in store.list_requests] == [("gone", "1")]


def test_many_items_that_have_grown_are_left_to_be_copied_by_parts_and_hold_up_no_others() -> None:
    grown = [item(f"a{n:02}", JOB.multipart_bytes) for n in range(MOST_TROUBLED + 8)]
    others = [item(f"z{n:03}") for n in range(200)]
    store = FakeS3.of([*grown, *others])

    outcome = copy(store, [item(it.key) for it in (*grown, *others)])

    assert sorted(outcome.rest) == grown
    assert outcome.counts.copied == len(others)


@pytest.mark.parametrize("tasks", [1, 4])
def test_after_minutes_without_any_answer_everything_is_copied(tasks: int) -> None:
    batches = [[item(f"{task}k{n:04}") for n in range(600)] for task in range(tasks)]
    store = FakeS3.of(it for batch in batches for it in batch)

    def seconds(_: bytes) -> float:
        return 1e9 if 2.0 <= aio.get_running_loop().time() < 75.0 else 0.05

    async def main() -> list[Outcome]:
        host = fake_host(store.serve, seconds)
        pace = Pace(16, 128, most_a_second=100.0 * tasks)  # so that there is something left to copy then
        one = Copier(S3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: host), pace, full_jitter(Random(1).random))  # noqa: S311
        return await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches))

    assert [(outcome.counts.copied, outcome.failures) for outcome in run(main())] == [(600, ())] * tasks


# ------------------------------------------------------------------------------------------------------ trouble of our own


def test_a_key_that_no_request_can_name_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [item(f"k{n}") for n in range(40)]
    write = JobCopies._write

    def fussy(self: JobCopies, some: list[Item], now: float) -> list[bytes]:
        if {"k0", "k20"} & {one.key for one in some}:
            raise ValueError("no such character")
        return write(self, some, now)

    monkeypatch.setattr(JobCopies, "_write", fussy)
    pace = Pace(4, 4)

    async def main() -> Outcome:
        return await copier(FakeS3.of(found), pace).copy(JOB, found, ANY_TIME, attempt=1)

    outcome = run(main())
    assert outcome.counts == all_copied([it for it in found if it.key not in ("k0", "k20")], failed=2)
    assert set(outcome.failures) == {Failure(key, 1, "ValueError", "no such character") for key in ("k0", "k20")}
    assert pace.in_flight == 0


def test_where_no_request_of_a_whole_window_can_be_written_the_others_are_copied_all_the_same() -> None:
    good = [item(f"z{n}") for n in range(20)]
    found = [*(Item(f"a{n}", 1, "\u65e5") for n in range(40)), *good]  # a header holds no such ETag
    store = FakeS3.of(good)

    assert copy(store, found).counts == all_copied(good, failed=40)


def test_an_answer_that_cannot_be_read_is_asked_for_again() -> None:
    pace, store = Pace(4, 4), FakeS3.of([item("a")])
    store.copy_faults["a"] = [error(500, "InternalError")]

    async def main() -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copying, "read_copy", once_broken(read_copy))
            return await copier(store, pace).copy(JOB, [item("a")], ANY_TIME, attempt=1)

    assert run(main()).counts.copied == 1
    assert pace.in_flight == 0


def once_broken(read: Callable[[Response], Fault | None]) -> Callable[[Response], Fault | None]:
    """Give a function that fails when it is first called."""
    broken = iter([True])

    def call(response: Response) -> Fault | None:
        if next(broken, False):
            raise OverflowError("too large")
        return read(response)

    return call


def test_a_connection_that_cannot_be_opened_for_a_reason_of_our_own_costs_the_pace_nothing() -> None:
    async def dial() -> Connection:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        pace = Pace(4, 4)
        one = Copier(S3(lambda: CREDENTIALS, host=lambda _: Host(dial)), pace, full_jitter(lambda: 1.0))
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await one.copy(JOB, [item(f"k{n}") for n in range(20)], ANY_TIME, attempt=1)
            await aio.sleep(0)
            assert pace.in_flight == 0

    run(main())


def test_connections_that_open_once_nobody_waits_any_more_begin_no_copies() -> None:
    found = [item(f"k{n}") for n in range(50)]
    store, pace = FakeS3.of(found), Pace(8, 8)

    async def main() -> None:
        async def dial() -> Connection:
            await aio.sleep(0.3)
            return await ready.dial()

        ready = fake_host(store.serve)
        one = Copier(S3(lambda: CREDENTIALS, host=lambda _: Host(dial)), pace, full_jitter(lambda: 1.0))
        running = aio.create_task(one.copy(JOB, found, ANY_TIME, attempt=1))
        await aio.sleep(0.1)
        running.cancel()
        await aio.gather(running, return_exceptions=True)
        await one.land(5.0)

    run(main())
    assert (store.copy_requests.total(), pace.in_flight) == (0, 0)


# ------------------------------------------------------------------------------------------------------------- the end of it


def test_at_the_deadline_the_rest_is_handed_back() -> None:
    found = [item(f"k{n:04}") for n in range(1000)]
    store = FakeS3.of(found)

    async def main() -> tuple[Outcome, float]:
        outcome = await copier(store, Pace(10, 10), seconds=1.0).copy(JOB, found, 20.0, attempt=1)
        return outcome, aio.get_running_loop().time()

    outcome, seconds = run(main())
    assert outcome == Outcome(all_copied(found[:200]), (), tuple(found[200:]))
    assert seconds == pytest.approx(20.0)


def test_an_object_named_without_its_size_has_the_time_that_its_size_asks_for() -> None:
    slow = item("slow", 900 * 1024**2)
    store = FakeS3.of([slow], copy_seconds={"slow": 40.0})

    outcome = copy(store, [Item("slow", 0, "")])

    assert outcome == Outcome(Counts(copied=1, copied_bytes=slow.size, copy_requests=2, retries=1, pages=1), (), ())


def test_where_such_an_object_may_not_be_listed_it_fails_alone() -> None:
    store = FakeS3.of([item("slow"), item("a")], copy_seconds={"slow": 40.0}, list_faults=[DENIED] * 9)

    outcome = copy(store, [Item("slow", 0, ""), item("a")])

    assert (outcome.counts.copied, [failure.code for failure in outcome.failures]) == (1, ["TimeoutError"])


def test_copies_that_outlast_the_deadline_by_much_are_handed_back_with_nothing_counted() -> None:
    found = [item("fast"), item("slow", 5 * 1024**3)]
    store = FakeS3.of(found)
    store.copy_seconds["slow"] = 200.0

    async def main() -> Outcome:
        one = copier(store, seconds=0.05)
        began = aio.get_running_loop().time()
        outcome = await one.copy(JOB, found, began + 100, attempt=1)
        assert aio.get_running_loop().time() - began == pytest.approx(100 + LANDING_SECONDS, abs=1)
        await one.stop()
        return outcome

    outcome = run(main())

    assert [it.key for it in outcome.rest] == ["slow"]
    assert outcome.counts.copied == 1


def test_no_request_is_sent_after_the_deadline() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: SLOW_DOWN)
    sent: list[float] = []

    def serve(request: Request) -> Response:
        sent.append(aio.get_running_loop().time())
        return store.serve(request)

    async def main() -> Outcome:
        s3 = S3(store.client().credentials, host=lambda _: fake_host(serve, 0.0))
        return await Copier(s3, Pace(), full_jitter(lambda: 1.0)).copy(JOB, [item("a")], 5.0, attempt=1)

    assert run(main()).rest == (item("a"),)
    assert max(sent) < 5.0


@pytest.mark.parametrize(("code", "kind"), [("NoSuchBucket", "not_found"), ("InvalidAccessKeyId", "not_permitted")])
def test_a_fault_of_the_whole_run_stops_it(code: str, kind: str) -> None:
    found = [item(f"k{n}") for n in range(40)]
    store = FakeS3.of(found, copy_rule=lambda _key, n: error(404, code) if n > 20 else None)

    async def main() -> Stop:
        one = copier(store)
        with pytest.raises(Stop) as stopped:
            await one.copy(JOB, found, ANY_TIME, attempt=1)
        await one.stop()
        return stopped.value

    stop = run(main())
    assert (stop.kind, stop.cause) == (kind, f"{code}: because")


def test_expired_credentials_give_the_attempt_up() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(400, "ExpiredToken"))

    async def main() -> Fault:
        with pytest.raises(Failed) as failed:
            await copier(store).copy(JOB, [item("a")], ANY_TIME, attempt=1)
        return failed.value.fault

    assert run(main()).next is Next.EXPIRED


def test_a_task_that_stops_does_not_disturb_the_others() -> None:
    good = [item(f"k{n}") for n in range(40)]
    store = FakeS3.of(good)
    store.copy_faults["bad"] = [error(404, "NoSuchBucket")]

    async def main() -> list[Outcome | BaseException]:
        one = copier(store)
        batches = ([item("bad"), *[item(f"never{n}") for n in range(40)]], good)
        return await aio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches), return_exceptions=True)

    stopped, outcome = run(main())
    assert isinstance(stopped, Stop)
    assert outcome == Outcome(all_copied(good), (), ())


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.06, 1.0, 7.77])
def test_cancelling_leaves_nothing_pending_and_the_copier_works_on(seconds: float) -> None:
    found = [item(f"k{n}") for n in range(500)]
    store = FakeS3.of(found)

    async def main() -> Outcome:
        one = copier(store, Pace(16, 16), seconds=0.5)
        running = aio.create_task(one.copy(JOB, found, ANY_TIME, attempt=1))
        await aio.sleep(seconds)
        running.cancel()
        await aio.gather(running, return_exceptions=True)
        await one.stop()
        assert aio.all_tasks() == {aio.current_task()}
        return await one.copy(JOB, found, ANY_TIME, attempt=1)

    assert run(main()) == Outcome(all_copied(found), (), ())


def test_connections_that_were_never_begun_are_forgotten_when_stopped() -> None:
    found = [item(f"k{n}") for n in range(50)]

    async def main() -> Outcome:
        one = copier(FakeS3.of(found), Pace(8, 8))
        abandoned = one.copy(JOB, found, ANY_TIME, attempt=1)
        abandoned.send(None)  # asks for connections, which have not begun when they are stopped
        abandoned.close()
        await one.stop()
        return await one.copy(JOB, found, ANY_TIME, attempt=1)

    assert run(main()) == Outcome(all_copied(found), (), ())


# -------------------------------------------------------------------------------------------------------------------- probes


def probe(store: FakeS3, found: list[Item]) -> Outcome | Failed:
    async def main() -> Outcome | Failed:
        return await copier(store).probe(JOB, found)

    return run(main())


def test_a_probe_copies_one_item_and_gives_back_the_others() -> None:
    found = [item("a"), item("b")]

    assert probe(FakeS3.of(found), found) == Outcome(all_copied(found[:1]), (), (item("b"),))


def test_a_probe_whose_first_item_is_denied_and_second_copied_records_the_first() -> None:
    found = [item("a"), item("b"), item("c")]
    store = FakeS3.of(found)
    store.copy_faults["a"] = [DENIED] * 2

    assert probe(store, found) == Outcome(
        all_copied([item("b")], failed=1, copy_requests=2, pages=1),
        (Failure("a", 1, "AccessDenied", "Access Denied"),),
        (item("c"),),
    )


def test_a_probe_of_which_all_is_denied_has_failed() -> None:
    found = [item("a"), item("b")]
    failed = probe(FakeS3.of(found, copy_rule=lambda _key, _n: DENIED), found)

    assert isinstance(failed, Failed)
    assert failed.fault == Fault(Next.DENIED, "AccessDenied", "Access Denied")


def test_a_probe_of_a_store_that_lacks_what_copies_ask_for_has_failed() -> None:
    found = [item("gone"), item("a"), item("b")]
    failed = probe(FakeS3.of(found[1:], copy_rule=lambda _key, _n: error(501, "NotImplemented", "no ACLs here")), found)

    assert isinstance(failed, Failed)
    assert failed.fault == Fault(Next.RECORD, "NotImplemented", "no ACLs here")


def test_a_probe_records_an_item_that_a_store_cannot_copy_where_it_copies_another() -> None:
    found = [item("a"), item("b")]
    store = FakeS3.of(found)
    store.copy_faults["a"] = [error(501, "NotImplemented")]
    outcome = probe(store, found)

    assert isinstance(outcome, Outcome)
    assert [failure.key for failure in outcome.failures] == ["a"]


def test_a_probe_goes_on_behind_items_that_prove_nothing() -> None:
    found = [item("gone"), item("archived"), item("a"), item("b")]
    store = FakeS3.of(found[1:])
    store.copy_faults["archived"] = [error(403, "InvalidObjectState")]
    outcome = probe(store, found)

    assert isinstance(outcome, Outcome)
    assert outcome.counts == all_copied([item("a")], vanished=1, failed=1, copy_requests=2, pages=1)
    assert outcome.rest == (item("b"),)


@pytest.mark.parametrize("fault", [error(500, "InternalError"), SLOW_DOWN, TimeoutError("late")])
def test_a_probe_passes_over_items_whose_faults_may_pass_and_ends_them_like_any_other(fault: Response | Exception) -> None:
    found = [item("a"), item("b"), item("c"), item("d")]
    store = FakeS3.of(found)
    store.copy_faults = defaultdict(list, a=[fault] * 1000, b=[fault])
    outcome = probe(store, found)

    assert isinstance(outcome, Outcome)
    assert (outcome.counts.copied, outcome.rest) == (2, (item("d"),))
    assert [failure.key for failure in outcome.failures] == ["a"]
    assert outcome.counts.copy_requests == store.copy_requests.total()


def test_a_probe_gives_up_in_time_where_nothing_proves_anything() -> None:
    found = [item(f"k{n}") for n in range(10)]
    store = FakeS3.of(found, copy_seconds={it.key: 1000.0 for it in found})

    async def main() -> tuple[Outcome | Failed, float]:
        outcome = await copier(store).probe(JOB, found, 30.0)
        return outcome, aio.get_running_loop().time()

    failed, seconds = run(main())
    assert isinstance(failed, Failed)
    assert failed.fault.code == "TimeoutError"
    assert seconds < 60


def test_a_probe_of_what_exists_already_proves_the_right_to_copy() -> None:
    store = FakeS3.of([item("a"), item("b")], copy_rule=lambda _key, _n: UNNAMED)

    async def main() -> Outcome | Failed:
        return await copier(store).probe(NO_OVERWRITE, [item("a"), item("b")])

    assert run(main()) == Outcome(Counts(skipped=1, copy_requests=1, pages=1), (), (item("b"),))


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchBucket"), (503, "SlowDown"), (400, "ExpiredToken"), (500, "")])
def test_a_probe_that_cannot_tell_gives_the_fault(status: int, code: str) -> None:
    failed = probe(FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(status, code)), [item("a")])

    assert isinstance(failed, Failed)
    assert failed.fault.code == (code or "HTTP 500")
