"""Packing: nothing is lost, and every message fits, the one that reports failure of every item included."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.failures import classify
from s3bulkcopy.worker.model import (
    COUNT_NAMES,
    MAX_KEY_BYTES,
    Attempt,
    CopyTask,
    Counts,
    Done,
    Failure,
    Item,
    Job,
    Location,
    encode_event,
    encode_task,
)
from s3bulkcopy.worker.packing import BATCH_WORK_SECONDS, Packer, work_seconds
from tests.unit.worker.worker_fakes import JOB, characters, etags, item, items, prefixes


def _longest(c: str) -> str:
    return c * (MAX_KEY_BYTES // len(c.encode()))


long_items = st.builds(Item, characters.map(_longest), st.integers(0, 10**7), etags)
lists_of_items = st.one_of(
    st.lists(items, max_size=40),
    st.builds(lambda some, times: some * times, st.lists(long_items, min_size=1, max_size=5), st.integers(1, 60)),
)
jobs = st.builds(
    Job,
    st.just("20261123-abcdef"),
    st.builds(Location, st.just("b" * 63), prefixes, st.just("eu-west-1"), st.just("https://x" + "b" * 80)),
    st.builds(Location, st.just("b" * 63), prefixes, st.just("eu-west-1"), st.just("https://x" + "b" * 80)),
    st.booleans(),
    st.integers(1, 1000),
    st.integers(65_536, 1_048_576),
)
several = settings(max_examples=40, deadline=None)


def pack(job: Job, found: list[Item], pieces: int = 1) -> list[tuple[Item, ...]]:
    packer = Packer(job)
    step = max(1, len(found) // pieces)
    batches = [batch for n in range(0, len(found), step) for batch in packer.add(found[n : n + step])]
    return [*batches, *packer.rest(), *packer.rest()]


@several
@given(jobs, lists_of_items, st.integers(1, 5))
def test_batches_hold_every_item_once_and_in_order(job: Job, found: list[Item], pieces: int) -> None:
    batches = pack(job, found, pieces)

    assert [it for batch in batches for it in batch] == found
    assert all(batches)


@several
@given(jobs, lists_of_items)
def test_the_task_fits_the_message(job: Job, found: list[Item]) -> None:
    for batch in pack(job, found):
        assert len(encode_task(CopyTask("0123456789abcdef.1000000", job, batch, 20))) <= job.message_bytes


@several
@given(jobs, lists_of_items, st.text(min_size=60), st.text(min_size=300))
def test_the_event_fits_even_if_every_item_failed_for_the_longest_reason(
    job: Job, found: list[Item], code: str, cause: str
) -> None:
    fault = classify(400, code * 60, cause * 300)
    counts = Counts(*[2**60] * len(COUNT_NAMES))
    for batch in pack(job, found):
        failures = tuple(Failure(it.key, it.size, fault.code, fault.cause) for it in batch)
        done = Done("0123456789abcdef.1000000", Attempt(5, "0123456789abcdef"), 1, counts, failures)
        assert len(encode_event(done)) <= job.message_bytes


@several
@given(jobs, lists_of_items)
def test_a_batch_is_bounded_in_keys_and_in_work(job: Job, found: list[Item]) -> None:
    for batch in pack(job, found):
        assert len(batch) <= job.batch_keys
        assert len(batch) == 1 or sum(work_seconds(it.size) for it in batch) <= BATCH_WORK_SECONDS


def test_small_objects_with_short_keys_fill_a_batch_to_its_keys() -> None:
    job = JOB._replace(message_bytes=1_048_576)

    assert [len(batch) for batch in pack(job, [item(f"data/{n:07}") for n in range(2500)])] == [1000, 1000, 500]


def test_an_object_too_large_for_every_rule_has_a_batch_of_its_own() -> None:
    small, huge = item("a"), item("b", 50 * 1024**4)

    assert pack(JOB, [small, huge, small]) == [(small,), (huge,), (small,)]


def test_nothing_gives_no_batch() -> None:
    assert pack(JOB, []) == []
