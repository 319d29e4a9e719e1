"""What becomes of listed objects: left out, copied, or only told of since they are archived. Pure.

Left out is what the job's filter says, and the marker of the folder that the source's prefix is, where the destination has no
key for it.
"""

from __future__ import annotations

from itertools import compress, islice
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.model import Counts
from s3bulkcopy.worker.s3 import archived_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from s3bulkcopy.worker.filters import Sieve
    from s3bulkcopy.worker.model import Item, Job, Trait
    from s3bulkcopy.worker.s3 import Asked


class Sorting(NamedTuple):
    """Listed objects, sorted: those to be copied, those that are archived, by their class, and how many were left out."""

    items: Sequence[Item]
    archived: dict[str, list[Item]]
    filtered: int = 0

    @property
    def listed(self) -> int:
        """Objects that are selected."""
        return len(self.items) + sum(map(len, self.archived.values()))

    def counts(self, job: Job) -> Counts:
        """Give what a lister counts; those archived are skipped by who is told of them, and where that is nobody, here."""
        sizes = [item[1] for item in self.items]
        counts = Counts(listed=len(sizes), listed_bytes=sum(sizes), filtered=self.filtered)
        if job.dry:
            counts += large_of(job, self.items)
        for items in self.archived.values():
            counts += Counts(listed=len(items), listed_bytes=sum([item[1] for item in items]))
            if job.dry:
                counts += Counts(skipped=len(items), archived=len(items))
        return counts


def large_of(job: Job, items: Iterable[Item]) -> Counts:
    """Count the objects that a job copies by parts, and what of requests that takes; as far as is known before."""
    large = [item for item in items if item.size >= job.multipart_bytes]
    if not large:
        return Counts()
    from s3bulkcopy.worker.multipart import parts_in  # noqa: PLC0415 - few jobs are dry
    from s3bulkcopy.worker.parts import likely_parts, lists_of  # noqa: PLC0415

    cut = [likely_parts(item.size, parts_in(item.etag), job.part_bytes) for item in large]
    return Counts(large=len(large), parts=sum(parts.number for parts in cut), part_lists=sum(map(lists_of, cut)))


class Sorter:
    """Sorts the listed objects of a job."""

    def __init__(self, job: Job) -> None:
        """Prepare; raises BadPattern for a filter that makes no sense."""
        self._sieve: Sieve | None = None
        self._has_archives = not job.force_archived
        #: The key of an object that may be a folder's marker for which the destination has no key.
        self._marker = "" if job.destination.prefix else job.source.prefix
        #: What every key begins with that is to be listed.
        self.prefix = job.source.prefix
        #: What a listing is to tell of each object.
        self.asked: Asked = (False, self._has_archives)
        if job.filter is not None:
            from s3bulkcopy.worker.filters import Sieve, listed_prefix  # noqa: PLC0415 - most jobs have none

            self._sieve = Sieve(job.filter, job.source.prefix)
            self.prefix = listed_prefix(job.source.prefix, job.filter)
            self.asked = (job.filter.needs_traits, self._has_archives)

    def sort(self, items: Sequence[Item], traits: Sequence[Trait], most: int | None = None) -> Sorting:
        """Sort objects, of which `traits` tell more where that was asked for; raises ValueError for a date that is none.

        Once `most` are selected the others are as if they were not there.
        """
        filtered = 0
        if items and items[0][0] == self._marker and items[0].is_marker:
            items, traits, filtered = items[1:], traits[1:], 1
        if self._sieve is not None:
            taken = self._sieve.sift(items, traits)
            if most is not None:
                taken = _first(taken, most)
            filtered += len(taken) - sum(taken)
            items, traits = [*compress(items, taken)], [*compress(traits, taken)]
        elif most is not None:
            items, traits = items[:most], traits[:most]
        archived: dict[str, list[Item]] = {}
        if not traits or not self._has_archives:
            return Sorting(items, archived, filtered)
        kept: list[Item] = []
        for item, trait in zip(items, traits, strict=True):
            name = archived_class(trait)
            (archived.setdefault(name, []) if name else kept).append(item)
        return Sorting(kept, archived, filtered)


def _first(taken: list[bool], most: int) -> list[bool]:
    """Give the marks up to the one that makes `most`, or all.

    >>> _first([False, True, False, True, True], 2)
    [False, True, False, True]
    """
    if sum(taken) < most:
        return taken
    places = (place for place, is_taken in enumerate(taken) if is_taken)
    return taken[: 1 + next(islice(places, most - 1, None), -1)] if most else []
