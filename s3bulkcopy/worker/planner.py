"""Which list requests to send, so that many at a time cover a range of keys, whatever the keys look like. Pure.

An answer shows all keys from where it was asked for to its own last key. What no answer has shown yet are *gaps*; a request
goes to the start of a gap, or cuts a gap in two and goes to the cut. Where to cut is learned from what the answers showed:
docs/listing.md explains it on one page.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.alphabets import Alphabets
from s3bulkcopy.worker.keyspace import agreed, is_key
from s3bulkcopy.worker.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Samples taken of a page, and kept of all pages: every n-th key stands for n keys.
_SAMPLES_PER_PAGE = 24
_MOST_SAMPLES = 20_000

#: Smallest piece that a cut may leave, in pages, beside the page under way.
_LEAST_PAGES = 1.0

#: Pages' worth of requests that may show nothing new: so many a slot, and such a share of the answers.
_WASTE_PER_SLOT, _WASTE = 1.8, 0.22

#: Places, from the beginning of a key, at which it is compared with others.
_MOST_LEVELS = 32

#: Answers after which what was predicted of a gap is predicted again before it is cut.
_STALE_AFTER = 16

#: What is expected at all places together where no known key differs, in multiples (e to the power of it) of what is known.
_AGREED_IN_ALL = 6.0

#: What is expected at one such place, if its character is known to vary elsewhere, and if not.
_AGREED = 0.1

#: How deep a cut may go below what is known.
_DEEPEST = 40

_TOP = "\U0010ffff"


import os
OPT=float(os.environ.get('OPT','4'))
OUT=float(os.environ.get('OUT','1.25'))
LIM=int(os.environ.get('LIM','6'))
FAM=float(os.environ.get('FAM','.5'))
LEAST=float(os.environ.get('LEAST','1.2'))
OUTP=float(os.environ.get("OUTP","0.5"))
MIN=float(os.environ.get('MIN','.5'))
RUN=float(os.environ.get('RUN','1'))
class Request(NamedTuple):
    """A page to ask for: the keys after `after`. What lies beyond `until` may be listed by others, too."""

    after: str
    until: str | None
    number: int


class _Piece(NamedTuple):
    """A part of a gap: the keys expected in it. They begin with `stem`; those before `begin` and after `end`, shares, don't count."""

    keys: float
    stem: str
    begin: float = 0.0
    end: float = 1.0


class _Gap:
    """Keys `(after, until]` that no answer has shown yet."""

    __slots__ = ("after", "begin", "cuts", "keys", "offered", "pieces", "promised", "request", "run", "until")

    def __init__(self, after: str, until: str | None) -> None:
        self.after = after
        self.until = until
        self.request = -1  # number of the request under way that began here
        self.offered = False
        self.pieces: list[_Piece] = []
        self.keys = 0.0  # expected
        self.promised = 0.0  # keys expected in a row from where the run began
        self.run = 0  # keys listed in a row that ended where this gap begins
        self.begin = after  # first key of the last page of them
        self.cuts = [0]  # how often it was cut without an answer from it; shared with the pieces


