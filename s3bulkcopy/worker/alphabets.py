"""Which characters are likely to come next in a key, learned from the keys seen. Pure.

A key is read as fields: `/` and all other characters that are neither letters nor digits end one. What comes next is looked up
after the same text in the same field, wherever in the bucket; at the same place of the same field; and anywhere in the field.
The more often a place was seen without showing anything else, the less likely is anything else there.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: How likely a character is that was seen after the same text, at the same place, in the same field, varying anywhere.
_LIKELY = (0.95, 0.8, 0.4, 0.2)

#: Places behind the one at which two keys differ that are learned from.
_CLOSED = 6

#: Unseen characters at a place, at most, for each one seen, while none was seen twice.
_UNSEEN = 2.0

#: How many more characters are expected at a place of which nothing is known; and at most, as a multiple of what was seen.
_GOES_ON, _MOST_MORE = 2.0, 1.5

#: Times that a place must have been seen to tell more than the places like it.
_ENOUGH = 3

#: Most contexts that are kept.
_MOST_CONTEXTS = 100_000

#: Most characters kept of one place.
_MOST_LETTERS = 256

#: Stands for all characters that are not kept.
_OTHERS = "\U0010ffff"

#: Most parts that what may follow is divided into.
_MOST_PIECES = 64

#: Characters at one place from which on an alphabet may be wide: if hardly one comes twice.
_WIDE = 20

#: From here on scripts have alphabets of thousands.
_WIDE_FROM = "\u2e80"

#: Steps in which a wide alphabet is gone through.
_STEPS = 16

#: Characters that tell how dense an alphabet is near by.
_NEAR = 8

#: From which density on they are next to each other: of fewer, others may have been skipped between samples.
_CLOSE = 0.6

#: How likely the character right above the known ones is.
_NEXT = 0.05

_FIELD = re.compile(r"[\W_]")

#: Characters that XML or UTF-8 can't carry: control characters, surrogates, and two that are none. And the last that both can.
_UNFIT = ((0, 0x20), (0x7F, 0xA0), (0xD800, 0xE000), (0xFFFE, 0x10000))
_HIGHEST = 0x10FFFD

_Context = tuple[object, ...]


class _Seen:
    """What was seen at places that are alike, apart for each size of what was known there."""

    __slots__ = ("came", "ended", "letters", "rests")

    def __init__(self) -> None:
        self.letters: set[str] = set()
        self.came: dict[tuple[int, str], int] = {}  # how often a character was come to from a lower one
        self.ended: dict[tuple[int, str], int] = {}  # how often one was the last
        self.rests: dict[int, float] = {}  # by size, as long as nothing else is seen

    def add(self, letter: str) -> None:
        if letter in self.letters or legal(ord(letter)) != letter:
            return
        self.letters.add(letter)
        self.rests.clear()
        if len(self.letters) > _MOST_LETTERS:
            self.letters = set(sorted(self.letters)[::2])
            self.came, self.ended = self._of_letters(self.came), self._of_letters(self.ended)

    def _of_letters(self, events: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
        """Count together what happened to the characters that are no longer kept."""
        kept: dict[tuple[int, str], int] = {}
        for (size, letter), n in events.items():
            place = size, letter if letter in self.letters or not letter else _OTHERS
            kept[place] = kept.get(place, 0) + n
        return kept

    def come_to(self, letter: str, size: int) -> None:
        self.add(letter)
        letter = letter if letter in self.letters else _OTHERS
        self.rests.clear()
        self.came[size, letter] = self.came.get((size, letter), 0) + 1

    def end_with(self, letter: str, size: int) -> None:
        letter = letter if letter in self.letters or not letter else _OTHERS
        self.ended[size, letter] = self.ended.get((size, letter), 0) + 1
        self.rests.clear()

    def rest(self, size: int) -> float:
        """Tell how likely an unseen character is (Good and Turing: as likely as those are together that were seen once)."""
        if size in self.rests:
            return self.rests[size]
        counts = dict.fromkeys(self.letters, 0.0)
        for events in (self.came, self.ended):
            for (which, letter), n in events.items():
                counts[letter] = counts.get(letter, 0.0) + n * _weight(which, size)
        once = sum(n <= 1 for n in counts.values())
        self.rests[size] = (once + 1) / (max(once, sum(counts.values())) + 1)
        return self.rests[size]

    def ends(self, size: int) -> float:
        return sum(n * _weight(which, size) for (which, _), n in self.ended.items())

    def beyond(self, letter: str, size: int) -> tuple[float, float]:
        """Give how often higher characters than this were come to, and how often it or a higher one was the last."""
        came = sum(n * _weight(which, size) for (which, c), n in self.came.items() if c > letter)
        return came, sum(n * _weight(which, size) for (which, c), n in self.ended.items() if c >= letter)


class Alphabets:
    """The characters seen, by where in a key they were."""

    def __init__(self) -> None:
        self._seen: dict[_Context, _Seen] = {}
        self.varying: set[str] = set()

    def read(self, key: str, level: int = 0, most: int = 200) -> None:
        """Learn which characters there are from all of a key from here on."""
        for n in range(level, min(len(key), level + most)):
            for seen in self._contexts(key[:n]):
                seen.add(key[n])

    def differ(self, low: str, high: str, level: int, sizes: Sequence[int] = (), most: int = _CLOSED) -> None:
        """Learn from two keys that follow each other, and differ here first.

        What begins like the lower one further on is complete.
        `sizes` tells for each level from the beginning on how many keys are known that begin like the lower one up to there.
        """
        if level < len(low):
            self._vary(low[level])
            for seen in self._contexts(low[:level]):
                seen.add(low[level])
        letter = high[level]
        self._vary(letter)
        size = sizes[level] if level < len(sizes) else 0
        for seen in self._contexts(high[:level]):
            seen.come_to(letter, size)
        for n in range(level + 1, min(len(low), level + most)):
            size = sizes[n] if n < len(sizes) else 0
            for seen in self._contexts(low[:n]):
                seen.add(low[n])
                seen.end_with(low[n], size)

    def nothing(self, stem: str, letter: str, size: int) -> None:
        """Learn that neither this character nor a higher one follows behind a beginning of keys."""
        for seen in self._contexts(stem):
            below = max((c for c in seen.letters if c < letter), default="")
            seen.end_with(below, size)

    def _vary(self, letter: str) -> None:
        if len(self.varying) < _MOST_LETTERS and legal(ord(letter)) == letter:
            self.varying.add(letter)

    def _contexts(self, stem: str) -> Iterator[_Seen]:
        for context in _contexts(stem):
            seen = self._seen.get(context)
            if seen is None:
                if len(self._seen) >= _MOST_CONTEXTS:
                    continue
                seen = self._seen[context] = _Seen()
            yield seen

    def more(self, stem: str, above: str, size: int) -> float:
        """Tell how many more characters follow one behind this beginning of keys, on average."""
        came = ended = 0.0
        for context in _contexts(stem)[:2]:
            seen = self._seen.get(context)
            if seen:
                came, ended = seen.beyond(above, size)
                if came + ended >= _ENOUGH:
                    break
        return (came + _GOES_ON) / (ended + 1)

    def after(self, stem: str, belief: float = 1.0, size: int = 0, *, is_open: bool = False) -> dict[str, float]:
        """Give the characters that may follow, with how likely each is.

        Those not seen after the same text in the same field are believed in only so far. An open mind does not count how often
        nothing else was seen.
        """
        found: dict[str, float] = {}
        rest = above = most = 1.0
        top = ""
        for place, likely in zip((*_contexts(stem), None), _LIKELY, strict=True):
            seen = self._seen.get(place) if place else None
            letters = seen.letters if seen else self.varying if not place else ()
            more = {c: (max(rest, above) if c > top else rest) * likely for c in letters if c not in found}
            scale = min(1.0, most / (sum(more.values()) or 1.0)) if found else 1.0
            for letter, p in more.items():
                found[letter] = p * scale
            if seen:
                rest *= 1 if is_open else seen.rest(size)
                above /= seen.ends(size) + 1
                top = max(found, default="")
            rest *= belief
            above *= belief
            belief = 1.0
            most = _UNSEEN * max(rest, above) * (len(found) + 1)
        return found

    def weight(self, stem: str, above: str, below: str) -> float:
        """Give how many characters are expected behind a beginning of keys, between two."""
        if wide := self._wide(stem, above or below):
            return bisect_left(wide, below) - bisect_right(wide, above) if below else len(wide) - bisect_right(wide, above)
        return sum(p for c, p in self.after(stem).items() if c > above and (not below or c < below))

    def between(
        self, stem: str, above: str, below: str, belief: float = 1.0, size: int = 0, *, is_open: bool = False
    ) -> list[tuple[str, float]]:
        """Give the characters between two that may follow, in order, with how many are expected from each on."""
        if wide := self._wide(stem, above or below):
            return sorted(_spread(wide, above, below))
        after = self.after(stem, belief, size, is_open=is_open)
        found = {c: p for c, p in after.items() if c > above and (not below or c < below)}
        top = max(found, default=above)
        if top and not below:
            found.setdefault(legal(ord(top) + 1), _NEXT * belief)
        letters = sorted((c, p) for c, p in found.items() if c > above)
        expected = sum(p for _, p in letters)
        most = _MOST_MORE * self.more(stem, above, size)
        if expected > most and not is_open and above and not below:
            letters = [(c, p * most / expected) for c, p in letters]
        return _fewer(letters)

    def _wide(self, stem: str, letter: str) -> list[str]:
        """Give the characters known at a place of which thousands may follow; none if it isn't such a place."""
        seen = self._seen.get(_contexts(stem)[1]) if letter > "\x7f" or not letter else None
        if not seen:
            return []
        is_sparse = len(seen.letters) >= _WIDE and sum(seen.came.values()) < 2 * len(seen.letters)
        known = sorted(seen.letters) if letter >= _WIDE_FROM or is_sparse else []
        return known if known and known[-1] > "\x7f" else []


