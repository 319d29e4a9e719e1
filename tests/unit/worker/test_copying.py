"""Copying the items of many tasks over one window, against a store that answers in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.copying import ITEM_TRIES, LANDING_SECONDS, PROOF_SECONDS, Copier, Outcome
from s3bulkcopy.worker.failures import Failed, Fault, Next, Stop
from s3bulkcopy.worker.model import MAX_COPY_OBJECT_BYTES, Counts, Failure, Item
from s3bulkcopy.worker.pacing import Window, full_jitter
from s3bulkcopy.worker.s3 import S3
from tests.unit.worker.worker_fakes import (
    COPIED,
    CREDENTIALS,
    DENIED,
    JOB,
    NOW,
    SLOW_DOWN,
    FakeS3,
    error,
    fake_host,
    item,
    items,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s3bulkcopy.worker.http import Host, Response
    from tests.unit.worker.worker_fakes import Request

ANY_TIME = float("inf")


def copier(store: FakeS3, window: Window | None = None, seconds: float = 0.05) -> Copier:
    return Copier(store.client(seconds), window or Window(), full_jitter(lambda: 1.0))


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
@given(st.lists(st.lists(items.map(lambda it: replace(it, size=it.size % 10**6)), max_size=20), max_size=6), st.integers(1, 40))
def test_the_items_of_all_tasks_are_copied(batches: list[list[Item]], window: int) -> None:
    store = FakeS3.of(reversed([it for batch in batches for it in batch]))
    batches = [[it for it in batch if store.objects[it.key] == it] for batch in batches]

    async def main() -> list[Outcome]:
        one = copier(store, Window(window))
        return await asyncio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches))

    assert run(main()) == [Outcome(all_copied(batch), (), ()) for batch in batches]
    assert store.copied == {it.key: it for batch in batches for it in batch}


def test_work_of_several_tasks_is_interleaved() -> None:
    store = FakeS3.of(item(f"{batch}{n}") for batch in "abc" for n in range(4))

    async def main() -> None:
        one = copier(store, Window(1, 1))
        await asyncio.gather(*(one.copy(JOB, [item(f"{b}{n}") for n in range(4)], ANY_TIME, attempt=1) for b in "abc"))

    run(main())
    assert [key[0] for key in store.copied] == ["a", "b", "c"] * 4


def test_there_are_never_more_requests_on_their_way_than_the_window_allows() -> None:
    on_their_way, most = 0, 0

    @dataclass
    class Counted:
        usable = True

        async def exchange(self, _request: bytes, _timeout_seconds: float) -> Response:
            nonlocal on_their_way, most
            on_their_way += 1
            most = max(most, on_their_way)
            await asyncio.sleep(0.1)
            on_their_way -= 1
            return COPIED

        def close(self) -> None:
            raise AssertionError

    async def main() -> Outcome:
        host = fake_host(lambda _: COPIED)

        async def dial() -> Counted:
            return Counted()

        host._dial = dial
        s3 = S3(lambda: FakeS3().client().credentials(), host=lambda _: host)
        return await Copier(s3, Window(4, 10), full_jitter(lambda: 1.0)).copy(
            JOB, [item(str(n)) for n in range(200)], ANY_TIME, attempt=1
        )

    assert run(main()).counts.copied == 200
    assert 4 <= most <= 10


def test_a_task_without_items_ends_at_once() -> None:
    assert copy(FakeS3(), []) == Outcome(Counts(), (), ())


# ------------------------------------------------------------------------------------------------------------- throttling


def test_throttles_shrink_the_window_and_everything_still_arrives() -> None:
    found = [item(f"k{n}") for n in range(100)]
    store = FakeS3.of(found)
    store.copy_rule = lambda _key, n: SLOW_DOWN if n % 3 == 0 else None
    window = Window(32, 64)

    async def main() -> Outcome:
        return await copier(store, window).copy(JOB, found, ANY_TIME, attempt=1)

    outcome = run(main())
    throttles = store.copy_requests.total() // 3
    assert outcome == Outcome(all_copied(found, copy_requests=throttles, retries=throttles, throttles=throttles), (), ())
    assert window.size < 32


def test_a_store_that_always_throttles_gets_ever_fewer_requests_and_the_items_back() -> None:
    found = [item(f"k{n}") for n in range(50)]
    store = FakeS3.of(found, copy_rule=lambda _key, _n: SLOW_DOWN)
    window = Window(32, 64)

    async def main() -> Outcome:
        return await copier(store, window).copy(JOB, found, 60.0, attempt=1)

    outcome = run(main())
    assert (sorted(outcome.rest, key=lambda it: it.key), outcome.failures) == (sorted(found, key=lambda it: it.key), ())
    assert outcome.counts.throttles == outcome.counts.copy_requests == store.copy_requests.total()
    assert window.size < 4


# ----------------------------------------------------------------------------------------------------- faults of one object


def test_a_fault_that_passes_is_retried() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["a"] = [error(500, "InternalError"), TimeoutError("late"), ConnectionResetError("reset")]

    assert copy(store, [item("a"), item("b")]) == Outcome(
        all_copied([item("a"), item("b")], copy_requests=3, retries=3), (), ()
    )


def test_a_fault_that_does_not_pass_is_recorded_after_so_many_tries() -> None:
    store = FakeS3.of([item("a"), item("b")])
    store.copy_faults["a"] = [error(500, "InternalError", "sorry")] * 1000
    expected = all_copied([item("b")], copy_requests=ITEM_TRIES, retries=ITEM_TRIES - 1, failed=1)

    assert copy(store, [item("a"), item("b")]) == Outcome(expected, (Failure("a", 1, "InternalError", "sorry"),), ())
    assert store.copy_requests["a"] == ITEM_TRIES


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


def test_an_object_that_changed_since_it_was_listed_is_recorded() -> None:
    store = FakeS3.of([replace(item("a"), etag='"new"')])

    assert copy(store, [item("a")]).failures == (Failure("a", 1, "PreconditionFailed", "because"),)


def test_an_object_that_is_gone_is_counted_as_vanished() -> None:
    assert copy(FakeS3.of([item("b")]), [item("a"), item("b")]) == Outcome(
        all_copied([item("b")], vanished=1, copy_requests=1), (), ()
    )


def test_an_object_that_exists_is_skipped_where_the_job_does_not_overwrite() -> None:
    store = FakeS3.of([item("a"), item("b")], copied={"a": item("a", 7)})

    async def main() -> Outcome:
        return await copier(store).copy(replace(JOB, overwrite=False), [item("a"), item("b")], ANY_TIME, attempt=1)

    assert run(main()) == Outcome(all_copied([item("b")], skipped=1, copy_requests=1), (), ())
    assert store.copied == {"a": item("a", 7), "b": item("b")}


def test_what_no_copy_object_copies_is_recorded_without_a_request() -> None:
    huge = item("p/huge", MAX_COPY_OBJECT_BYTES + 1)
    job = replace(JOB, source=replace(JOB.source, prefix="p/"))

    async def main() -> Outcome:
        return await copier(FakeS3()).copy(job, [huge, item("p/")], ANY_TIME, attempt=1)

    outcome = run(main())
    assert outcome.counts == Counts(failed=2)
    assert [(failure.key, failure.code) for failure in outcome.failures] == [
        ("p/huge", "EntityTooLarge"),
        ("p/", "EmptyKey"),
    ]


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
        return asyncio.get_running_loop().time()

    assert PROOF_SECONDS < run(main()) < PROOF_SECONDS + 10.5


def test_denials_that_last_are_believed_at_the_third_delivery() -> None:
    found = [item(f"k{n:03}") for n in range(100)]
    store = FakeS3.of(found, copy_rule=lambda _key, _n: DENIED)

    async def main() -> tuple[Outcome, float]:
        outcome = await copier(store).copy(JOB, found, ANY_TIME, attempt=3)
        return outcome, asyncio.get_running_loop().time()

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
        Outcome(Counts(failed=1, copy_requests=2), (Failure("b", 1, "AccessDenied", "Access Denied"),), ()),
    ]


@pytest.mark.parametrize("neighbour", ["gone+", "gone/"])
def test_a_denied_object_that_is_gone_counts_as_vanished_by_one_list_request(neighbour: str) -> None:
    store = FakeS3.of([item("a"), item(neighbour)])
    store.copy_faults["gone"] = [DENIED]

    async def main() -> list[Outcome]:
        one = copier(store)
        return [await one.copy(JOB, [item(key)], ANY_TIME, attempt=1) for key in ("a", "gone")]

    assert run(main())[1] == Outcome(Counts(vanished=1, copy_requests=2), (), ())
    assert [(query["prefix"], query["max-keys"]) for query in store.list_requests] == [("gone", "1")]


# ------------------------------------------------------------------------------------------------------------- the end of it


def test_at_the_deadline_the_rest_is_handed_back() -> None:
    found = [item(f"k{n:04}") for n in range(1000)]
    store = FakeS3.of(found)

    async def main() -> tuple[Outcome, float]:
        outcome = await copier(store, Window(10, 10), seconds=1.0).copy(JOB, found, 20.0, attempt=1)
        return outcome, asyncio.get_running_loop().time()

    outcome, seconds = run(main())
    assert outcome == Outcome(all_copied(found[:200]), (), tuple(found[200:]))
    assert seconds == pytest.approx(20.0)


class HangingS3(S3):
    """A store that never answers about one key."""

    async def ask(self, host: Host, request: bytes, timeout_seconds: float) -> Response | Fault:
        if b"/slow " in request:
            await asyncio.Event().wait()
        return await super().ask(host, request, timeout_seconds)


def test_copies_that_outlast_the_deadline_by_much_are_handed_back_with_nothing_counted() -> None:
    found = [item("fast"), item("slow")]
    store = FakeS3.of(found)

    async def main() -> Outcome:
        s3 = HangingS3(lambda: CREDENTIALS, now=lambda: NOW, host=lambda _: fake_host(store.serve, 0.05))
        one = Copier(s3, Window(), full_jitter(lambda: 1.0))
        began = asyncio.get_running_loop().time()
        outcome = await one.copy(JOB, found, began + 100, attempt=1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(100 + LANDING_SECONDS, abs=1)
        await one.stop()
        return outcome

    outcome = run(main())

    assert [it.key for it in outcome.rest] == ["slow"]
    assert outcome.counts.copied == 1


def test_no_request_is_sent_after_the_deadline() -> None:
    store = FakeS3.of([item("a")], copy_rule=lambda _key, _n: SLOW_DOWN)
    sent: list[float] = []

    def serve(request: Request) -> Response:
        sent.append(asyncio.get_running_loop().time())
        return store.serve(request)

    async def main() -> Outcome:
        s3 = S3(store.client().credentials, host=lambda _: fake_host(serve, 0.0))
        return await Copier(s3, Window(), full_jitter(lambda: 1.0)).copy(JOB, [item("a")], 5.0, attempt=1)

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
        return await asyncio.gather(*(one.copy(JOB, batch, ANY_TIME, attempt=1) for batch in batches), return_exceptions=True)

    stopped, outcome = run(main())
    assert isinstance(stopped, Stop)
    assert outcome == Outcome(all_copied(good), (), ())


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.06, 1.0, 7.77])
def test_cancelling_leaves_nothing_pending_and_the_copier_works_on(seconds: float) -> None:
    found = [item(f"k{n}") for n in range(500)]
    store = FakeS3.of(found)

    async def main() -> Outcome:
        one = copier(store, Window(16, 16), seconds=0.5)
        running = asyncio.create_task(one.copy(JOB, found, ANY_TIME, attempt=1))
        await asyncio.sleep(seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await one.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return await one.copy(JOB, found, ANY_TIME, attempt=1)

    assert run(main()) == Outcome(all_copied(found), (), ())


def test_lanes_that_never_began_are_forgotten_when_stopped() -> None:
    found = [item(f"k{n}") for n in range(50)]

    async def main() -> Outcome:
        one = copier(FakeS3.of(found), Window(8, 8))
        abandoned = one.copy(JOB, found, ANY_TIME, attempt=1)
        abandoned.send(None)  # opens its lanes, which have not begun when they are stopped
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
    store.copy_faults["a"] = [DENIED]

    assert probe(store, found) == Outcome(
        all_copied([item("b")], failed=1, copy_requests=2),
        (Failure("a", 1, "AccessDenied", "Access Denied"),),
        (item("c"),),
    )


def test_a_probe_of_which_all_is_denied_has_failed() -> None:
    found = [item("a"), item("b")]
    failed = probe(FakeS3.of(found, copy_rule=lambda _key, _n: DENIED), found)

    assert isinstance(failed, Failed)
    assert failed.fault == Fault(Next.DENIED, "AccessDenied", "Access Denied")


def test_a_probe_goes_on_behind_items_that_prove_nothing() -> None:
    found = [item("huge", MAX_COPY_OBJECT_BYTES + 1), item("gone"), item("archived"), item("a"), item("b")]
    store = FakeS3.of([found[0], *found[2:]])
    store.copy_faults["archived"] = [error(403, "InvalidObjectState")]
    outcome = probe(store, found)

    assert isinstance(outcome, Outcome)
    assert outcome.counts == all_copied([item("a")], vanished=1, failed=2, copy_requests=2)
    assert outcome.rest == (item("b"),)


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchBucket"), (503, "SlowDown"), (400, "ExpiredToken"), (500, "")])
def test_a_probe_that_cannot_tell_gives_the_fault(status: int, code: str) -> None:
    failed = probe(FakeS3.of([item("a")], copy_rule=lambda _key, _n: error(status, code)), [item("a")])

    assert isinstance(failed, Failed)
    assert failed.fault.code == (code or "HTTP 500")