class Planner:
    """The open ranges of a worker, and what it has learned about keys."""

    def __init__(self, ranges: Iterable[Range], prefix: str = "", page_size: int = 1000) -> None:
        """Begin with these ranges, which do not overlap; answers hold only keys that start with `prefix`."""
        self._prefix = prefix
        self._page = page_size  # until a larger or smaller one is seen
        self._largest = 0
        self._slots = 1
        self._shown = 0  # keys
        self._gaps = [_Gap(after, until) for after, until in sorted(ranges, key=lambda r: r.after)]
        self._samples: list[str] = []
        self._stride = max(1, page_size // _SAMPLES_PER_PAGE)
        self._alphabets = Alphabets()
        self._requests = 0
        self._answers = 0
        self._revised = 0

    # ------------------------------------------------------------------------------------------------ what is to be done

    def is_done(self) -> bool:
        """Tell whether every key has been shown or given away."""
        return not self._gaps

    def rest(self) -> list[Range]:
        """Give the ranges that remain; none overlaps another."""
        return [Range(gap.after, gap.until) for gap in self._gaps]

    def request(self, free: int = 1) -> Request | None:  # noqa: C901 - one choice, of two kinds of gap
        """Give what to ask for with one of `free` slots, or None where nothing is worth a request until an answer comes."""
        self._slots = max(self._slots, free)
        if self._answers >= self._revised + _STALE_AFTER:
            self._revised = self._answers
            for gap in self._gaps:
                self._revise(gap)
        pages = self._shown / self._page
        waste = (self._answers + len(self._gaps) / 2 - pages) / (_WASTE_PER_SLOT * self._slots + _WASTE * pages)
        families = len({id(gap.cuts) for gap in self._gaps})
        most_cuts = 2 if waste > 1 else max(LIM, int(FAM * self._slots) // max(1, families))
        boost = 1 + OPT * free / self._slots * max(0.0, 1 - waste)
        least = self._page * max(0.1, min(2.0, LEAST * waste))
        while True:
            idle = busy = None
            for gap in self._gaps:
                if gap.offered:
                    continue
                if gap.request >= 0:
                    if (busy is None or gap.keys > busy.keys) and gap.cuts[0] < most_cuts:
                        busy = gap
                elif idle is None or gap.keys > idle.keys:
                    idle = gap
            room = (busy.keys * boost - self._page) / 2 if busy else 0.0
            if idle and (room < least or idle.keys * boost >= room):
                return self._ask(idle)
            if not busy or room < least:
                return None
            upper = self._cut(busy, (self._page + room) / boost)
            if upper:
                return self._ask(upper)
            busy.keys = 0.0

    def _ask(self, gap: _Gap) -> Request:
        self._requests += 1
        gap.request = self._requests
        return Request(gap.after, gap.until, self._requests)

    def failed(self, request: Request) -> None:
        """Take a request back that will have no answer."""
        for gap in self._gaps:
            if gap.request == request.number:
                gap.request = -1

    def answered(self, request: Request, keys: Sequence[str], is_truncated: bool) -> list[slice]:  # noqa: FBT001 - as S3 says it
        """Learn from an answer; give the parts of it that nobody has listed before, in order."""
        self.failed(request)
        if is_truncated and not keys:
            return []
        self._answers += 1
        if is_truncated and len(keys) > self._largest:
            self._page = self._largest = len(keys)
            if not self._samples:
                self._stride = max(1, self._page // _SAMPLES_PER_PAGE)
        shown = Range(request.after, keys[-1] if is_truncated else None)
        first = self._first_beyond(shown.after)
        new: list[slice] = []
        left: list[_Gap] = []
        end = first
        for gap in self._gaps[first:]:
            if shown.until is not None and gap.after >= shown.until:
                break
            end += 1
            if gap.offered:
                left.append(gap)
            else:
                part, remains = _take(gap, shown, keys)
                new += [part] if part.start < part.stop else []
                left += remains
        self._gaps[first:end] = left
        self._shown += sum(part.stop - part.start for part in new)
        for part in new:
            self._learn(keys[part])
            if part.stop < len(keys):
                self._closed(keys[part.start], keys[part.stop - 1], keys[part.stop])
        if request.after and not (keys and keys[0].startswith(request.after[:-1])):
            stem = request.after[:-1]
            self._alphabets.nothing(stem, request.after[-1], self._size(self._known(stem, request.after)))
        for gap in left:
            if not gap.offered:
                gap.cuts = [0]
                self._revise(gap, is_own=gap.after == shown.until)
        return new

    # ------------------------------------------------------------------------------------------------------- giving away

    def offer(self, least_pages: float = 0.0) -> Range | None:
        """Give a range to be given away; it stays ours until `accepted`, and is not listed meanwhile.

        It is an idle one, or else half of what is left of the largest that is being listed. None where no such range is
        expected to hold `least_pages`.
        """
        idle = [gap for gap in self._gaps if gap.request < 0 and not gap.offered and gap.keys >= least_pages * self._page]
        given = max(idle, key=lambda gap: gap.keys, default=None)
        if given is None:
            busy = max((gap for gap in self._gaps if gap.request >= 0), key=lambda gap: gap.keys, default=None)
            half = (busy.keys - self._page) / 2 if busy else 0.0
            if busy is None or half < max(least_pages, _LEAST_PAGES) * self._page:
                return None
            given = self._cut(busy, self._page + half)
        if given is None:
            return None
        given.offered = True
        return Range(given.after, given.until)

    def accepted(self, offer: Range) -> None:
        """Forget a range that someone else has taken over."""
        self._gaps = [gap for gap in self._gaps if not (gap.offered and gap.after == offer.after)]

    def refused(self, offer: Range) -> None:
        """Go on with a range that nobody took."""
        for gap in self._gaps:
            if gap.offered and gap.after == offer.after:
                gap.offered = False

    # ---------------------------------------------------------------------------------------------------------- learning

    def _learn(self, keys: Sequence[str]) -> None:
        """Keep every n-th of these keys, which follow each other."""
        taken = list(keys[self._stride // 2 :: self._stride])
        if not taken:
            return
        place = bisect_left(self._samples, taken[0])
        self._samples[place:place] = taken
        if len(self._samples) > _MOST_SAMPLES:
            self._samples = self._samples[::2]
            self._stride *= 2
        self._alphabets.read(taken[0])
        for low, high in pairwise(taken):
            level = agreed(low, high)
            self._alphabets.differ(low, high, level, self._sizes(keys[0], low, level))

    def _closed(self, first: str, low: str, high: str) -> None:
        """Learn from the last key of a gap and the first one behind it."""
        level = agreed(low, high)
        self._alphabets.differ(low, high, level, self._sizes(first, low, level), most=200)

    def _sizes(self, first: str, low: str, level: int) -> list[int]:
        """Give how much is known that begins like a key, up to each level at which what begins so reaches back to another."""
        end = agreed(first, low) + 1
        return [0] * min(level, end) + [self._size(self._known(low[:n], low)) for n in range(level, end)]

    def _size(self, keys: float) -> int:
        """Give a number that grows by one each time the keys do by four."""
        return (int(2 * keys / self._page).bit_length() + 1) // 2

    def _known(self, low: str, high: str) -> int:
        return self._stride * max(0, bisect_right(self._samples, high) - bisect_right(self._samples, low))

    def _mass(self, low: str, high: str, but: _Gap) -> tuple[float, float]:
        """Give the keys known between two, and those expected there beside."""
        known = self._known(low, high)
        gaps = self._gaps
        expected = 0.0
        for n in range(self._first_beyond(low), len(gaps)):
            gap = gaps[n]
            if gap.after >= high:
                break
            if gap is not but:
                inside = gap.after >= low and gap.until is not None and gap.until <= high
                expected += gap.keys if inside else gap.keys / 2
        return known, expected

    def _first_beyond(self, key: str) -> int:
        """Give the number of the first gap that holds keys above this one."""
        first = bisect_right(self._gaps, key, key=lambda gap: gap.after)
        return first - 1 if first and _reaches_beyond(self._gaps[first - 1], key) else first

    def _branchings(self, text: str) -> list[int]:
        """Give the places at which some known key leaves the path to `text`, deepest first."""
        levels = set()
        samples, least = self._samples, len(self._prefix)
        place, level = bisect_left(samples, text), len(text)
        while place and least <= (one := agreed(samples[place - 1], text)) < level:
            levels.add(level := one)
            place = bisect_left(samples, text[:level])
        place, level = bisect_right(samples, text), len(text)
        while place < len(samples) and least <= (one := agreed(samples[place], text)) < level:
            levels.add(level := one)
            place = bisect_right(samples, text[:level] + _TOP)
        if len(levels) > _MOST_LEVELS:
            return sorted(sorted(levels)[:_MOST_LEVELS], reverse=True)
        return sorted(levels, reverse=True)

    # -------------------------------------------------------------------------------------------------------- expecting

    def _expect(self, gap: _Gap, *, is_open: bool = False) -> list[_Piece]:
        """Predict what a gap holds, in pieces from its beginning to its end."""
        low = max(gap.after, self._prefix)
        high = gap.until if gap.until is not None and gap.until.startswith(self._prefix) else None
        fork = agreed(low, high) if high is not None else len(self._prefix)
        rising, below = self._side(gap, low, fork, is_low=True, is_open=is_open)
        falling, above = self._side(gap, high, fork, is_low=False, is_open=is_open) if high is not None else ([], 0.0)
        stem = low[:fork]
        first = low[fork : fork + 1]
        last = high[fork : fork + 1] if high is not None else ""
        middle: list[_Piece] = []
        letters = self._alphabets.between(stem, first, last)
        if letters:
            around = bool(first) + bool(last)
            if first:
                below += self._outside(gap, stem, stem + first)
                around += self._alphabets.weight(stem, "", first)
            if last:
                above += self._outside(gap, stem + last + _TOP, stem + _TOP)
                around += self._alphabets.weight(stem, last, "")
            each = (below + above) / max(1.0, around)
            middle = [_Piece(each * p, stem + c) for c, p in letters]
        return rising + middle + falling[::-1]

    def _revise(self, gap: _Gap, *, is_own: bool = False) -> None:
        """Predict anew what a gap holds, after an answer from it or from others."""
        gap.pieces = self._expect(gap)
        keys = sum(piece.keys for piece in gap.pieces)
        if gap.run <= self._page:
            gap.promised = max(gap.promised, gap.run + keys)
        if keys < gap.run * MIN and gap.run > OUT * gap.promised + self._page * OUTP:
            gap.pieces = self._expect(gap, is_open=True)
            keys = max(keys, min(RUN * gap.run, sum(piece.keys for piece in gap.pieces)))
        gap.keys = keys

    def _side(self, gap: _Gap, text: str, fork: int, *, is_low: bool, is_open: bool) -> tuple[list[_Piece], float]:
        """Predict what lies in a gap beside the path to one of its ends, from the deepest place up to where the paths to both part."""
        pieces: list[_Piece] = []
        branchings = {level for level in self._branchings(text) if level > fork}
        agreeing = self._agreeing(text, fork, branchings)
        size = self._stride / 2
        for level in sorted({*branchings, *agreeing}, reverse=True):
            stem, own = text[:level], text[: level + 1]
            size = max(size, self._outside(gap, own, own + _TOP))
            belief = agreeing.get(level, 1.0)
            known = self._size(self._known(stem, text) if is_low else self._known(stem, stem + _TOP))
            if is_low:
                size_known = size + self._outside(gap, stem, own)
                weight = 1 + self._alphabets.weight(stem, "", text[level])
                letters = self._alphabets.between(stem, text[level], "", belief, known, is_open=is_open)
            else:
                size_known = size + self._outside(gap, own + _TOP, stem + _TOP)
                weight = 1 + self._alphabets.weight(stem, text[level], "")
                letters = self._alphabets.between(stem, "", text[level], belief, known, is_open=is_open)[::-1]
            each = size_known / weight
            pieces += [_Piece(each * p, stem + c) for c, p in letters]
            size = size_known + each * sum(p for _, p in letters)
        return pieces, size

    def _agreeing(self, text: str, fork: int, branchings: set[int]) -> dict[int, float]:
        """Give places on the path to a text at which no known key differs, with what may be expected there."""
        lowest = max(branchings, default=len(text) - 1)
        levels = [level for level in range(fork + 1, min(lowest, len(text))) if level not in branchings]
        chances = {
            level: 1.0 if text[level] in self._alphabets.varying else _AGREED / (1 + self._answers / 8)
            for level in levels[:: 1 + len(levels) // _MOST_LEVELS]
        }
        scale = min(1.0, _AGREED_IN_ALL / (sum(chances.values()) or 1.0))
        return {level: chance * scale for level, chance in chances.items()}

    def _outside(self, gap: _Gap, low: str, high: str) -> float:
        return sum(self._mass(low, high, gap))

    # ---------------------------------------------------------------------------------------------------------- cutting

    def _cut(self, gap: _Gap, keys: float) -> _Gap | None:
        """Cut a gap behind so many expected keys; give the upper part, or None where it can't be cut."""
        keys *= sum(piece.keys for piece in gap.pieces) / (gap.keys or 1.0)
        before = 0.0
        for n, piece in enumerate(gap.pieces):
            if before + piece.keys < keys and n < len(gap.pieces) - 1:
                before += piece.keys
                continue
            share = min(1.0, (keys - before) / (piece.keys or 1.0))
            text, share = self._descend(piece, piece.begin + share * (piece.end - piece.begin))
            options = [(text, n, share)]
            options += [(gap.pieces[m].stem, m, 0.0) for m in range(n, len(gap.pieces))]
            options += [(gap.pieces[m].stem, m, 0.0) for m in range(n - 1, 0, -1)]
            for text, m, portion in options:
                if gap.after < text and (gap.until is None or text < gap.until) and is_key(text):
                    return self._divide(gap, text, m, portion)
            return None
        return None

    def _descend(self, piece: _Piece, share: float) -> tuple[str, float]:
        """Find a cut below which this share of the keys lies that begin like a piece; give it with the share that really does."""
        text, low, width = piece.stem, 0.0, 1.0
        total = piece.keys / ((piece.end - piece.begin) or 1.0)
        for _ in range(_DEEPEST):
            if share - low < width / 8 and low > piece.begin or width * total < self._page / 2:
                break
            letters = self._alphabets.between(text, "", "")
            whole = sum(p for _, p in letters)
            if not letters:
                break
            for n, (c, p) in enumerate(letters):
                portion = width * p / whole
                if low + portion > share or n == len(letters) - 1:
                    text, width = text + c, portion
                    break
                low += portion
        return text, low

    def _divide(self, gap: _Gap, text: str, n: int, share: float) -> _Gap:
        piece = gap.pieces[n]
        upper = _Gap(text, gap.until)
        upper.pieces = gap.pieces[n:]
        lower = gap.pieces[:n]
        if piece.begin < share < piece.end:
            portion = (share - piece.begin) / (piece.end - piece.begin)
            upper.pieces[0] = piece._replace(keys=piece.keys * (1 - portion), begin=share)
            lower.append(piece._replace(keys=piece.keys * portion, end=share))
        upper.keys = sum(one.keys for one in upper.pieces)
        upper.cuts = gap.cuts
        gap.cuts[0] += 1
        gap.pieces = lower
        gap.keys = sum(one.keys for one in lower)
        gap.until = text
        self._gaps.insert(self._gaps.index(gap) + 1, upper)
        return upper


def _take(gap: _Gap, shown: Range, keys: Sequence[str]) -> tuple[slice, list[_Gap]]:
    """Take what an answer shows out of a gap; give the part of the answer that lay in it, and what remains of the gap."""
    low = bisect_right(keys, max(gap.after, shown.after))
    high = len(keys) if gap.until is None else bisect_right(keys, gap.until)
    remains = []
    goes_on = gap.after == shown.after
    if gap.after < shown.after:
        lower = _Gap(gap.after, shown.after)
        lower.request = gap.request
        remains.append(lower)
    if shown.until is not None and _reaches_beyond(gap, shown.until):
        gap.run = (gap.run if goes_on else 0) + high - low
        gap.begin = keys[low] if low < high else gap.begin
        gap.after = shown.until
        remains.append(gap)
    return slice(low, high), remains


def _reaches_beyond(gap: _Gap, key: str) -> bool:
    return gap.until is None or gap.until > key
