"""Which list requests to send, so that many at a time cover a range of keys, whatever the keys look like. Pure.

An answer shows all keys from where it was asked for to its own last key. What no answer has shown yet are *gaps*; a request
goes to the start of a gap, or cuts a gap in two and goes to the cut. Where to cut is learned from what the answers showed:
docs/listing.md explains it on one page.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.keyspace import agreed, is_key
from s3bulkcopy.worker.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Samples taken of a page, and kept of all pages, of long keys as many as have so many characters: every n-th key stands for n
#: keys.
_SAMPLES_PER_PAGE = 24
_MOST_SAMPLES = 20_000
_MOST_CHARACTERS = 2_000_000

#: Smallest piece that a cut may leave, in pages, beside the page under way.
_LEAST_PAGES = 1.0

#: Answers of every one that may show nothing new before cuts become rarer.
_WASTE = 0.15

#: Siblings on either side that are looked at to predict one.
_SIBLINGS = 4

#: Places, from the beginning of a key, at which it is compared with others.
_MOST_LEVELS = 32

#: Answers after which what was predicted of a gap is predicted again before it is cut.
_STALE_AFTER = 16

#: What is expected at a place in the keys where all seen so far agree, as a share of what they hold.
_AGREED_ALIKE, _AGREED = 0.5, 0.1

#: Characters at one place from which on an alphabet is wide: any other may be in it.
_WIDE = 100

#: From here on scripts have alphabets of thousands.
_WIDE_FROM = "\u2e80"

#: Share of a sibling that must be known for others to be measured by it.
_SURE = 0.5

#: Most segments for one place at which all known keys agree.
_AGREED_CUTS = 12

#: Gaps of which nothing is known, behind one that is being listed: its answer may show them too, so they wait for it.
_SPACING = 1

_TOP = "\U0010ffff"


#: Characters that XML or UTF-8 can't carry: control characters, surrogates, and two that are none. And the last that both can.
_UNFIT = ((0, 0x20), (0x7F, 0xA0), (0xD800, 0xE000), (0xFFFE, 0x10000))
_HIGHEST = 0x10FFFD


class Request(NamedTuple):
    """A page to ask for: the keys after `after`. What lies beyond `until` may be listed by others, too."""

    after: str
    until: str | None
    number: int


class _Segment(NamedTuple):
    """A part of a gap: keys expected in it, the cut where it begins, and known keys that it may look like.

    The expected keys are those of `like` in `(low, high]` with the beginning `like` replaced by `stem`; without known keys
    (`like` is empty) the segment is cut at its beginning only.
    """

    keys: float
    cut: str
    stem: str = ""
    like: str = ""
    low: str = ""
    high: str = ""


class _Gap:
    """Keys `(after, until]` that no answer has shown yet."""

    __slots__ = ("after", "begin", "cuts", "keys", "made", "offered", "request", "run", "segments", "until")

    def __init__(self, after: str, until: str | None) -> None:
        self.after = after
        self.until = until
        self.request = -1  # number of the request under way that began here
        self.offered = False
        self.segments: list[_Segment] = []
        self.keys = 0.0  # expected
        self.made = -_STALE_AFTER  # answers known when that was expected
        self.run = 0  # keys listed in a row that ended where this gap begins
        self.begin = after  # first key of the last page of them
        self.cuts = [0]  # how often it was cut without an answer from it; shared with the pieces


_AFTER = attrgetter("after")


class Planner:
    """The open ranges of a worker, and what it has learned about keys."""

    def __init__(self, ranges: Iterable[Range], prefix: str = "", page_size: int = 1000) -> None:
        """Begin with these ranges, which do not overlap; answers hold only keys that start with `prefix`."""
        self._prefix = prefix
        self._page = page_size  # until a larger or smaller one is seen
        self._largest = 0
        self._slots = 1
        self._wasted = 0  # answers that showed next to nothing new
        self._gaps = [_Gap(after, until) for after, until in sorted(ranges, key=lambda r: r.after)]
        self._samples: list[str] = []
        self._stride = max(1, page_size // _SAMPLES_PER_PAGE)
        self._alphabets: dict[tuple[int, int], set[str]] = {}
        self._requests = 0
        self._answers = 0

    # ------------------------------------------------------------------------------------------------------ what is ours

    def add(self, ranges: Iterable[Range]) -> None:
        """Take over more ranges; none may overlap what is open, and what holds no text is none."""
        for after, until in ranges:
            if until is None or after < until:
                insort(self._gaps, gap := _Gap(after, until), key=_AFTER)
                if self._samples:
                    self._expect(gap)

    def withdraw(self, whole: Range, *, but_busy: bool = False) -> list[Range]:
        """Forget what remains of a range, and give it; `but_busy` leaves what a request is under way for, or an offer.

        Of the answer to a request that is under way for what was withdrawn, only the keys in other ranges are new.
        """
        first, end = self._inside(whole)
        kept = [gap for gap in self._gaps[first:end] if but_busy and (gap.request >= 0 or gap.offered)]
        given = [Range(gap.after, gap.until) for gap in self._gaps[first:end] if gap not in kept]
        self._gaps[first:end] = kept
        return given

    def is_open(self, whole: Range) -> bool:
        """Tell whether any of a range remains, which is all in one of the ranges given or holds whole ones."""
        first, end = self._inside(whole)
        return first < end

    def expected(self) -> float:
        """Give how many pages what remains is expected to hold."""
        return sum(gap.keys for gap in self._gaps) / self._page

    def _inside(self, whole: Range) -> tuple[int, int]:
        """Give the first gap in a range and the first one behind it."""
        first = bisect_left(self._gaps, whole.after, key=_AFTER)
        return first, len(self._gaps) if whole.until is None else bisect_left(self._gaps, whole.until, first, key=_AFTER)

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
        is_costly = self._wasted > self._slots + _WASTE * self._answers
        most_cuts = 2 if is_costly else max(6, 2 * self._slots // max(1, len(self._gaps)))
        least = _LEAST_PAGES * self._page * (2 if is_costly else 1)
        while True:
            idle = busy = None
            since = _SPACING
            for gap in self._gaps:
                if gap.offered:
                    continue
                since += 1
                if gap.request >= 0:
                    since = 0
                    if (busy is None or gap.keys > busy.keys) and gap.cuts[0] < most_cuts:
                        busy = gap
                elif (gap.keys or since > _SPACING) and (idle is None or gap.keys > idle.keys):
                    idle = gap
            room = (busy.keys - self._page) / 2 if busy else 0.0
            if idle and (room < least or idle.keys >= room):
                return self._ask(idle)
            if not busy or room < least:
                return None
            if busy.made + _STALE_AFTER <= self._answers:
                self._expect(busy)
                continue
            upper = self._cut(busy, self._page + room)
            if upper:
                return self._ask(upper)
            busy.keys = 0.0

    def first_request(self, whole: Range) -> Request | None:
        """Give what to ask for in a range that has waited for long, whatever it promises; None where that is under way."""
        first, end = self._inside(whole)
        waiting = (gap for gap in self._gaps[first:end] if gap.request < 0 and not gap.offered)
        return next(map(self._ask, waiting), None)

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
        self._wasted += sum(part.stop - part.start for part in new) < self._page / 10
        for part in new:
            self._learn(keys[part])
        for gap in left:
            if not gap.offered:
                gap.cuts = [0]
                self._expect(gap)
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
        if len(self._samples) > min(_MOST_SAMPLES, _MOST_CHARACTERS // (len(taken[0]) or 1)):
            self._samples = self._samples[::2]
            self._stride *= 2
        for low, high in pairwise(taken):
            level = agreed(low, high)
            if level < len(low):
                alphabet = self._alphabets.setdefault(_position(low, level), set())
                if len(alphabet) > 2 * _WIDE:
                    alphabet -= {min(alphabet), sorted(alphabet)[_WIDE]}
                alphabet |= {low[level], high[level]}

    def _mass(self, low: str, high: str, but: _Gap) -> tuple[float, float]:
        """Give the keys known between two, and those expected there beside."""
        known = self._stride * max(0, bisect_right(self._samples, high) - bisect_right(self._samples, low))
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

    def _siblings(self, text: str, level: int) -> list[str]:
        """Give the nearest known keys' beginnings that differ from `text` in the character at `level` only."""
        stem, samples = text[:level], self._samples
        found: list[str] = []
        place = bisect_left(samples, text[: level + 1])
        while place and len(found) < _SIBLINGS and (one := samples[place - 1]).startswith(stem) and len(one) > level:
            found.append(one[: level + 1])
            place = bisect_left(samples, one[: level + 1])
        below = len(found)
        place = bisect_right(samples, text[: level + 1] + _TOP)
        while place < len(samples) and len(found) < below + _SIBLINGS and (one := samples[place]).startswith(stem):
            found.append(one[: level + 1])
            place = bisect_right(samples, one[: level + 1] + _TOP)
        return found

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

    def _expect(self, gap: _Gap) -> None:  # noqa: C901, PLR0915 - one walk up the key; its steps share what was seen below
        """Predict what a gap holds, in segments from its beginning to its end."""
        gap.made = self._answers
        low = max(gap.after, self._prefix)
        high = gap.until
        fork = agreed(low, high) if high is not None else len(self._prefix)
        rest: list[_Segment] = []
        reliance = 0.0  # how far the rest is known from keys like it
        size = float(self._page)  # of what is known to begin like `low` down to the level looked at
        alike: set[str] = set()
        end = len(low)
        for level in sorted({*self._branchings(low), fork - 1}, reverse=True):
            between = range(max(fork, level + 1), end)
            if between:
                size = self._expect_agreed(rest, low, high, between, size, alike)
                reliance *= 0.5
            end = level
            siblings = self._siblings(low, level) if level >= len(self._prefix) else []
            if not siblings:
                continue
            stem, tail = low[:level], low[level + 1 :]
            top = high[level + 1 :] if high is not None and fork > level else _TOP
            masses = [self._mass(one, one + _TOP, gap) for one in siblings]
            parts = [self._mass(one + tail, one + top, gap) for one in siblings]
            best = max(range(len(siblings)), key=lambda n: (_sure(masses[n]), masses[n][0]))
            like = siblings[best]
            each = sum(map(sum, masses)) / len(masses)
            if _sure(masses[best]) < _SURE:
                each = max(each, size / 2)
            begin = max(gap.begin, low[: level + 1])[level + 1 :]
            mine = self._mass(low[: level + 1] + begin, low, gap)[0]
            few = self._page / 4
            fit = []  # siblings that are known where this one is not, and looked alike where it is
            for one, part in zip(siblings, parts, strict=True):
                same = sum(self._mass(one + begin, one + tail, gap))
                if _sure(part) >= _SURE and mine <= 4 * same + few:
                    fit.append((_sure(part), part[0], sum(part) * min(4.0, (mine + few) / (same + few)), one))
            if fit and (sure := max(fit)[0]) >= reliance:
                one = max(fit)[3]
                left = sum(part for _, _, part, _ in fit) / len(fit)
                rest = [_Segment(left, low, low[: level + 1], one, one + tail, one + top)]
                reliance = sure
            if level < fork:
                continue
            own = self._alphabets.get(_position(low, level), set()) | {one[level] for one in siblings}
            alike = alike | own
            upper = high[level] if high is not None and level == fork and level < len(high) else None
            each = max(each, 1.0)
            seen = self._mass(stem, low, gap)[0]
            letters = self._letters(low[level], upper, own, alike, seen / each)
            total = each * sum(chance for _, chance in letters)
            cap = min(1.0, max(seen, size * (1 + len(siblings))) / (total or 1.0))
            for letter, chance in letters:
                target = stem + letter
                rest.append(_Segment(each * chance * cap, target, target, like, like, like + _TOP))
            size += total * cap
            if high is not None and upper is not None:
                target, top = stem + upper, like + high[level + 1 :]
                rest.append(_Segment(sum(self._mass(like, top, gap)), target, target, like, like, top))
            if letters:
                reliance *= 0.5
            size = max(size, each)
        gap.segments = rest
        gap.keys = max(sum(part.keys for part in rest), gap.run)

    def _expect_agreed(
        self, rest: list[_Segment], low: str, high: str | None, levels: range, size: float, alike: set[str]
    ) -> float:
        """Add what may lie beyond levels at which all known keys agree, deepest first; give the size with it."""
        step = max(1, len(levels) // 24)
        for level in levels[::-1][::step]:
            upper = high[level] if high is not None and level < len(high) and high[:level] == low[:level] else None
            own = self._alphabets.get(_position(low, level), set())
            likely = low[level] in alike
            letters = self._letters(low[level], upper, own, alike if likely and not own else set())
            letters = letters[:: 1 + len(letters) // _AGREED_CUTS]
            share = size * (_AGREED_ALIKE if own else (_AGREED_ALIKE if likely else _AGREED) / (1 + self._answers / 8))
            total = sum(chance for _, chance in letters) or 1
            rest += [_Segment(share * chance / total, low[:level] + letter) for letter, chance in letters]
            size += share
        return size

    def _letters(
        self, above: str, below: str | None, own: set[str], alike: set[str], seen: float = 0.0
    ) -> list[tuple[str, float]]:
        """Give the characters that may come after `above`, with the number of siblings expected from each on."""
        found: dict[str, float] = {}
        limit = ord(below) if below is not None else 0x110000
        top = ord(max(above, max(own, default=above)))
        is_wide = _is_wide(own) or above >= _WIDE_FROM
        if below is None or not is_wide:
            beyond = max(0, (limit - top - 1).bit_length())
            expected = max(seen, len(own)) if is_wide else 0.05 * len(own) or 1.0
            found |= {_legal(top + (1 << n)): expected / beyond for n in range(beyond) if top + (1 << n) < limit}
        if is_wide:  # so many that any character may be one
            first, end = ord(above) + 1, top if below is None else limit
            step = max(1, (end - first) // 16)
            found |= {_legal(code): step / 2 for code in range(first, end, step)}
        else:
            found |= {letter: 0.6 for letter in alike if above < letter and ord(letter) < limit}
            found |= {letter: 0.95 for letter in own if above < letter and ord(letter) < limit}
        return sorted(found.items())

    # ---------------------------------------------------------------------------------------------------------- cutting

    def _cut(self, gap: _Gap, keys: float) -> _Gap | None:
        """Cut a gap behind so many expected keys; give the upper part, or None where it can't be cut."""
        before = 0.0
        keys *= sum(part.keys for part in gap.segments) / (gap.keys or 1.0)
        for n, part in enumerate(gap.segments):
            if before + part.keys < keys and n < len(gap.segments) - 1:
                before += part.keys
                continue
            cut, share = self._cut_in(part, (keys - before) / (part.keys or 1.0))
            options = [(cut, n, share)]
            options += [(gap.segments[m].cut, m, 0.0) for m in range(n, len(gap.segments))]
            options += [(gap.segments[m].cut, m, 0.0) for m in range(n - 1, 0, -1)]
            for text, m, portion in options:
                if gap.after < text and (gap.until is None or text < gap.until) and is_key(text):
                    return self._divide(gap, text, m, portion)
            return None
        return None

    def _cut_in(self, part: _Segment, share: float) -> tuple[str, float]:
        """Cut a segment where this share of its keys lies below."""
        if not part.like:
            return part.cut, 0.0
        first, end = bisect_right(self._samples, part.low), bisect_right(self._samples, part.high)
        if end - first <= 2:  # noqa: PLR2004 - with two samples there is nothing to choose from
            return part.cut, 0.0
        place = min(end - 1, max(first + 1, first + int(share * (end - first))))
        low, high = self._samples[place - 1], self._samples[place]
        return part.stem + high[len(part.like) : agreed(low, high) + 1], (place - first) / (end - first)

    def _divide(self, gap: _Gap, text: str, n: int, share: float) -> _Gap:
        part = gap.segments[n]
        upper = _Gap(text, gap.until)
        upper.segments = gap.segments[n:]
        lower = gap.segments[:n]
        if share:
            middle = part.like + text[len(part.stem) :]
            upper.segments[0] = part._replace(keys=part.keys * (1 - share), cut=text, low=middle)
            lower.append(part._replace(keys=part.keys * share, high=middle))
        upper.keys = sum(one.keys for one in upper.segments)
        upper.made = gap.made
        upper.cuts = gap.cuts
        gap.cuts[0] += 1
        gap.segments = lower
        gap.keys = sum(one.keys for one in lower)
        gap.until = text
        self._gaps.insert(self._gaps.index(gap) + 1, upper)
        return upper


def first_cuts(first_page: Sequence[str], prefix: str, most: int) -> list[str]:
    """Give where to cut what lies behind the first page of a bucket, going by nothing but its keys."""
    planner = Planner([Range("", None)], prefix, max(1, len(first_page)))
    request = planner.request(most)
    if request is None or not first_page:
        return []
    planner.answered(request, first_page, is_truncated=True)
    requests = [planner.request(free) for free in range(most, 0, -1)]
    return [one.after for one in requests if one is not None and one.after > first_page[-1]]


def _sure(mass: tuple[float, float]) -> float:
    """Tell which share of a mass is known rather than expected."""
    return (mass[0] + 1) / (sum(mass) + 1)


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


def _is_wide(alphabet: set[str]) -> bool:
    return len(alphabet) >= _WIDE


def _position(text: str, level: int) -> tuple[int, int]:
    """Tell where in a key a level is: which field it belongs to, and how far into it."""
    slash = text.rfind("/", 0, level)
    return text.count("/", 0, level), level - slash


def _legal(code: int) -> str:
    """Give the first character from here on that XML and a key may hold."""
    for first, end in _UNFIT:
        if first <= code < end:
            code = end
    return chr(min(code, _HIGHEST))
