"""How many rounds of list requests it takes to list a bucket, for many shapes of keys. A simulation: no network, no clock.

    python benchmarks/listing.py [--keys 1000000] [--slots 64] [--shapes hex-random uuids …] [--json]
    python benchmarks/listing.py --grammar 7 8 9               # random shapes, by their seeds
    python benchmarks/listing.py --keys-file keys.jsonl --json

A round is one list latency in which every slot may have a request under way; the ideal is pages / slots. The planner sees
nothing but the answers to its own requests. A bucket that it knows nothing of owns the keys, counts the requests, and checks
that each key was listed once.
"""

from __future__ import annotations

import argparse
import json
import time
from bisect import bisect_right
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from key_shapes import SHAPES, grammar, keys_of

from s3bulkcopy.worker.model import Range
from s3bulkcopy.worker.planner import Planner, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Bucket:
    """Keys in order, and what has been asked for and listed of them."""

    def __init__(self, keys: Sequence[str], page_size: int) -> None:
        self.keys = keys
        self.page_size = page_size
        self.requests = 0
        self._times_listed = bytearray(len(keys))

    def page(self, after: str) -> tuple[int, list[str], bool]:
        """Answer a request: the number of the first key, the keys, and whether more follow."""
        self.requests += 1
        first = bisect_right(self.keys, after)
        return first, list(self.keys[first : first + self.page_size]), first + self.page_size < len(self.keys)

    def listed(self, first: int, end: int) -> None:
        """Note that these keys were listed."""
        if any(self._times_listed[first:end]):
            for n in range(first, end):
                self._times_listed[n] = min(self._times_listed[n] + 1, 2)
        else:
            self._times_listed[first:end] = b"\1" * (end - first)

    def listed_once(self) -> bool:
        """Tell whether every key was listed exactly once."""
        return self._times_listed.count(1) == len(self.keys)


class Outcome(NamedTuple):
    """What listing a bucket took."""

    rounds: int
    requests: int
    listed_once: bool
    decide_ms: float = 0.0


# ------------------------------------------------------------------------------------------------------------ the ways


def planned(keys: Sequence[str], page_size: int, slots: int, prefix: str = "") -> Outcome:
    """List with the planner: in each round every slot gets a request where the planner has one, then all are answered."""
    bucket = Bucket(keys, page_size)
    planner = Planner([Range("", None)], prefix)
    rounds, seconds = 0, 0.0
    while not planner.is_done():
        began = time.process_time()
        requests = list(_requests(planner, slots))
        seconds += time.process_time() - began
        if not requests:
            raise AssertionError("open ranges, and nothing to ask for")
        rounds += 1
        pages = [bucket.page(request.after) for request in requests]
        began = time.process_time()
        news = [planner.answered(request, page, more) for request, (_, page, more) in zip(requests, pages, strict=True)]
        seconds += time.process_time() - began
        for (first, _, _), new in zip(pages, news, strict=True):
            for part in new:
                bucket.listed(first + part.start, first + part.stop)
    return Outcome(rounds, bucket.requests, bucket.listed_once(), 1000 * seconds / max(1, ceil(len(keys) / page_size)))


def _requests(planner: Planner, slots: int) -> Iterator[Request]:
    for free in range(slots, 0, -1):
        request = planner.request(free)
        if request is None:
            return
        yield request


def by_first_character(keys: Sequence[str], page_size: int, slots: int) -> Outcome:
    """List as the seed did: one lister for each of 100 printable characters that a key may begin with, in turn."""
    bucket = Bucket(keys, page_size)
    waiting = [chr(c) for c in (*range(9, 14), *range(32, 127))][::-1]
    busy: list[tuple[str, str]] = []
    rounds = 0
    while waiting or busy:
        while waiting and len(busy) < slots:
            busy.append((waiting[-1], waiting.pop()))
        rounds += 1
        going_on = []
        for head, after in busy:
            first, page, more = bucket.page(after)
            if after == head and first and bucket.keys[first - 1] == head:
                bucket.listed(first - 1, first)  # `prefix` has no start-after: it finds the key that is the prefix
            own = bisect_right(page, head + "\U0010ffff")
            bucket.listed(first, first + own)
            if more and own == len(page):
                going_on.append((head, page[-1]))
        busy = going_on
    return Outcome(rounds, bucket.requests, bucket.listed_once())


def by_bisection(keys: Sequence[str], page_size: int, slots: int) -> Outcome:
    """List by halving: while slots are idle, what remains of a range is cut in the middle of printable ASCII."""
    bucket = Bucket(keys, page_size)
    ranges: list[tuple[str, str]] = [("", "\U0010ffff")]
    rounds = 0
    while ranges:
        while len(ranges) < slots and ranges[0][0] < (middle := _middle(*ranges[0])) < ranges[0][1]:
            after, until = ranges.pop(0)
            ranges += [(after, middle), (middle, until)]
        rounds += 1
        going_on = []
        for after, until in ranges[:slots]:
            first, page, more = bucket.page(after)
            own = bisect_right(page, until)
            bucket.listed(first, first + own)
            if more and own == len(page):
                going_on.append((page[-1], until))
        ranges = ranges[slots:] + going_on
        if rounds > 2 * ceil(len(keys) / page_size) + 100:
            raise AssertionError("bisection does not end")
    return Outcome(rounds, bucket.requests, bucket.listed_once())


