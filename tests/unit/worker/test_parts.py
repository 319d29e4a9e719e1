"""The arithmetic of parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.packing import BATCH_WORK_SECONDS, work_seconds
from s3bulkcopy.worker.parts import (
    MAX_OBJECT_BYTES,
    MAX_PART_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    TASK_PARTS,
    Parts,
    likely_parts,
    part_bytes_for,
    part_bytes_of,
)

sizes = st.one_of(st.integers(1, MAX_OBJECT_BYTES), st.integers(1, 10**9), st.just(MAX_OBJECT_BYTES))
wanted = st.one_of(st.integers(MIN_PART_BYTES, MAX_PART_BYTES), st.just(MIN_PART_BYTES), st.just(MAX_PART_BYTES))


@settings(deadline=None)  # ten thousand parts take their time on a busy machine
@given(sizes, wanted)
def test_parts_tile_an_object_of_any_size(size: int, part_bytes: int) -> None:
    parts = Parts(size, part_bytes_for(size, part_bytes))

    spans = [parts.span(number) for number in range(1, parts.number + 1)]
    assert spans[0][0] == 0
    assert spans[-1][1] == size - 1
    assert all(one[1] + 1 == other[0] for one, other in pairwise(spans))
    assert parts.bytes_of(range(1, parts.number + 1)) == size


@given(sizes, wanted)
def test_parts_are_as_many_and_as_large_as_s3_takes_them(size: int, part_bytes: int) -> None:
    parts = Parts(size, part_bytes_for(size, part_bytes))

    assert 1 <= parts.number <= MAX_PARTS
    assert all(MIN_PART_BYTES <= parts.size_of(number) <= MAX_PART_BYTES for number in range(1, parts.number))
    assert 1 <= parts.size_of(parts.number) <= MAX_PART_BYTES


@given(sizes, wanted)
def test_a_part_is_as_large_as_wanted_where_the_number_allows_it(size: int, part_bytes: int) -> None:
    assert part_bytes_for(size, part_bytes) >= part_bytes
    assert part_bytes_for(size, part_bytes) == part_bytes or size > part_bytes * MAX_PARTS


def test_no_object_is_larger_than_its_parts_can_be() -> None:
    with pytest.raises(ValueError, match="the largest object"):
        part_bytes_for(MAX_OBJECT_BYTES + 1, MIN_PART_BYTES)


@given(sizes, wanted, st.integers(1, 5000))
def test_groups_hold_each_part_once_and_no_more_work_than_a_message_may(size: int, part_bytes: int, most: int) -> None:
    parts = Parts(size, part_bytes_for(size, part_bytes))

    groups = [*parts.groups(most)]
    assert [number for first, last in groups for number in range(first, last + 1)] == [*range(1, parts.number + 1)]
    for first, last in groups:
        number = last - first + 1
        assert number <= most
        assert number == 1 or number * work_seconds(parts.part_bytes) <= BATCH_WORK_SECONDS


def test_groups_are_bounded_by_themselves() -> None:
    assert [*Parts(1000, 1).groups()] == [(1, TASK_PARTS), (251, 500), (501, 750), (751, 1000)]


@given(sizes, wanted)
def test_the_part_size_of_an_object_that_was_put_in_equal_parts_is_found(size: int, part_bytes: int) -> None:
    parts = Parts(size, part_bytes_for(size, part_bytes))

    found = part_bytes_of(size, parts.size_of(1), parts.number)
    assert found is not None
    assert Parts(size, found).number == parts.number
    assert parts.number == 1 or found == parts.part_bytes


@pytest.mark.parametrize(
    ("size", "first_part", "number"),
    [
        (20_000_000, 8_388_608, 4),  # not all parts of it had one size
        (20_000_000, 4_000_000, 5),  # smaller than S3 takes parts by now
        (MAX_OBJECT_BYTES, MIN_PART_BYTES, MAX_PARTS),
        (20_000_000, 0, 1),
        (6 * 1024**3, 6 * 1024**3, 1),
        (20_000_000, 8_388_608, 0),
    ],
)
def test_a_part_size_that_would_not_do_is_not_taken(size: int, first_part: int, number: int) -> None:
    assert part_bytes_of(size, first_part, number) is None


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_part_has_the_bytes_of_its_span(size: int, part_bytes: int) -> None:
    parts = Parts(size, part_bytes)

    first, last = parts.span(parts.number)
    assert parts.size_of(parts.number) == last - first + 1 >= 1


@given(sizes, wanted, st.integers(5, 5 * 1024))
def test_an_object_that_was_put_in_parts_of_one_size_is_likely_copied_in_as_many(size: int, part_bytes: int, mib: int) -> None:
    own = Parts(size, part_bytes_for(size, mib * 1024**2))

    assert likely_parts(size, own.number, part_bytes).number == own.number


@given(sizes, wanted, st.one_of(st.none(), st.integers(0, 99_999)))
def test_the_likely_parts_are_such_as_s3_takes_whatever_an_etag_tells(size: int, part_bytes: int, count: int | None) -> None:
    parts = likely_parts(size, count, part_bytes)

    assert 1 <= parts.number <= MAX_PARTS
    assert parts.number in (count, Parts(size, part_bytes_for(size, part_bytes)).number)
