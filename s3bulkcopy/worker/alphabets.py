"""Which characters are likely to come next in a key, learned from the keys seen. Pure.

A key is read as fields: `/` and all other characters that are neither letters nor digits end one. What comes next is looked up
after the same text in the same field, wherever in the bucket; at the same place of the same field; and anywhere in the field.
The more often a place was seen without showing anything else, the less likely is anything else there.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: How likely a character is that was seen after the same text, at the same place, in the same field, varying anywhere.
_LIKELY = (0.95, 0.8, 0.4, 0.1)

#: How likely, in comparison, one of another kind than all seen there is: a letter among digits, another script.
_STRANGE = 0.2

#: Places behind the one at which two keys differ that are learned from.
_CLOSED = 3

#: Unseen characters at a place, at most, for each one seen, while none was seen twice.
_UNSEEN = 2.0

#: How many more characters are expected at a place of which nothing is known; and at most, as a multiple of what was seen.
_GOES_ON, _MOST_MORE = 2.0, 1.5

#: Times that a place must have been seen to tell more than the places like it.
_ENOUGH = 3

#: Most contexts that are kept; each takes about a kilobyte.
_MOST_CONTEXTS = 8000

#: Most characters kept of one place.
_MOST_LETTERS = 256

#: Stands for all characters that are not kept.
_OTHERS = "\U0010ffff"

#: Most parts that what may follow is divided into.
_MOST_PIECES = 64

#: Characters at one place from which on an alphabet may be wide: if they came not so often, on average.
_WIDE, _OFTEN = 20, 2

#: Or if so many of the highest follow each other, but for so many that may not be known yet.
_ROW, _SKIPPED = 4, 2

#: From here on scripts have alphabets of thousands.
_WIDE_FROM = "\u2e80"

#: Steps in which a wide alphabet is gone through.
_STEPS = 16

#: Characters that tell how dense an alphabet is near by.
_NEAR = 8

#: From which density on they are next to each other: of fewer, others may have been skipped between samples.
_CLOSE = 0.6

#: Steps further than a character, each longer than the one before, in which unknown ones are gone through.
_FURTHER = tuple(1 << n for n in range(21))

#: Characters that are looked at to tell how far a row goes on; it ends where two are so many times as far apart as the others.
_MOST_ROW, _APART = 64, 6.0

#: Fewest that are one.
_LEAST_ROW = 3

#: Characters of a kind that must have been found at a place before all that the field knows of the kind are expected there.
_LEAST_ALIKE = 3

#: How far that is believed in of letters and digits of ASCII, whose names are seldom of one kind.
_ALIKE_ASCII = 0.4

#: Characters less likely than that are left out.
_LEAST = 0.005

#: How likely the character right above the known ones is.
_NEXT = 0.05

_FIELD = re.compile(r"[\W_]")

#: Characters that UTF-8 can't carry, and the last that there is. A cut is sent in a URL only, which can hold all others.
_SURROGATES = range(0xD800, 0xE000)
_HIGHEST = 0x10FFFF

#: What is expected at a place is found anew when one part in so many more has happened there.
_STAGE = 8

#: How much of what was found is kept until there is a change: characters with their chances, and what goes with each answer as
#: a number of them.
_MOST_FOUND, _ANSWER = 40_000, 8

#: Most texts of which the contexts are kept at hand, and characters of which the kinds are.
_AT_HAND = 4096

#: How much what was seen at one size counts at another, by the difference between both.
_WEIGHTS = {n: 3.0 ** -min(n * n, 400) for n in range(-64, 65)}

_Context = tuple[int, int, str] | tuple[int, int, int] | tuple[int, int]
_Contexts = tuple[tuple[int, int, str], tuple[int, int, int], tuple[int, int]]


class _Seen:
    """What was seen at places that are alike, apart for each size of what was known there."""

    __slots__ = ("came", "changes", "ended", "found", "letters", "news", "stages")

    def __init__(self) -> None:
        self.letters = ""  # in order
        self.came: dict[tuple[int, str], int] = {}  # how often a character was come to from a lower one
        self.ended: dict[tuple[int, str], int] = {}  # how often one was the last
        self.changes = 1
        self.news = self.stages = 0  # what happened here; and how much had when that last made a change
        self.found: dict[int, tuple[float, float]] = {}  # what `chances` found, until there is a change

    def add(self, letter: str) -> None:
        if letter in self.letters or letter == "\0":
            return
        place = bisect_left(self.letters, letter)
        self.letters = self.letters[:place] + letter + self.letters[place:]
        if len(self.letters) > _MOST_LETTERS:
            self.letters = self.letters[::2]
            self.came, self.ended = self._of_letters(self.came), self._of_letters(self.ended)
        self._change()

    def _change(self) -> None:
        self.changes += 1
        self.stages = self.news
        if self.found:
            self.found = {}

    def _of_letters(self, events: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
        """Count together what happened to the characters that are no longer kept."""
        kept: dict[tuple[int, str], int] = {}
        for (size, letter), n in events.items():
            place = size, letter if letter in self.letters else _OTHERS
            kept[place] = kept.get(place, 0) + n
        return kept

    def happens(self, events: dict[tuple[int, str], int], letter: str, size: int) -> None:
        """Count that a character was come to, or was the last one."""
        place = size, letter if letter in self.letters else _OTHERS
        events[place] = events.get(place, 0) + 1
        self.news += 1
        if self.news > self.stages + self.stages // _STAGE:
            self._change()

    def come_to(self, letter: str, size: int) -> None:
        self.add(letter)
        self.happens(self.came, letter, size)

    def chances(self, size: int) -> tuple[float, float]:
        """Tell how likely an unseen character is, and how often one was the last.

        An unseen one is as likely as those are together that were seen once (Good and Turing).
        """
        if size not in self.found:
            counts = dict.fromkeys(self.letters, 0.0)
            for (which, letter), n in self.came.items():
                counts[letter] = counts.get(letter, 0.0) + n * _WEIGHTS[which - size]
            ends = 0.0
            for (which, letter), n in self.ended.items():
                weighed = n * _WEIGHTS[which - size]
                ends += weighed
                counts[letter] = counts.get(letter, 0.0) + weighed
            once = sum(n <= 1 for n in counts.values())
            self.found[size] = (once + 1) / (max(once, sum(counts.values())) + 1), ends
        return self.found[size]

    def beyond(self, letter: str, size: int) -> tuple[float, float]:
        """Give how often higher characters than this were come to, and how often it or a higher one was the last."""
        came = sum(n * _WEIGHTS[which - size] for (which, c), n in self.came.items() if c > letter)
        return came, sum(n * _WEIGHTS[which - size] for (which, c), n in self.ended.items() if c >= letter)


#: What was seen at three kinds of places that are alike, and a number that grows with it.
_Places = tuple[_Seen | None, _Seen | None, _Seen | None, int]


class Alphabets:
    """The characters seen, by where in a key they were."""

    def __init__(self) -> None:
        self._seen: dict[_Context, _Seen] = {}
        self.varying: dict[str, None] = {}  # in the order in which they were seen, so that sums are the same every time
        self._after: dict[tuple[object, ...], tuple[int, dict[str, float]]] = {}
        self._beside: dict[tuple[object, ...], tuple[int, tuple[list[tuple[str, float]], float, float]]] = {}
        self._room = _MOST_FOUND

    def read(self, key: str, level: int = 0, most: int = 200) -> None:
        """Learn which characters there are from all of a key from here on."""
        for letter, contexts in zip(key[level : level + most], _along(key, level), strict=False):
            for seen in self._at(contexts):
                if letter not in seen.letters:
                    seen.add(letter)

    def differ(self, low: str, high: str, level: int, sizes: Sequence[int] = (), most: int = _CLOSED) -> None:
        """Learn from two keys that follow each other, and differ here first.

        What begins like the lower one further on is complete.
        `sizes` tells for each level from the beginning on how many keys are known that begin like the lower one up to there.
        """
        letter = high[level]
        self._vary(letter)
        size = sizes[level] if level < len(sizes) else 0
        for seen in self._at(_contexts(high[:level])):
            if level < len(low):
                seen.add(low[level])
            seen.come_to(letter, size)
        if level >= len(low):
            return
        self._vary(low[level])
        for n, contexts in zip(range(level + 1, min(len(low), level + most)), _along(low, level + 1), strict=False):
            size = sizes[n] if n < len(sizes) else 0
            letter = low[n]
            is_near = n < level + _CLOSED
            for seen in self._at(contexts) if is_near else self._if_known(contexts):
                if letter not in seen.letters:
                    seen.add(letter)
                seen.happens(seen.ended, letter, size)

    def comes(self, stem: str, letter: str, size: int) -> None:
        """Learn that this character follows behind a beginning of keys, after a lower one."""
        for seen in self._at(_contexts(stem)):
            seen.come_to(letter, size)

    def nothing(self, text: str, levels: range, sizes: Iterable[int], near: int, *, is_key: bool) -> None:
        """Learn that behind the beginnings of a text that end at these levels no higher character follows than its own.

        At its last character that one does not follow either, unless the text is a key. `sizes` tells for each level how much
        is known that begins so. Places from `near` on are learned of where they are known, or the last.
        """
        last = len(text) - 1
        for n, size, contexts in zip(levels, sizes, _along(text, levels.start), strict=False):
            letter, is_last = text[n], n == last
            for seen in self._at(contexts) if is_last or n < near else self._if_known(contexts):
                letters = seen.letters
                place = bisect_left(letters, letter) if is_last and not is_key else bisect_right(letters, letter)
                seen.happens(seen.ended, letters[place - 1] if place else "", size)

    def _vary(self, letter: str) -> None:
        if len(self.varying) < _MOST_LETTERS and letter != "\0":
            self.varying[letter] = None

    def _at(self, contexts: _Contexts) -> list[_Seen]:
        """Give what was seen at places like this, made where it is new."""
        known = self._seen
        places = [seen for context in contexts if (seen := known.get(context))]
        if len(places) < len(contexts):
            if len(known) >= _MOST_CONTEXTS:
                self._forget()
            places = [known.setdefault(context, known.get(context) or _Seen()) for context in contexts]
        return places

    def _forget(self) -> None:
        """Forget half of the contexts, those at which least has happened: a listing goes on from there, and memory ends."""
        for context in sorted(self._seen, key=lambda context: self._seen[context].news)[: _MOST_CONTEXTS // 2]:
            del self._seen[context]
        self._forget_found()

    def _make_room(self, letters: int) -> None:
        """Take note that so many more characters are kept in what was found."""
        self._room -= letters + _ANSWER
        if self._room < 0:
            self._forget_found()

    def _forget_found(self) -> None:
        self._after.clear()
        self._beside.clear()
        self._room = _MOST_FOUND

    def _if_known(self, contexts: _Contexts) -> list[_Seen]:
        return [seen for context in contexts if (seen := self._seen.get(context))]

    def _known(self, stem: str) -> _Places:
        """Give what was seen at places like the one behind this beginning of keys, and a number that grows with it."""
        one, two, three = _contexts(stem)
        get = self._seen.get
        first, second, third = get(one), get(two), get(three)
        changes = len(self.varying)
        for seen in (first, second, third):
            if seen:
                changes += seen.changes
        return first, second, third, changes

    def after(self, stem: str, belief: float = 1.0, size: int = 0, *, is_open: bool = False) -> dict[str, float]:
        """Give the characters that may follow, with how likely each is.

        Those not seen after the same text in the same field are believed in only so far. An open mind does not count how often
        nothing else was seen.
        """
        return self._likely(self._known(stem), belief, size, is_open=is_open)

    def _likely(self, places: _Places, belief: float, size: int, *, is_open: bool) -> dict[str, float]:
        question = *places[:3], belief, size, is_open
        known = self._after.get(question)
        if known and known[0] == places[3]:
            return known[1]
        found: dict[str, float] = {}
        rest = above = most = 1.0
        top = ""
        for seen, likely in zip((*places[:3], self.varying), _LIKELY, strict=True):
            letters = () if seen is None else seen.letters if isinstance(seen, _Seen) else seen
            seldom, higher = rest * likely, max(rest, above) * likely
            if higher < _LEAST:
                break
            more = {c: higher if c > top else seldom for c in letters if c not in found}
            if seen is self.varying and found:
                kinds = {*map(_kind, found)}
                more = {c: p if _kind(c) in kinds else p * _STRANGE for c, p in more.items()}
            scale = min(1.0, most / (sum(more.values()) or 1.0)) if found else 1.0
            found.update({c: p * scale for c, p in more.items()} if scale < 1 else more)
            if isinstance(seen, _Seen):
                unseen, ends = seen.chances(size)
                rest *= 1 if is_open else unseen
                above /= ends + 1
                top = max(found, default="")
            rest *= belief
            above *= belief
            belief = 1.0
            most = _UNSEEN * max(rest, above) * (len(found) + 1)
        self._make_room(len(found))
        self._after[question] = places[3], found
        return found

    def vary(self, text: str, begin: int, end: int) -> list[int]:
        """Give the places in a text from one on up to another at which several characters are known after the same text."""
        get = self._seen.get
        return [
            n
            for n, (one, _, _) in zip(range(begin, end), _along(text, begin), strict=False)
            if (seen := get(one)) and len(seen.letters) > 1
        ]

    def weight(self, stem: str, above: str, below: str) -> float:
        """Give how many characters are expected behind a beginning of keys, between two."""
        return self._weight(self._known(stem), above, below)

    def _weight(self, places: _Places, above: str, below: str) -> float:
        if wide := _wide(places[1], above or below):
            return bisect_left(wide, below) - bisect_right(wide, above) if below else len(wide) - bisect_right(wide, above)
        after = self._likely(places, 1.0, 0, is_open=False)
        return sum([p for c, p in after.items() if c > above and (not below or c < below)])

    def between(
        self, stem: str, above: str, below: str, belief: float = 1.0, size: int = 0, *, is_open: bool = False
    ) -> list[tuple[str, float]]:
        """Give the characters between two that may follow, in order, with how many are expected from each on."""
        return self._choose(self._known(stem), above, below, belief, size, is_open=is_open)

    def beside(
        self, stem: str, letter: str, belief: float, size: int, *, is_low: bool, is_open: bool
    ) -> tuple[list[tuple[str, float]], float, float]:
        """Give the characters that may follow above this one, how many these are in all, and how many there may be below it.

        Or below it, and how many above it, if it is not the low one.
        """
        places = self._known(stem)
        question = *places[:3], letter, belief, size, is_low, is_open
        known = self._beside.get(question)
        if known and known[0] == places[3]:
            return known[1]
        above, below = (letter, "") if is_low else ("", letter)
        letters = self._choose(places, above, below, belief, size, is_open=is_open)
        found = letters, sum([p for _, p in letters]), self._weight(places, below, above)
        self._make_room(len(letters))
        self._beside[question] = places[3], found
        return found

    def _choose(
        self, places: _Places, above: str, below: str, belief: float, size: int, *, is_open: bool
    ) -> list[tuple[str, float]]:
        if wide := _wide(places[1], above or below):
            return sorted(_spread(wide, above, below))
        after = self._likely(places, belief, size, is_open=is_open)
        found = {c: p for c, p in after.items() if c > above and (not below or c < below)}
        likely, alike = _alike(places, above, size)
        found.update({c: likely * belief for c in alike if likely * belief > found.get(c, 0.0) and (not below or c < below)})
        top = max(found, default=above)
        if top and not below:
            found.setdefault(legal(ord(top) + 1), _NEXT * belief)
        letters = sorted((c, p) for c, p in found.items() if c > above and p > _LEAST)
        if above and not below and not is_open:
            expected = sum([p for _, p in letters])
            most = _MOST_MORE * _more(places, above, size)
            if expected > most:
                letters = [(c, p * most / expected) for c, p in letters]
        return _fewer(letters)


def _alike(places: _Places, above: str, size: int) -> tuple[float, list[str]]:
    """Give the characters above one that are of its kind and known in the field, and how likely they are.

    As likely as those below it, which were found here or not; the less, the more often one of the kind was the last.
    """
    here, _, field, _ = places
    if not here or not field or not above or above not in here.letters:
        return 0.0, []
    kind = _kind(above)
    known = [c for c in field.letters if _kind(c) == kind]
    place = bisect_right(known, above)
    found = sum(c in here.letters for c in known[:place])
    if found < _LEAST_ALIKE or place == len(known):
        return 0.0, []
    ended = sum(n * _WEIGHTS[which - size] for (which, c), n in here.ended.items() if c >= above and _kind(c) == kind)
    belief = _ALIKE_ASCII if above <= "\x7f" else 1.0
    return belief * found / (place + 1) / (ended + 1), known[place:]


@lru_cache(_AT_HAND)
def _kind(letter: str) -> int:
    """Give a number that digits share, small letters, capitals, other ASCII, and roughly a script."""
    if letter <= "\x7f":
        return 0 if letter.isdigit() else 1 if letter.islower() else 2 if letter.isupper() else 3
    return 4 + (ord(letter) >> 8 if letter < _WIDE_FROM else 256 + (ord(letter) >> 13))


def _more(places: _Places, above: str, size: int) -> float:
    """Tell how many more characters follow one at a place, on average."""
    came = ended = 0.0
    for seen in places[:2]:
        if seen:
            came, ended = seen.beyond(above, size)
            if came + ended >= _ENOUGH:
                break
    return (came + _GOES_ON) / (ended + 1)


def _wide(seen: _Seen | None, letter: str) -> str:
    """Give the characters known at a place of which thousands may follow; none if it isn't such a place."""
    if not seen or (letter and letter <= "\x7f"):
        return ""
    is_sparse = len(seen.letters) >= _WIDE and sum(seen.came.values()) < _OFTEN * len(seen.letters)
    known = seen.letters
    is_row = len(known) >= _ROW and ord(known[-1]) - ord(known[-_ROW]) < _ROW + _SKIPPED
    is_wide = letter >= _WIDE_FROM or is_sparse or is_row
    return known if is_wide and known[-1:] > "\x7f" else ""