def _fewer(letters: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Let one character stand for several that follow it, where there are many."""
    step = 1 + len(letters) // _MOST_PIECES
    return (
        [(letters[n][0], sum(p for _, p in letters[n : n + step])) for n in range(0, len(letters), step)]
        if step > 1
        else letters
    )


def _density(letters: list[str]) -> float:
    """Give the number of letters for each character of the range that they span."""
    return len(letters) / (ord(letters[-1]) - ord(letters[0]) + 1) if len(letters) == _NEAR else 0.0


def _weight(size: int, other: int) -> float:
    """Tell how much what was seen at one size counts at another."""
    return 4.0 ** -abs(size - other)


def _spread(known: list[str], above: str, below: str) -> Iterator[tuple[str, float]]:
    """Go through a wide alphabet between two characters, in steps."""
    first = ord(above or known[0]) + 1
    top = max(above, known[-1])
    end = ord(below or top)
    inside = known[bisect_right(known, above) : bisect_left(known, below) if below else len(known)]
    step = 1 + len(inside) // _STEPS
    yield from ((c, float(step)) for c in inside[::step])
    if len(inside) < _STEPS // 2 and first < end:
        place = bisect_right(known, above)
        density = len(known) / (ord(known[-1]) - ord(known[0]) + 1)
        near = max(_density(known[max(0, place - _NEAR) : place]), _density(known[place : place + _NEAR]))
        density = max(density, near) if near >= _CLOSE else density
        step = max(1, (end - first) // _STEPS)
        yield from (
            (c, step * density) for c in map(legal, range(first, end, step)) if c not in inside and c < (below or _OTHERS)
        )
    if not below:
        beyond = (0x110000 - ord(top)).bit_length() - 1
        yield from ((legal(ord(top) + (1 << n)), len(known) / beyond) for n in range(beyond))


def _contexts(stem: str) -> tuple[_Context, _Context, _Context]:
    """Give where in a key the character behind this beginning is, from the closest description to the widest."""
    slashes = stem.count("/")
    segment = stem[stem.rfind("/") + 1 :]
    ends = [m.end() for m in _FIELD.finditer(segment)]
    place = (slashes, len(ends))
    field = segment[ends[-1] :] if ends else segment
    return (*place, field), (*place, len(field)), place


def legal(code: int) -> str:
    """Give the first character from here on that XML and a key may hold."""
    for first, end in _UNFIT:
        if first <= code < end:
            code = end
    return chr(min(code, _HIGHEST))
