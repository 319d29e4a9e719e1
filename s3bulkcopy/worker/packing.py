"""Packing listed items into CopyTasks: by bytes on the wire and by copy work, with the number of keys as a bound. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3bulkcopy.worker.model import FAILURE_WIRE_BYTES, CopyTask, ListTask, encode_task, text_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from s3bulkcopy.worker.model import Item, Job, Range

#: What a CopyObject costs before the first byte moves, and how fast its bytes move inside S3: a rule of thumb that keeps
#: a thousand small objects or a few huge ones in one message, not a measurement.
COPY_SECONDS = 0.05
COPY_BYTES_PER_SECOND = 80_000_000

#: Most copy work in one message, in seconds as if copied one by one.
BATCH_WORK_SECONDS = 240.0

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
        self._reset()

    def _reset(self) -> None:
        self._items: list[Item] = []
        self._wire_bytes = 0
        self._work_seconds = 0.0

    def add(self, items: Iterable[Item]) -> Iterator[tuple[Item, ...]]:
        """Take items, in order, and yield each batch that is full."""
        for item in items:
            key, size, etag = item
            wire_bytes = len(text_to_json(key)) + len(text_to_json(etag)) + FAILURE_WIRE_BYTES
            seconds = work_seconds(size)
            if self._items and (
                len(self._items) >= self._keys
                or self._wire_bytes + wire_bytes > self._bytes
                or self._work_seconds + seconds > BATCH_WORK_SECONDS
            ):
                yield tuple(self._items)
                self._reset()
            self._items.append(item)
            self._wire_bytes += wire_bytes
            self._work_seconds += seconds

    def rest(self) -> Iterator[tuple[Item, ...]]:
        """Yield what is left, if anything."""
        if self._items:
            yield tuple(self._items)
            self._reset()
