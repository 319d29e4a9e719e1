"""Which list requests to send, so that many at a time cover a range of keys, whatever the keys look like. Pure.

An answer shows all keys from where it was asked for to its own last key. What no answer has shown yet are *gaps*; a request
goes to the start of a gap, or cuts a gap in two and goes to the cut. Where to cut is learned from what the answers showed:
docs/listing.md explains it on one page.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate, islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.alphabets import Alphabets
from s3bulkcopy.worker.keyspace import agreed, is_key
from s3bulkcopy.worker.model import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Samples taken of a page, and kept of all pages, of long keys as many as have so many characters: every n-th key stands for n
#: keys.
_SAMPLES_PER_PAGE = 16
_MOST_SAMPLES = 20_000
_MOST_CHARACTERS = 2_000_000

#: Smallest piece that is given away, in pages.
_LEAST_PAGES = 1.0

#: Pages' worth of requests that may show nothing new: so many a slot, and such a share of the pages shown.
_WASTE_PER_SLOT, _WASTE = 1.4, 0.18

#: Pages that a cut must promise: so many when all of that is used up, within limits.
_PROMISE, _LEAST_PROMISE, _MOST_PROMISE = 0.8, 0.1, 2.0

#: How many times more than expected gaps are taken to hold while all slots are free and nothing was wasted.
_OPTIMISM = 10.0

#: And how many more times while only few gaps are left, fewer than such a share of the slots, unless too much was wasted.
_LAST_OPTIMISM, _LAST, _MOST_WASTE = 2.8, 0.6, 1.6

#: Cuts of a gap before its own next answer: so many, or so many for each slot divided among the gaps; and after much waste.
_CUTS, _CUTS_PER_SLOT, _CUTS_WHEN_COSTLY = 10, 0.3, 2

#: Places, from the beginning of a key, at which it is compared with others.
_MOST_LEVELS = 32

#: Of those at which no known key differs, so many that are known to vary elsewhere come first.
_VARYING = 8

#: What is expected of every gap is predicted again after so many answers, or one in so many of all that came, if that is more:
#: the more are known, the less each tells.
_STALE_AFTER, _STALE_PART = 32, 10

#: What is expected beside all places together at which no known key differs, as a multiple of what is known.
_AGREED_IN_ALL = 1.0

#: How far unseen characters are believed in at such a place, where its own is not known to vary anywhere.
_AGREED = 0.1

#: A run has outrun its prediction at so many times that, when less than such a share of it is expected to follow.
_OUTRUN, _FOLLOWING = 1.25, 0.5

#: Pages in a row after which it is taken to have, in any case.
_LONG_RUN = 3.5

#: How many times more than by its own a gap is expected to hold by what lies beside what it is part of, at so many levels.
_MOST_LIKE, _LIKE_LEVELS = 8.0, 2

#: And how many times more the rest of what it begins in, by what lies beside that.
_MOST_LIKE_AT_END = 3.0

#: Characters that a cut may have beyond what is known.
_DEEPEST = 40

#: Answers of which all samples that follow each other are learned from; and of later ones, every other pair.
_ALL_PAIRS_FOR, _EVERY_PAIR = 128, 2

#: Characters of a key that are learned from when all that begins like it is complete.
_WHOLE = 200

#: A path repeats itself if one to so many characters came three times, and keys left it at so many of these places at least.
_MOST_PERIOD, _LEAST_REPEATED = 16, 6

#: Most that is expected in a gap, beside a page a slot: as a multiple of all that was shown, for gaps are compared with gaps.
_MOST_TIMES = 1.0

#: How often the way ahead along such a path is doubled.
_MOST_AHEAD = 8

#: Places behind the one at which two texts differ for which the alphabets are kept in any case.
_NEAR = 6

#: Gaps of which nothing is known, behind one that is being listed: its answer may show them too, so they wait for it.
_SPACING = 1

#: While listing is held up, a gap that is expected to hold more than one part in so many of the whole is cut where its turn is,
#: into pieces of so many pages at least. Turns are this part of the whole apart, going round: however many there were, they lie
#: about as evenly as so many can.
_EVEN_PARTS, _LEAST_EVEN_PAGES = 32, 2
_APART = (5**0.5 - 1) / 2

_TOP = "\U0010ffff"


class Request(NamedTuple):
    """A page to ask for: the keys after `after`. What lies beyond `until` may be listed by others, too."""

    after: str
    until: str | None
    number: int


class _Piece(NamedTuple):
    """A part of a gap: the keys expected in it.

    They begin with `stem`. Of all that are expected to, those from one share on up to another.
    """

    keys: float
    stem: str
    begin: float = 0.0
    end: float = 1.0
    is_from_stem_on: bool = False  # what lies between this text and the next piece, better not cut elsewhere


class _Group(NamedTuple):
    """What is expected behind the same text: so many keys in all; and how many for each weight of a character that follows."""

    keys: float
    stem: str
    letters: list[tuple[str, float]]
    each: float
    is_ahead: bool = False  # on a path that repeats itself


class _Gap:
    """Keys `(after, until]` that no answer has shown yet."""

    __slots__ = ("after", "cuts", "groups", "keys", "offered", "pieces", "promised", "request", "run", "until")

    def __init__(self, after: str, until: str | None) -> None:
        self.after = after
        self.until = until
        self.request = -1  # number of the request under way that began here
        self.offered = False
        self.groups: list[_Group] = []  # what is expected, in order
        self.pieces: list[_Piece] = []  # likewise, one for each character, once it is cut
        self.keys = 0.0  # expected
        self.promised = 0.0  # keys expected in a row from where the run began
        self.run = 0  # keys listed in a row that ended where this gap begins
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
        self._shown = 0  # keys
        self._gaps = [_Gap(after, until) for after, until in sorted(ranges, key=lambda r: r.after)]
        self._samples: list[str] = []
        self._stride = max(1, page_size // _SAMPLES_PER_PAGE)
        self._alphabets = Alphabets()
        self._read = ""  # the last key that they learned from as a whole
        self._requests = 0
        self._answers = 0
        self._revised = 0
        self._turn = 0.0  # as a share of what is expected

    # ------------------------------------------------------------------------------------------------------ what is ours

    def add(self, ranges: Iterable[Range]) -> None:
        """Take over more ranges; none may overlap what is open, and what holds no text is none."""
        for after, until in ranges:
            if until is None or after < until:
                insort(self._gaps, gap := _Gap(after, until), key=_AFTER)
                if self._samples:
                    self._revise(gap)

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

    def request(self, free: int = 1, *, is_held_up: bool = False) -> Request | None:
        """Give what to ask for with one of `free` slots, or None where nothing is worth a request until an answer comes.

        Where listing `is_held_up` by what is done with the keys, all parts of the key space get on at the same pace.
        """
        self._slots = max(self._slots, free)
        if self._answers >= self._revised + max(_STALE_AFTER, self._answers // _STALE_PART):
            self._revised = self._answers
            for gap in self._gaps:
                self._revise(gap)
        waste = self._waste()
        least = self._page * max(_LEAST_PROMISE, min(_MOST_PROMISE, _PROMISE * waste))
        optimism = 1 + _OPTIMISM * max(0.0, 1 - waste) * free / self._slots
        if waste < _MOST_WASTE:
            optimism += _LAST_OPTIMISM * max(0.0, 1 - len(self._gaps) / (_LAST * self._slots))
        most_cuts = self._most_cuts(waste)
        while True:
            waiting = [*self._waiting()]
            idle = _largest(waiting)
            busy = _largest(gap for gap in self._gaps if gap.request >= 0 and gap.cuts[0] < most_cuts)
            room = (busy.keys * optimism - self._page) / 2 if busy else 0.0
            if idle and (room < least or idle.keys * optimism >= room):
                return self._ask(self._in_turn(waiting) if is_held_up and idle.keys else idle)
            if not busy or room < least:
                return None
            upper = self._cut(busy, (self._page + room) / optimism)
            if upper:
                return self._ask(upper)
            busy.keys = 0.0

    def _waiting(self) -> Iterator[_Gap]:
        """Give the gaps that a request may go to; those of which nothing is known wait for the answer to one before them."""
        since = _SPACING
        for gap in self._gaps:
            if gap.offered:
                continue
            since += 1
            if gap.request >= 0:
                since = 0
            elif gap.keys or since > _SPACING:
                yield gap

    def _in_turn(self, waiting: Sequence[_Gap]) -> _Gap:
        """Give the gap in which the next turn lies, or the part of it that begins there."""
        ends = [*accumulate(gap.keys for gap in waiting)]
        self._turn = (self._turn + _APART) % 1
        place = bisect_right(ends, self._turn * ends[-1], hi=len(ends) - 1)
        gap = waiting[place]
        lower = self._turn * ends[-1] - (ends[place] - gap.keys)
        least = _LEAST_EVEN_PAGES * self._page
        if gap.keys > ends[-1] / _EVEN_PARTS and least < lower < gap.keys - least:
            return self._cut(gap, lower) or gap
        return gap

    def first_request(self, whole: Range) -> Request | None:
        """Give what to ask for in a range that has waited for long, whatever it promises; None where that is under way."""
        first, end = self._inside(whole)
        waiting = (gap for gap in self._gaps[first:end] if gap.request < 0 and not gap.offered)
        return next(map(self._ask, waiting), None)

    def _waste(self) -> float:
        """Tell which share of the waste that is allowed is used up; each open gap will cost half a page."""
        pages = self._shown / self._page
        return (self._answers + len(self._gaps) / 2 - pages) / (_WASTE_PER_SLOT * self._slots + _WASTE * pages)

    def _most_cuts(self, waste: float) -> int:
        if waste > 1:
            return _CUTS_WHEN_COSTLY
        families = len({id(gap.cuts) for gap in self._gaps})
        return max(_CUTS, int(_CUTS_PER_SLOT * self._slots) // max(1, families))

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
        goes_on = any(gap.run for gap in self._gaps if gap.request == request.number)
        self.failed(request)
        if is_truncated and not keys:
            return []
        self._answers += 1
        if is_truncated and len(keys) > self._largest:
            self._page = self._largest = len(keys)
            if not self._samples:
                self._stride = max(1, self._page // _SAMPLES_PER_PAGE)
        new, left = self._show(Range(request.after, keys[-1] if is_truncated else None), keys)
        for part in new:
            self._shown += part.stop - part.start
            self._learn(keys[part])
            if part.stop < len(keys):
                self._closed(keys[part.start], keys[part.stop - 1], keys[part.stop])
        if request.after:
            self._nothing(request.after, keys[0] if keys else "", is_key=goes_on)
        for gap in left:
            if not gap.offered:
                gap.cuts = [0]
                self._revise(gap)
        return new

    def _show(self, shown: Range, keys: Sequence[str]) -> tuple[list[slice], list[_Gap]]:
        """Take what an answer shows out of the gaps; give its parts that lay in gaps, and what remains of these."""
        new: list[slice] = []
        left: list[_Gap] = []
        first = end = self._first_beyond(shown.after)
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
        return new, left

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
        self._alphabets.read(taken[0], agreed(self._read, taken[0]))
        self._read = taken[0]
        step = 1 if self._answers < _ALL_PAIRS_FOR else _EVERY_PAIR
        for low, high in islice(pairwise(taken), self._answers % step, None, step):
            level = agreed(low, high)
            self._alphabets.differ(low, high, level, self._sizes(keys[0], low, level))
        if (level := agreed(keys[0], keys[-1])) < len(keys[0]) and keys[0] != keys[-1]:
            place = bisect_left(keys, keys[-1][: level + 1])
            self._closed(keys[0], keys[place - 1], keys[place])

    def _closed(self, first: str, low: str, high: str) -> None:
        """Learn from the last key of a gap and the first one behind it."""
        level = agreed(low, high)
        self._alphabets.differ(low, high, level, self._sizes(first, low, level), most=_WHOLE)

    def _nothing(self, low: str, high: str, *, is_key: bool) -> None:
        """Learn that no key lies between two texts, the lower one of which is the last key of a page, or a cut."""
        place = bisect_left(self._samples, low)
        near = self._samples[max(0, place - 1) : place + 1]
        known = len(low) if is_key else max((agreed(one, low) for one in near), default=0)  # only so much do keys begin with
        level = agreed(low, high) + 1 if high else len(self._prefix)
        if high and known >= level:
            self._alphabets.comes(high[: level - 1], high[level - 1], self._size(self._known(low[: level - 1], low)))
        levels = range(level, min(known, len(low) - 1, level + _WHOLE) + 1)
        sizes = (self._size(self._known(low[:n], low)) for n in levels)
        self._alphabets.nothing(low, levels, sizes, level + _NEAR, is_key=is_key)

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
        """Give the keys known between two, and those expected there in other gaps, of these that lie there as a whole."""
        known = self._known(low, high)
        gaps = self._gaps
        expected = 0.0
        for n in range(bisect_left(gaps, low, key=_AFTER), len(gaps)):
            gap = gaps[n]
            if gap.until is None or gap.until > high:
                break
            if gap is not but:
                expected += gap.keys
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
        place, level = bisect_right(samples, text + _TOP), len(text)
        while place < len(samples) and least <= (one := agreed(samples[place], text)) < level:
            levels.add(level := one)
            place = bisect_right(samples, text[:level] + _TOP)
        deepest_first = sorted(levels, reverse=True)
        if len(levels) > _MOST_LEVELS:
            return deepest_first[: _MOST_LEVELS // 2] + deepest_first[-_MOST_LEVELS // 2 :]
        return deepest_first

    # -------------------------------------------------------------------------------------------------------- expecting

    def _expect(self, gap: _Gap, *, is_open: bool = False) -> list[_Group]:
        """Predict what a gap holds, from its beginning to its end.

        Where that is the top, all places on the path of its beginning are alike. Else there is one at which two paths part.
        """
        low = max(gap.after, self._prefix)
        high = gap.until if gap.until is not None and gap.until.startswith(self._prefix) else None
        fork = agreed(low, high) if high is not None else len(self._prefix) - 1
        branchings = self._branchings(low)
        rising, below = self._side(gap, low, fork, branchings, is_low=True, is_open=is_open)
        rising = self._with_repeats(rising, low, high, branchings)
        around_it = [level for level in branchings if level < fork][:_LIKE_LEVELS]
        if high is None:
            return self._like_others(gap, rising, low, around_it, _MOST_LIKE)
        if fork >= len(self._prefix):
            rising = self._like_others(gap, rising, low, [fork], _MOST_LIKE_AT_END)
        falling, above = self._side(gap, high, fork, self._branchings(high), is_low=False, is_open=is_open)
        stem, first, last = low[:fork], low[fork : fork + 1], high[fork : fork + 1]
        middle: list[_Group] = []
        known = self._size(self._known(stem, low))
        letters = self._alphabets.between(stem, first, last, 1.0, known, is_open=is_open)
        if letters:
            above += self._outside(gap, stem + last + _TOP, stem + _TOP)
            around = 1.0 + self._alphabets.weight(stem, last, "")
            if first:
                below += self._outside(gap, stem, stem + first)
                around += 1.0 + self._alphabets.weight(stem, "", first)
            each = (below + above) / around
            middle = [_Group(each * sum(p for _, p in letters), stem, letters, each)]
        return self._like_others(gap, rising + middle + falling[::-1], low, around_it, _MOST_LIKE)

    def _like_others(self, gap: _Gap, groups: list[_Group], path: str, levels: list[int], most: float) -> list[_Group]:
        """Expect as much in what groups are part of as in what is known beside that, on average, but at most so many times."""
        inside = total = sum(group.keys for group in groups)
        for level in levels:
            stem, own = path[:level], path[: level + 1]
            others = self._alphabets.weight(stem, "", "") - 1
            beside = self._outside(gap, stem, own) + self._outside(gap, own + _TOP, stem + _TOP)
            known, expected = self._mass(own, own + _TOP, gap)
            missing = beside / max(1.0, others) - known
            if total and missing > expected + total:
                total = min(missing / (expected + total) * total, most * inside)
        return [_times(group, total / inside) for group in groups] if total > inside else groups

    def _revise(self, gap: _Gap) -> None:
        """Predict anew what a gap holds, after an answer from it or from others."""
        groups = self._expect(gap)
        keys = sum(group.keys for group in groups)
        if gap.run <= self._page:
            gap.promised = max(gap.promised, gap.run + keys)
        elif keys < _FOLLOWING * gap.run and (
            gap.run > _LONG_RUN * self._page or gap.run > _OUTRUN * gap.promised + self._page / 2
        ):
            groups = self._expect(gap, is_open=True)
            keys = max(keys, min(gap.run, sum(group.keys for group in groups)))
        gap.keys = min(keys, _MOST_TIMES * self._shown + self._slots * self._page)
        found = sum(group.keys for group in groups)
        gap.groups = [_times(group, gap.keys / found) for group in groups] if found > gap.keys else groups
        gap.pieces = []

    def _with_repeats(self, rising: list[_Group], text: str, high: str | None, levels: list[int]) -> list[_Group]:
        """Put what is expected further along a path that repeats itself among what is expected beside it.

        Where keys left the path at place after place, they are expected to do so 1, 2, 4, 8… places further on.
        """
        found = _repeats(text, levels)
        if not found:
            return rising
        level, again, seen = found
        stem = text[:level]
        each = self._known(text[: level - seen], text) / seen
        groups = []
        for further in (1 << n for n in range(_MOST_AHEAD)):
            path = stem + (again * (further // len(again) + 1))[:further]
            if (high is None or path < high) and is_key(path):
                keys = each * further * seen / (seen + further)
                groups.append(_Group(keys, path[:-1], [(path[-1], 1.0)], keys, is_ahead=True))
        before = [group for group in rising if len(group.stem) > level]
        beside = [group for group in rising if len(group.stem) == level]
        behind = [group for group in rising if len(group.stem) < level]
        lower = [_part(group, [one for one in group.letters if one[0] < again[0]]) for group in beside]
        higher = [_part(group, [one for one in group.letters if one[0] > again[0]]) for group in beside]
        return before + lower + groups + higher + behind

    def _side(
        self, gap: _Gap, text: str, fork: int, levels: list[int], *, is_low: bool, is_open: bool
    ) -> tuple[list[_Group], float]:
        """Predict what lies in a gap beside the path to one of its ends, from the deepest place up to where both paths part."""
        branchings = {level for level in levels if level > fork}
        beliefs = self._beliefs(text, fork, branchings)
        steps = {}
        for level in (*branchings, *beliefs):
            stem = text[:level]
            known = self._size(self._known(stem, text if is_low else stem + _TOP))
            belief = beliefs.get(level, 1.0)
            steps[level] = self._alphabets.beside(stem, text[level], belief, known, is_low=is_low, is_open=is_open)
        growths = [steps[level][1] / (1 + steps[level][2]) for level in beliefs]
        scale = min(1.0, min(_AGREED_IN_ALL, 2 * max(growths, default=0.0)) / (sum(growths) or 1.0))
        groups: list[_Group] = []
        size = self._stride / 2
        for level in sorted(steps, reverse=True):
            stem, own = text[:level], text[: level + 1]
            size = max(size, self._outside(gap, own, own + _TOP))
            beside = self._outside(gap, stem, own) if is_low else self._outside(gap, own + _TOP, stem + _TOP)
            letters, number, others = steps[level]
            like = beside / max(1.0, others)
            if like > size and groups:
                inside = sum(group.keys for group in groups)
                times = min(_MOST_LIKE, 1 + (like - size) / (inside or 1.0))
                groups = [_times(group, times) for group in groups]
                size += inside * (times - 1)
            size += beside
            each = size / (1 + others) * (scale if level in beliefs else 1.0)
            if letters:
                groups.append(_Group(each * number, stem, letters, each))
            size += each * number
        return groups, size

    def _beliefs(self, text: str, fork: int, branchings: set[int]) -> dict[int, float]:
        """Give places on the path to a text at which no known key differs, with how far unseen characters are believed in."""
        lowest = max(branchings, default=len(text) - 1)
        levels = [level for level in range(fork + 1, min(lowest, len(text))) if level not in branchings]
        if len(levels) > _MOST_LEVELS:
            end = min(levels[-1], levels[0] + _WHOLE)
            varying = [level for level in self._alphabets.vary(text, levels[0], end) if level not in branchings][:_VARYING]
            rest = [level for level in levels if level not in varying]
            levels = varying + rest[:: 1 + 4 * len(rest) // _MOST_LEVELS]
        return {
            level: 1.0 if text[level] in self._alphabets.varying else _AGREED / (1 << (self._answers // 12).bit_length())
            for level in levels
        }

    def _outside(self, gap: _Gap, low: str, high: str) -> float:
        return sum(self._mass(low, high, gap))

    # ---------------------------------------------------------------------------------------------------------- cutting

    def _cut(self, gap: _Gap, keys: float) -> _Gap | None:
        """Cut a gap behind so many expected keys; give the upper part, or None where it can't be cut."""
        if not gap.pieces:
            gap.pieces = [
                _Piece(one.each * p, one.stem + c, is_from_stem_on=one.is_ahead) for one in gap.groups for c, p in one.letters
            ]
        keys *= sum(piece.keys for piece in gap.pieces) / (gap.keys or 1.0)
        before = 0.0
        for n, piece in enumerate(gap.pieces):
            if before + piece.keys < keys and n < len(gap.pieces) - 1:
                before += piece.keys
                continue
            share = min(1.0, (keys - before) / (piece.keys or 1.0))
            if piece.is_from_stem_on:
                text, share = piece.stem, 0.0
            else:
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
        """Find a cut below which this share of a piece's keys lies; give it with the share that really does.

        Many unlikely characters do not outweigh a likely one: a name that is the same everywhere is followed to its end.
        """
        text, low, width = piece.stem, 0.0, 1.0
        total = piece.keys / ((piece.end - piece.begin) or 1.0)
        for _ in range(_DEEPEST):
            if (share - low < width / 8 and low > piece.begin) or width * total < self._page / 2:
                break
            letters = [(c, p * p) for c, p in self._alphabets.between(text, "", "")]
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


