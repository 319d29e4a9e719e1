"""Filters, limits and archives in a worker: what it lists, what it sends on, and what it counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.attempts import Budget
from s3bulkcopy.worker.failures import Stop
from s3bulkcopy.worker.filters import Filter
from s3bulkcopy.worker.model import (
    ARCHIVED,
    CopyTask,
    Counts,
    Done,
    Failure,
    Item,
    Job,
    ListTask,
    Range,
    WalkTask,
    encode_event,
)
from s3bulkcopy.worker.s3 import Page, read_page
from s3bulkcopy.worker.sorting import Sorter
from tests.unit.worker.test_listing import ALL, by_key, numbered, work
from tests.unit.worker.worker_fakes import JOB, FakeS3, Queue, item, keys, listing

several = settings(max_examples=60, deadline=None)

NOT_RESTORED = "<StorageClass>GLACIER</StorageClass>"
RESTORING = (
    "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus><StorageClass>DEEP_ARCHIVE</StorageClass>"
)
RESTORED = (
    "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
    "<RestoreExpiryDate>2026-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>"
)
INSTANT = "<StorageClass>GLACIER_IR</StorageClass>"


def task(job: Job, limit: int | None = None) -> ListTask:
    return ListTask("t.0", job, (ALL,), limit=limit)


def to_copy(queue: Queue) -> list[Item]:
    """Give the items that were sent on to be copied."""
    return by_key([it for sent in queue.accepted if isinstance(sent, CopyTask) and not sent.archived for it in sent.items])


def untried(queue: Queue) -> dict[str, list[str]]:
    """Give the keys that were sent on to be told of, by their class."""
    found: dict[str, list[str]] = {}
    for sent in queue.accepted:
        if isinstance(sent, CopyTask) and sent.archived:
            found.setdefault(sent.archived, []).extend(it.key for it in sent.items)
    return found


# -------------------------------------------------------------------------------------------------------------- filters


def test_what_a_filter_leaves_out_is_counted_apart_and_not_sent_on() -> None:
    store = FakeS3.of(numbered(30), page_keys=7)

    done, queue = work(store, task(JOB._replace(filter=Filter(("+*1", "+*2")))))

    assert [it.key for it in to_copy(queue)] == [f"k{n:05}" for n in (1, 2, 11, 12, 21, 22)]
    assert done.counts._replace(pages=0) == Counts(listed=6, listed_bytes=6, filtered=24)


def test_dates_and_classes_are_read_where_a_filter_needs_them() -> None:
    store = FakeS3.of([item("a"), item("b"), item("c")], modified={"a": "2026-03-01T00:00:00.000Z"}, classes={"b": INSTANT})

    newer, queue = work(store, task(JOB._replace(filter=Filter(newer="2026-02-01T00:00:00"))))
    assert [it.key for it in to_copy(queue)] == ["a"]
    assert (newer.counts.listed, newer.counts.filtered) == (1, 2)

    _, queue = work(store, task(JOB._replace(filter=Filter(storage_classes=("GLACIER_IR",)))))
    assert [it.key for it in to_copy(queue)] == ["b"]


def test_a_listing_without_dates_that_can_be_read_stops_a_run_that_needs_them() -> None:
    store = FakeS3.of([item("a")], modified={"a": "yesterday"})

    with pytest.raises(Stop, match="does not tell when objects were modified"):
        work(store, task(JOB._replace(filter=Filter(newer="2026-02-01T00:00:00"))))


def test_the_literal_head_of_patterns_narrows_the_listing() -> None:
    store = FakeS3.of([*(item(f"a/{n:05}") for n in range(5000)), item("b/1.txt"), item("b/2.jpg"), *numbered(5000)])

    done, queue = work(store, task(JOB._replace(filter=Filter(("+b/*.txt",)))))

    assert [(query["prefix"], query.get("start-after", "")) for query in store.list_requests] == [("b/", "")]
    assert [it.key for it in to_copy(queue)] == ["b/1.txt"]
    assert done.counts == Counts(listed=1, listed_bytes=1, filtered=1, pages=1)


# --------------------------------------------------------------------------------------------------------------- limits


@several
@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 50), st.sampled_from([None, Filter(("+*[0-4]",))]))
def test_a_limit_is_exact(objects: int, page_keys: int, limit: int, wanted: Filter | None) -> None:
    store = FakeS3.of(numbered(objects), page_keys=page_keys)
    selected = [it for it in numbered(objects) if wanted is None or it.key[-1] in "01234"][:limit]

    done, queue = work(store, task(JOB._replace(filter=wanted), limit))

    assert to_copy(queue) == selected
    assert done.counts.listed == len(selected)
    seen = objects if len(selected) < limit else int(selected[-1].key[1:]) + 1 if selected else 0
    assert done.counts.filtered == seen - len(selected)
    assert len(store.list_requests) <= objects // page_keys + 1


def test_what_the_budget_leaves_of_a_limit_is_handed_on() -> None:
    store = FakeS3.of(numbered(30), page_keys=5)

    done, queue = work(store, task(JOB, 12), budget=Budget(float("inf"), 2))
    (rest,) = [sent for sent in queue.accepted if isinstance(sent, ListTask)]

    assert (done.counts.listed, rest.ranges, rest.limit, rest.idle_hops) == (10, (Range("k00009", None),), 2, 0)
    done, queue = work(store, rest)
    assert (done.counts.listed, to_copy(queue)) == (2, numbered(12)[10:])


def test_a_walk_ends_at_its_limit() -> None:
    store = FakeS3.of(numbered(30), page_keys=5)

    done, queue = work(store, WalkTask("t.0", JOB, ("k00001",), limit=7))

    assert to_copy(queue) == [it for it in numbered(8) if it.key != "k00001"]
    assert (done.counts.listed, len(store.list_requests)) == (7, 2)


# -------------------------------------------------------------------------------------------------------------- archives


def archive() -> FakeS3:
    classes = {"a": NOT_RESTORED, "b": RESTORING, "c": RESTORED, "d": INSTANT}
    return FakeS3.of([item(key) for key in "abcdef"], classes=classes)


def test_archived_objects_are_told_from_restored_ones_and_sent_on_apart() -> None:
    store = archive()

    done, queue = work(store, task(JOB))

    assert [it.key for it in to_copy(queue)] == ["c", "d", "e", "f"]
    assert untried(queue) == {"GLACIER": ["a"], "DEEP_ARCHIVE": ["b"]}
    assert done.counts == Counts(listed=6, listed_bytes=6, pages=1)
    assert store.restores_asked == len(store.list_requests) == 1


def test_archived_objects_are_reported_as_skipped_and_never_tried() -> None:
    store = archive()

    done, _ = work(store, CopyTask("t.0", JOB, (item("a", 5), item("b", 6)), archived="GLACIER"))

    cause = "in GLACIER, and not restored"
    assert done.counts == Counts(skipped=2, archived=2)
    assert done.failures == (Failure("a", 5, ARCHIVED, cause), Failure("b", 6, ARCHIVED, cause))
    assert not store.copy_requests
    assert not store.list_requests


def test_they_are_like_all_others_where_that_is_asked_for() -> None:
    store = archive()

    _, queue = work(store, task(JOB._replace(force_archived=True)))

    assert [it.key for it in to_copy(queue)] == [*"abcdef"]
    assert not store.restores_asked


def test_a_dry_run_counts_them_itself() -> None:
    done, queue = work(archive(), task(JOB._replace(dry=True)))

    assert not queue.accepted
    assert done.counts == Counts(listed=6, listed_bytes=6, skipped=2, archived=2, pages=1)


def test_what_is_filtered_is_not_archived() -> None:
    done, queue = work(archive(), task(JOB._replace(filter=Filter(("-a",)))))

    assert untried(queue) == {"DEEP_ARCHIVE": ["b"]}
    assert (done.counts.listed, done.counts.filtered) == (5, 1)


@several
@given(st.lists(keys, min_size=1, max_size=30, unique=True), st.sampled_from([65_536, 262_144]))
def test_a_report_of_archived_objects_fits_a_message_whatever_their_keys_and_sizes(names: list[str], most: int) -> None:
    names = [name * (1000 // len(name.encode("utf-8", "surrogatepass"))) or name for name in names]
    found = [Item(name, 5 * 1024**4, "e" * 35) for name in dict.fromkeys(names)]
    store = FakeS3.of(found, classes={it.key: NOT_RESTORED for it in found})

    _, queue = work(store, task(JOB._replace(message_bytes=most, filter=Filter(("+*",)))))

    told = [sent for sent in queue.accepted if isinstance(sent, CopyTask)]
    assert sorted(it.key for sent in told for it in sent.items) == sorted(it.key for it in found)
    for sent in told:
        done, _ = work(store, sent)
        assert isinstance(done, Done)
        assert len(encode_event(done)) <= most


def test_traits_are_read_only_where_they_are_asked_for() -> None:
    body = listing([item("a"), item("b")], truncated=False, classes={"a": NOT_RESTORED})
    plain = listing([item("a"), item("b")], truncated=False)
    modified = "2026-01-01T00:00:00.000Z"

    assert read_page(body) == Page((item("a"), item("b")), truncated=False)
    assert read_page(plain, asked=(False, True)).traits == ()
    assert read_page(body, asked=(False, True)).traits == ((modified, "GLACIER", False), (modified, "STANDARD", False))
    assert read_page(plain, asked=(True, False)).traits == ((modified, "STANDARD", False),) * 2


@pytest.mark.parametrize(
    ("prefix", "destination", "found", "kept"),
    [
        ("p/", "", [item("p/", 0), item("p/a", 0)], ["p/a"]),
        ("p/", "", [item("p/", 1), item("p/a", 0)], ["p/", "p/a"]),
        ("p/", "", [Item("p/", 0, ""), item("p/a", 0)], ["p/", "p/a"]),
        ("p/", "q/", [item("p/", 0), item("p/a", 0)], ["p/", "p/a"]),
        ("p", "", [item("p", 0), item("p/", 0)], ["p", "p/"]),
        ("p/", "", [item("p/a/", 0)], ["p/a/"]),
        ("", "", [item("p/", 0)], ["p/"]),
        ("p/", "", [item("p/", 0)], []),
    ],
)
def test_a_folders_marker_for_which_the_destination_has_no_key_is_left_out(
    prefix: str, destination: str, found: list[Item], kept: list[str]
) -> None:
    job = JOB._replace(source=JOB.source._replace(prefix=prefix), destination=JOB.destination._replace(prefix=destination))

    sorting = Sorter(job).sort(found, [("2026-01-01T00:00:00Z", "STANDARD", False)] * len(found))

    assert ([one.key for one in sorting.items], sorting.filtered) == (kept, len(found) - len(kept))