def _middle(after: str, until: str) -> str:
    """Give what is half way between two keys that are taken for numbers in base 95."""
    size = 12 + next((n for n, (a, b) in enumerate(zip(after, until, strict=False)) if a != b), len(after))
    low, high = (_number(text, size) for text in (after, until))
    half, text = (low + high) // 2, ""
    for _ in range(size):
        half, digit = divmod(half, 95)
        text = chr(32 + digit) + text
    return text.rstrip(" ")


def _number(text: str, size: int) -> int:
    value = 0
    for c in text[:size].ljust(size, " "):
        value = value * 95 + min(max(ord(c) - 32, 0), 94)
    return value


# ---------------------------------------------------------------------------------------------------------------- output


def measure(keys: Sequence[str], options: argparse.Namespace) -> dict[str, object]:
    """List with the planner and give the figures."""
    pages = max(1, ceil(len(keys) / options.page_size))
    outcome = planned(keys, options.page_size, options.slots, options.prefix)
    return {
        "keys": len(keys),
        "pages": pages,
        "ideal_rounds": ceil(pages / options.slots),
        "rounds": outcome.rounds,
        "requests": outcome.requests,
        "listed_once": outcome.listed_once,
        "decide_ms_per_page": round(outcome.decide_ms, 3),
    }


HEAD = f"{'shape':26} {'keys':>9} {'pages':>6} {'ideal':>5} {'rounds':>6} {'x':>5} {'requests':>8} {'x':>5} {'ms/page':>7}"


def row(name: str, figures: dict[str, object], *, target: bool, others: Sequence[Outcome]) -> str:
    """Give a line of the table; `!` where a target is missed."""
    pages, ideal, rounds, requests = (int(str(figures[k])) for k in ("pages", "ideal_rounds", "rounds", "requests"))
    text = (
        f"{name:26} {figures['keys']:9,} {pages:6,} {ideal:5} {rounds:6} {rounds / ideal:5.2f} {requests:8,} "
        f"{requests / pages:5.2f} {figures['decide_ms_per_page']:7.2f}"
    )
    for other in others:
        text += f" {other.rounds:6,} {other.requests / pages:5.2f}{' ' if other.listed_once else '-'}"
    return text + ("" if target else " !") + ("" if figures["listed_once"] else " NOT LISTED ONCE")


def reaches_target(figures: dict[str, object], slots: int) -> bool:
    """Tell whether rounds are at most 1.5 x ideal + 8 and requests 1.25 x pages + 2 x slots."""
    pages, rounds, requests = (int(str(figures[k])) for k in ("pages", "rounds", "requests"))
    return rounds <= 1.5 * pages / slots + 8 and requests <= 1.25 * pages + 2 * slots


def read_keys(path: Path) -> list[str]:
    """Read one JSON string a line; give the keys in the order of their UTF-8 bytes, each once."""
    return sorted({json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()})


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys of each shape")
    parser.add_argument("--slots", type=int, default=64, help="list requests under way at a time")
    parser.add_argument("--page-size", type=int, default=1000, help="keys that one answer holds")
    parser.add_argument("--prefix", default="", help="list under this prefix")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--grammar", nargs="*", type=int, default=[], metavar="SEED", help="random shapes, by their seeds")
    parser.add_argument("--keys-file", type=Path, help="list these keys: one JSON string a line")
    parser.add_argument("--alone", action="store_true", help="without the seed's fan-out and bisection beside")
    parser.add_argument("--missed", action="store_true", help="show only what misses a target")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    if options.keys_file:
        buckets = iter([("", read_keys(options.keys_file))])
    elif options.grammar:
        buckets = (
            (f"grammar-{seed}", sorted(set(grammar(seed)(options.keys, Random(seed))))[: options.keys])  # noqa: S311
            for seed in options.grammar
        )
    else:
        buckets = ((name, keys_of(name, options.keys)) for name in options.shapes or SHAPES)
    if not options.json:
        print(HEAD + ("" if options.alone else f" {'fan-out':>12} {'bisection':>12}"))
    for name, keys in buckets:
        figures = measure(keys, options)
        if options.json:
            print(json.dumps({"shape": name} | figures if name else figures), flush=True)
            continue
        ways = () if options.alone else (by_first_character, by_bisection)
        others = [way(keys, options.page_size, options.slots) for way in ways]
        target = reaches_target(figures, options.slots)
        if not (options.missed and target and figures["listed_once"]):
            print(row(name or str(options.keys_file), figures, target=target, others=others), flush=True)


if __name__ == "__main__":
    main()
