"""Which of the tasks that wait is next, so that all parts of the key space are worked on at a time. No I/O."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from s3bulkcopy.worker.keyspace import agreed

if TYPE_CHECKING:
    from collections.abc import Sequence


def rarest(waiting: Sequence[str], in_hand: Sequence[str]) -> int:
    """Give the index of the waiting key whose like is least in hand: at each fork of all these keys, the way that fewest took.

    Of those alike it is the first. S3 limits requests by parts of the key space that nobody knows, and taking keys as they
    were listed would ask one of them for too much, and others for nothing.

    >>> rarest(["a1", "a2", "b1"], ["a3"]), rarest(["a1", "a2"], ["a1", "b1"]), rarest(["a1"], [])
    (2, 1, 0)
    """
    places: Sequence[int] = range(len(waiting))
    way = None
    while len(places) > 1 and way != "":  # the empty way is that of keys which end there
        keys = [*(waiting[place] for place in places), *in_hand]
        fork = agreed(min(keys), max(keys))
        ways = Counter(key[fork : fork + 1] for key in in_hand)
        way = min((waiting[place][fork : fork + 1] for place in places), key=ways.__getitem__)
        places = [place for place in places if waiting[place][fork : fork + 1] == way]
        in_hand = [key for key in in_hand if key[fork : fork + 1] == way]
    return places[0]
