"""Which of the tasks that wait is next, so that all parts of the key space are worked on at a time. No I/O."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from s3bulkcopy.worker.keyspace import agreed

if TYPE_CHECKING:
    from collections.abc import Sequence


def rarest(waiting: Sequence[str], *hands: Sequence[str]) -> int:
    """Give the index of the waiting key whose like is least in hand: at each fork of all these keys, the way that fewest took.

    At a fork the first hand tells, and each further one only between ways that those before it have as many of. Of keys alike
    the first is next. S3 limits requests by parts of the key space that nobody knows, and taking keys as they were listed would
    ask one of them for too much, and others for nothing.

    >>> rarest(["a1", "a2", "b1"], ["a3"]), rarest(["a1", "a2"], ["a1", "b1"]), rarest(["a1"], [])
    (2, 1, 0)
    >>> rarest(["a1", "b1"], ["a2"], ["a2", "b2", "b3"]), rarest(["a1", "b1"], [], ["a2"])
    (1, 1)
    """
    places: Sequence[int] = range(len(waiting))
    way = None
    while len(places) > 1 and way != "":  # the empty way is that of keys which end there
        keys = [*(waiting[place] for place in places), *chain(*hands)]
        fork = agreed(min(keys), max(keys))
        taken = [Counter(key[fork : fork + 1] for key in hand) for hand in hands]
        ways = dict.fromkeys(waiting[place][fork : fork + 1] for place in places)
        way = min(ways, key=lambda one: [counts[one] for counts in taken])
        places = [place for place in places if waiting[place][fork : fork + 1] == way]
        hands = tuple([key for key in hand if key[fork : fork + 1] == way] for hand in hands)
    return places[0]