def _fewer(letters: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Let one character stand for several that follow it, where there are many."""
    step = 1 + len(letters) // _MOST_PIECES
    return (
        [(letters[n][0], sum(p for _, p in letters[n : n + step])) for n in range(0, len(letters), step)]
        if step > 1
        else letters
    )


def _density(letters: str) -> float:
    """Give the number of letters for each character of the range that they span."""
    return len(letters) / (ord(letters[-1]) - ord(letters[0]) + 1) if len(letters) == _NEAR else 0.0


def _row(known: str) -> tuple[int, float]:
    """Give how many of the highest characters follow each other about as closely, and how dense these are."""
    codes = [ord(c) for c in known[:-_MOST_ROW:-1]]
    seen, span = 1, 1
    while seen < len(codes) and codes[seen - 1] - codes[seen] <= _APART * span / seen:
        span += codes[seen - 1] - codes[seen]
        seen += 1
    return seen, seen / span


def _spread(known: str, above: str, below: str) -> Iterator[tuple[str, float]]:
    """Go through a wide alphabet between two characters, in steps."""
    first = ord(above or known[0]) + 1
    top = max(above, known[-1])
    end = ord(below or top)
    inside = known[bisect_right(known, above) : bisect_left(known, below) if below else len(known)]
    step = 1 + len(inside) // _STEPS
    yield from ((c, float(step)) for c in inside[::step])
    if len(inside) < _STEPS // 2 and first < end:
        place = bisect_right(known, above)
        seen, dense = _row(known[:place] or known[:1])
        density = len(known) / (ord(known[-1]) - ord(known[0]) + 1)
        is_end = seen >= _LEAST_ROW and dense >= _CLOSE  # of a row, which may go on
        near = max(_density(known[max(0, place - _NEAR) : place]), _density(known[place : place + _NEAR]))
        if not is_end:
            seen, dense = (2 * _NEAR, near) if near >= _CLOSE else (1, 0.0)  # within one, or where none is
        steps = {*range(0, end - first, max(1, (end - first) // _STEPS)), *(_FURTHER if is_end else ())}
        for step, following in pairwise(sorted({step for step in steps if first + step < end} | {end - first})):
            c = legal(first + step)
            if c not in inside and c < (below or _OTHERS):
                yield c, (following - step) * max(density, dense * seen / (seen + step * dense))
    if not below:
        beyond = (0x110000 - ord(top)).bit_length() - 1
        yield from ((legal(ord(top) + (1 << n)), len(known) / beyond) for n in range(beyond))


@lru_cache(_AT_HAND)
def _contexts(stem: str) -> _Contexts:
    """Give where in a key the character behind this beginning is, from the closest description to the widest."""
    slashes = stem.count("/")
    field = stem[stem.rfind("/") + 1 :]
    fields = 0
    if field and not field.isalnum():
        *ended, field = _FIELD.split(field)
        fields = len(ended)
    return (slashes, fields, field), (slashes, fields, len(field)), (slashes, fields)


def _along(key: str, level: int) -> Iterator[_Contexts]:
    """Give the same for one place of a key after another, from here on."""
    (slashes, fields, field), _, _ = _contexts(key[:level])
    begin = level - len(field)
    for n in range(level, len(key)):
        yield (slashes, fields, key[begin:n]), (slashes, fields, n - begin), (slashes, fields)
        if key[n] == "/":
            slashes, fields, begin = slashes + 1, 0, n + 1
        elif not key[n].isalnum():
            fields, begin = fields + 1, n + 1


def legal(code: int) -> str:
    """Give the first character from here on that a key may hold."""
    code = _SURROGATES.stop if code in _SURROGATES else code
    return chr(min(code, _HIGHEST))
