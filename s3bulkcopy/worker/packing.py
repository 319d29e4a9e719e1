"""Packing listed items into CopyTasks: by bytes on the wire and by copy work, with the number of keys as a bound. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3bulkcopy.worker.model import FAILURE_WIRE_BYTES, CopyTask, ListTask, encode_task, text_to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from s3bulkcopy.worker.model import Item, Job, Range

#: What a CopyObject costs before the first byte moves, and how fast its bytes move inside S3: a rule of thumb that keeps
#: a thousand small objects or a few huge ones in one message, not a measurement.
COPY_SECONDS = 0.05
COPY_BYTES_PER_SECOND = 80_000_000

#: Most copy work in one message, in seconds as if copied one by one.
BATCH_WORK_SECONDS = 240.0

#: The same for sums that are rounded in another order.
_MOST_WORK_SECONDS = BATCH_WORK_SECONDS * (1 - 1e-9)

#: Quotes around an item's two texts, in bytes.
_QUOTES_BYTES = 4

#: Room for an item's storage class, in bytes.
_CLASS_BYTES = len('"INTELLIGENT_TIERING",')

#: Room for a task's or an event's own fields beside the job, in bytes.
_HEAD_BYTES = 512


def work_seconds(size: int) -> float:
    """Estimate how long S3 takes to copy an object of this size in bytes."""
    return COPY_SECONDS + size / COPY_BYTES_PER_SECOND


def pack_ranges(job: Job, ranges: Sequence[Range]) -> Iterator[tuple[Range, ...]]:
    """Give ranges in groups of which each fits a message, as the ranges of a ListTask."""
    most_bytes = job.message_bytes - len(encode_task(ListTask("", job, ()))) - _HEAD_BYTES
    group: list[Range] = []
    size = 0
    for piece in ranges:
        wire_bytes = len(text_to_json(piece.after)) + len(text_to_json(piece.until or "null")) + len("[,],")
        if group and size + wire_bytes > most_bytes:
            yield tuple(group)
            group, size = [], 0
        group.append(piece)
        size += wire_bytes
    if group:
        yield tuple(group)


class Packer:
    """Collects items and gives them back in batches that fit a message.

    A batch fits twice: as a CopyTask, and as the `Done` of a copy in which every item failed. An item that is too large
    for every rule still makes a batch of its own.
    """

    def __init__(self, job: Job) -> None:
        """Take the bounds from the job."""
        self._keys = job.batch_keys
        self._bytes = job.message_bytes - len(encode_task(CopyTask("", job, ()))) - _HEAD_BYTES
        self._item_bytes = FAILURE_WIRE_BYTES + _QUOTES_BYTES + (_CLASS_BYTES if job.policy.preserves_class else 0)
        self._reset()

    def _reset(self) -> None:
        self._items: list[Item] = []
        self._wire_bytes = 0
        self._copy_bytes = 0

    def add(self, items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
        """Take items, in order, and yield each batch that is full."""
        first = 0
        while first < len(items):
            if len(self._items) >= self._keys:
                yield from self.rest()
            # As many at a time as fit: half as many where they do not, and one at the least.
            several = items[first : first + self._keys - len(self._items)]
            while not self._take(several):
                if len(several) > 1:
                    several = several[: len(several) // 2]
                else:
                    yield from self.rest()
            first += len(several)

    def _take(self, items: Sequence[Item]) -> bool:
        """Add items to the batch if all of them fit, or if there is but one and it is alone; tell whether they were added."""
        # What a text adds to JSON is the same within another; the quotes are counted for each.
        keys, etags = "".join([item[0] for item in items]), "".join([item[2] for item in items])
        texts = len(text_to_json(keys)) + len(text_to_json(etags))
        wire_bytes = self._wire_bytes + texts + len(items) * self._item_bytes
        copy_bytes = self._copy_bytes + sum([item[1] for item in items])
        number = len(self._items) + len(items)
        fits = wire_bytes <= self._bytes and number * COPY_SECONDS + copy_bytes / COPY_BYTES_PER_SECOND < _MOST_WORK_SECONDS
        if fits or number == 1:
            self._items += items
            self._wire_bytes, self._copy_bytes = wire_bytes, copy_bytes
        return fits or number == 1

    def rest(self) -> Iterator[tuple[Item, ...]]:
        """Yield what is left, if anything."""
        if self._items:
            yield tuple(self._items)
            self._reset()
