"""How a large object is cut into parts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.packing import BATCH_WORK_SECONDS, work_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Smallest part but the last, largest part, in bytes, and most parts of an object (S3 user guide, "Multipart upload limits").
MIN_PART_BYTES = 5 * 1024**2
MAX_PART_BYTES = 5 * 1024**3
MAX_PARTS = 10_000

#: Largest object, in bytes: as many parts as there may be, each as large as it may be; S3 calls it 50 TB.
MAX_OBJECT_BYTES = MAX_PARTS * MAX_PART_BYTES

#: Most parts that one task copies; copy work bounds it too.
TASK_PARTS = 250

#: Most parts in one ListParts answer (S3 API reference).
LISTED_PARTS = 1000

#: What part sizes are rounded up to where they have to grow, in bytes.
_STEP_BYTES = 1024**2


class Parts(NamedTuple):
    """An object of `size` bytes, at least one, cut into parts of `part_bytes`; the last is what is left. Numbers begin at 1.

    >>> parts = Parts(10, 4)
    >>> parts.number, [parts.span(n) for n in (1, 2, 3)], parts.size_of(3)
    (3, [(0, 3), (4, 7), (8, 9)], 2)
    """

    size: int
    part_bytes: int

    @property
    def number(self) -> int:
        """Give how many parts there are."""
        return -(-self.size // self.part_bytes)

    def span(self, number: int) -> tuple[int, int]:
        """Give the first and the last byte of a part, both inclusive, as a range in a request has them."""
        first = (number - 1) * self.part_bytes
        return first, min(first + self.part_bytes, self.size) - 1

    def size_of(self, number: int) -> int:
        """Give the bytes of a part."""
        first, last = self.span(number)
        return last - first + 1

    def bytes_of(self, numbers: Iterable[int]) -> int:
        """Give the bytes of some parts."""
        return sum(map(self.size_of, numbers))

    def groups(self, most_parts: int | None = None) -> Iterator[tuple[int, int]]:
        """Give the first and the last number of groups of parts, each of which is work for one task.

        >>> list(Parts(10, 1).groups(most_parts=4))
        [(1, 4), (5, 8), (9, 10)]
        """
        within_work = int(BATCH_WORK_SECONDS / work_seconds(self.part_bytes))
        step = max(1, min(TASK_PARTS if most_parts is None else most_parts, within_work))
        for first in range(1, self.number + 1, step):
            yield first, min(first + step - 1, self.number)


def likely_parts(size: int, count: int | None, wanted: int) -> Parts:
    """Give the parts in which an object will be copied, as far as that is told by its size and its ETag's `count` of parts.

    As many as it has, where one size of parts gives as many; which one, only a HEAD request would tell. No object is too large.

    >>> likely_parts(20_000_000, 3, 2**28).number, likely_parts(20_000_000, 9, 2**28).number, likely_parts(10, None, 4).number
    (3, 1, 3)
    """
    if count and size:
        least, most = -(-size // count), (size - 1) // max(1, count - 1)
        for part_bytes in (-(-least // _STEP_BYTES) * _STEP_BYTES, least, most):
            if part_bytes_of(size, part_bytes, count, min(MIN_PART_BYTES, wanted)) is not None:
                return Parts(size, part_bytes)
    return Parts(size, part_bytes_for(min(size, MAX_OBJECT_BYTES), wanted))


def lists_of(parts: Parts) -> int:
    """Give how often the parts that are there are listed, by tasks that need not wait: before each copies its own, and then."""
    return sum(1 + -(-last // LISTED_PARTS) for _, last in parts.groups())


def part_bytes_for(size: int, wanted: int) -> int:
    """Give the part size for an object of so many bytes: what is wanted, or the least above it that does with 10,000 parts.

    Raises ValueError for an object that is larger than any can be.

    >>> part_bytes_for(10**9, 268_435_456), part_bytes_for(MAX_OBJECT_BYTES, 268_435_456) == MAX_PART_BYTES
    (268435456, True)
    """
    if size > MAX_OBJECT_BYTES:
        raise ValueError(f"{size} bytes; the largest object has {MAX_OBJECT_BYTES}")
    if wanted * MAX_PARTS >= size:
        return wanted
    least = -(-size // MAX_PARTS)
    return -(-least // _STEP_BYTES) * _STEP_BYTES


def part_bytes_of(size: int, first_part: int, count: int, least: int = MIN_PART_BYTES) -> int | None:
    """Give the part size of an object of which the first part and the number of parts are known, if all its parts have it.

    None where parts of that size would not give as many, or would not be accepted: then its ETag cannot be had again.

    >>> part_bytes_of(20_000_000, 8_388_608, 3), part_bytes_of(20_000_000, 8_388_608, 2)
    (8388608, None)
    """
    if not 1 <= count <= MAX_PARTS or not 1 <= first_part <= MAX_PART_BYTES:
        return None
    is_legal = count == 1 or first_part >= least
    return first_part if is_legal and Parts(size, first_part).number == count else None