def first_cuts(first_page: Sequence[str], prefix: str, most: int) -> list[str]:
    """Give where to cut what lies behind the first page of a bucket, going by nothing but its keys."""
    planner = Planner([Range("", None)], prefix, max(1, len(first_page)))
    request = planner.request(most)
    if request is None or not first_page:
        return []
    planner.answered(request, first_page, is_truncated=True)
    requests = [planner.request(free) for free in range(most, 0, -1)]
    return [one.after for one in requests if one is not None and one.after > first_page[-1]]


def _repeats(text: str, levels: list[int]) -> tuple[int, str, int] | None:
    """Find where a text leaves a path that repeats itself, and that keys left at place after place.

    Give the level; what the path would go on with again and again, which lies above the text; and over how many characters it
    was seen to repeat itself.
    """
    known = {*levels}
    for level in (level + 1 for level in levels[:_MOST_LEVELS]):
        for period in range(1, _MOST_PERIOD + 1):
            seen = max(3 * period, _LEAST_REPEATED)
            if level < seen or text[level - seen : level - period] != text[level - seen + period : level]:
                continue
            again = text[level - period : level]
            if text[level : level + 1] < again[0] and len(known.intersection(range(level - seen, level))) >= _LEAST_REPEATED:
                while seen < level and text[level - seen - 1] == text[level - seen - 1 + period]:
                    seen += 1
                return level, again, seen
    return None


def _times(group: _Group, times: float) -> _Group:
    return group._replace(keys=group.keys * times, each=group.each * times)


def _part(group: _Group, letters: list[tuple[str, float]]) -> _Group:
    return group._replace(keys=group.each * sum(p for _, p in letters), letters=letters)


def _largest(gaps: Iterable[_Gap]) -> _Gap | None:
    return max(gaps, key=lambda gap: gap.keys, default=None)


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
        gap.after = shown.until
        remains.append(gap)
    return slice(low, high), remains


def _reaches_beyond(gap: _Gap, key: str) -> bool:
    return gap.until is None or gap.until > key
