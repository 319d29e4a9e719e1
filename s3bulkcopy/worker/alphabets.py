"""Which characters are likely to come next in a key, learned from the keys seen. Pure.

A key is read as fields: `/` and all other characters that are neither letters nor digits end one. What comes next is looked up
after the same text in the same field, wherever in the bucket; at the same place of the same field; and anywhere in the field.
The more often a place was seen without showing anything else, the less likely is anything else there.
"""

from __future__ import annotations

import re
import os
T=os.environ.get('T','')
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How likely a character is that was seen after the same text, at the same place, in the same field.
_LIKELY = (0.95, 0.8, 0.4)

#: Places behind the one at which two keys differ that are learned from.
_CLOSED = 6

#: And one that was seen to vary anywhere.
_ANYWHERE = 0.2

#: Times that a place must have been seen to tell more than the places like it.
_ENOUGH = 3

#: Most contexts that are kept.
_MOST_CONTEXTS = 100_000

#: Characters at one place from which on an alphabet may be wide: if hardly one comes twice.
_WIDE = 20

#: From here on scripts have alphabets of thousands.
_WIDE_FROM = "\u2e80"

#: Steps in which a wide alphabet is gone through.
_STEPS = 16

#: How likely the character right above the known ones is.
_NEXT = 0.05

_FIELD = re.compile(r"[\W_]")

#: Characters that XML or UTF-8 can't carry: control characters, surrogates, and two that are none. And the last that both can.
_UNFIT = ((0, 0x20), (0x7F, 0xA0), (0xD800, 0xE000), (0xFFFE, 0x10000))
_HIGHEST = 0x10FFFD

_Context = tuple[object, ...]


class _Seen:
    """What was seen at places that are alike."""

    __slots__ = ("ended", "letters", "went_on")

    def __init__(self) -> None:
        self.letters: dict[str, int] = {}  # how often each was come to from another
        self.went_on = [0, 0]  # how often another character followed, in order, where all from there on was small, and was large
        self.ended = [0, 0]  # how often none did


class Alphabets:
    """The characters seen, by where in a key they were."""

    def __init__(self) -> None:
        self._seen: dict[_Context, _Seen] = {}
        self.varying: set[str] = set()

    def read(self, key: str, level: int = 0, most: int = 200) -> None:
        """Learn which characters there are from all of a key from here on."""
        for n in range(level, min(len(key), level + most)):
            for seen in self._contexts(key[:n]):
                seen.letters.setdefault(key[n], 0)

    def differ(self, low: str, high: str, level: int, large: int, most: int = _CLOSED) -> None:
        """Learn from two keys that follow each other, and differ here first: what begins like the lower one further on is complete.

        What begins like it up to a level not above `large` holds many keys.
        """
        if level < len(low):
            self.varying.add(low[level])
            for seen in self._contexts(low[:level]):
                seen.letters.setdefault(low[level], 0)
        self.varying.add(high[level])
        for seen in self._contexts(high[:level]):
            seen.letters[high[level]] = seen.letters.get(high[level], 0) + 1
            seen.went_on[level <= large] += 1
        for n in range(level + 1, min(len(low), level + most)):
            for seen in self._contexts(low[:n]):
                seen.letters[low[n]] = seen.letters.get(low[n], 0) + 1
                seen.ended[n <= large] += 1

    def nothing(self, stem: str, *, large: bool) -> None:
        if 'n' in T: return
        """Learn that no other character follows behind this beginning of keys."""
        for seen in self._contexts(stem):
            seen.ended[large] += 1

    def _contexts(self, stem: str) -> Iterator[_Seen]:
        for context in _contexts(stem):
            seen = self._seen.get(context)
            if seen is None:
                if len(self._seen) >= _MOST_CONTEXTS:
                    continue
                seen = self._seen[context] = _Seen()
            yield seen

    def more(self, stem: str, *, large: bool) -> float:
        """Tell how many more characters follow one behind this beginning of keys, on average."""
        close, place, _ = map(self._seen.get, _contexts(stem))
        if 'm' in T: large=False
        seen = close if close and close.went_on[large] + close.ended[large] >= _ENOUGH else place
        return (seen.went_on[large] + 1) / (seen.ended[large] + 1) if seen else 1.0

    def after(self, stem: str, belief: float = 1.0, *, large: bool = False) -> dict[str, float]:
        """Give the characters that may follow, with how likely each is; those not seen after the same text, only so far believed."""
        found: dict[str, float] = {}
        rest = above = 1.0
        top = ""
        for context, likely in zip(_contexts(stem), _LIKELY, strict=True):
            seen = self._seen.get(context)
            if seen:
                for letter in seen.letters:
                    if letter not in found:
                        found[letter] = (max(rest, above) if letter > top else rest) * likely
                once = sum(times <= 1 for times in seen.letters.values())
                rest *= (once + 1) / (max(once, (seen.went_on[large] + seen.ended[large] if 'l' not in T else sum(seen.went_on)+sum(seen.ended))) + 1)
                above *= 1 / (seen.ended[large] + 1) if 'a' not in T else 0
                top = max(found, default="")
            rest *= belief
            above *= belief
            belief = 1.0
        for letter in (self.varying if 'g' not in T else ()):
            if letter not in found:
                found[letter] = (max(rest, above) if letter > top else rest) * _ANYWHERE
        return found

    def is_wide(self, stem: str, letter: str) -> bool:
        """Tell whether thousands of characters may follow."""
        if letter >= _WIDE_FROM:
            return True
        if letter < "\x7f":
            return False
        context = _contexts(stem)[1]
        seen = self._seen.get(context)
        return seen is not None and len(seen.letters) >= _WIDE and sum(seen.went_on) < 2 * len(seen.letters)

    def between(self, stem: str, above: str, below: str, belief: float = 1.0, *, large: bool = False) -> list[tuple[str, float]]:
        """Give the characters between two that may follow, in order, with how many are expected from each on."""
        if self.is_wide(stem, above or below):
            top = max((c for c in self.after(stem) if not below or c < below), default=above)
            return sorted(_wide(max(top, above), above, below))
        found = {
            c: p
            for c, p in self.after(stem, belief, large=large).items()
            if (not above or c > above) and (not below or c < below)
        }
        top = max(found, default=above)
        if top and not below:
            found.setdefault(legal(ord(top) + 1), _NEXT * belief)
        letters = sorted((c, p) for c, p in found.items() if c > above)
        expected = sum(p for _, p in letters)
        most = 1.5 * self.more(stem, large=large)
        if expected > most and above and not below:
            letters = [(c, p * most / expected) for c, p in letters]
        return letters


def _wide(top: str, above: str, below: str) -> Iterator[tuple[str, float]]:
    first = ord(above) + 1 if above else 0x21
    end = ord(below) if below else ord(top or "!") + 1
    step = max(1, (end - first) // _STEPS)
    for code in range(first, end, step):
        yield legal(code), step / 2
    if not below:
        beyond = (0x110000 - end).bit_length()
        for n in range(beyond):
            if end + (1 << n) < 0x110000:
                yield legal(end + (1 << n)), max(1.0, (end - 0x21)) / beyond


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
