"""Which of the listed objects are copied. Pure, and imported only where a job has a filter.

What each pattern matches stands in `docs/filters.md`, with the table that the tests check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from s3bulkcopy.worker.keyspace import shared_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3bulkcopy.worker.model import Item, Trait

#: What a rule begins with that lets keys in, and one that keeps them out; the pattern follows.
INCLUDE, EXCLUDE = "+", "-"

#: Characters of a date and time that are compared: down to the second, which is how exact S3 is.
_STAMP_CHARACTERS = len("2026-01-31T00:00:00")

#: What a store writes for a moment in UTC; anything after the second is passed over.
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

#: The class of an object that a listing gives none for (S3 API reference, Object: STANDARD).
STANDARD = "STANDARD"


class BadPattern(ValueError):
    """A pattern that means nothing."""


class Filter(NamedTuple):
    """What an object must be to be copied: all of this. Travels in a Job."""

    #: Patterns in the order given, each behind INCLUDE or EXCLUDE; the last that matches decides.
    rules: tuple[str, ...] = ()
    #: A regular expression that is found in the key; empty for any.
    regex: str = ""
    #: Bounds of the size in bytes, both inclusive.
    min_size: int = 0
    max_size: int | None = None
    #: Last modified at this moment or after it (`2026-01-31T00:00:00`, in UTC), and before this one; empty for any.
    newer: str = ""
    older: str = ""
    #: Storage classes, one of which it has; none for any.
    storage_classes: tuple[str, ...] = ()

    @property
    def needs_traits(self) -> bool:
        """Tell whether more of an object is needed than its key and its size."""
        return bool(self.newer or self.older or self.storage_classes)

    @property
    def needs_listing(self) -> bool:
        """Tell whether more of an object is needed than its key."""
        return self.needs_traits or self.min_size > 0 or self.max_size is not None


def decode_filter(data: dict[str, Any]) -> Filter:
    """Read a filter out of a message; raises TypeError, ValueError or KeyError for anything else."""
    found = Filter(**{**data, **{name: tuple(_texts(data[name])) for name in ("rules", "storage_classes")}})
    _texts([found.regex, found.newer, found.older])
    if type(found.min_size) is not int or type(found.max_size) not in (int, type(None)):
        raise TypeError("a size that is none")
    return found


def _texts(values: object) -> list[str]:
    if type(values) is not list or any(type(value) is not str for value in values):
        raise TypeError("a filter's texts that are none")
    return values


def listed_prefix(prefix: str, wanted: Filter | None) -> str:
    """Give what every key begins with that a filter may select below a prefix: no other needs to be listed."""
    return prefix if wanted is None else prefix + literal_head(wanted.rules)


def literal_head(rules: Sequence[str]) -> str:
    """Give the longest text with which every key begins that rules may select.

    >>> literal_head(["-*", "+logs/2025/*.gz", "+logs/2026/[ab]*"])
    'logs/202'
    >>> literal_head(["-logs/*"])
    ''
    """
    telling, is_open = _telling(rules)
    if is_open:
        return ""
    heads = [_head(rule[1:]) for rule in telling if rule[0] == INCLUDE]
    return shared_head(min(heads), max(heads)) if heads else ""


def _telling(rules: Sequence[str]) -> tuple[list[str], bool]:
    """Give the rules behind the last that matches every key, and whether a key that none of them matches is selected."""
    is_open = not rules or rules[0][0] == EXCLUDE
    telling = [*rules]
    for place in reversed(range(len(rules))):
        if not rules[place][1:].strip("*"):
            return telling[place + 1 :], rules[place][0] == INCLUDE
    return telling, is_open


def _head(pattern: str) -> str:
    """Give what is literal at the start of a pattern.

    >>> _head("a/b*"), _head("[a]b"), _head("a.txt")
    ('a/b', '', 'a.txt')
    """
    found = re.search(r"[*?\[]", pattern)
    return pattern[: found.start()] if found else pattern


def glob_expression(pattern: str) -> str:
    r"""Write a pattern as a regular expression for the whole of a key; raises BadPattern.

    What lies between two stars is found where it first fits and not looked for again, as fnmatch does it: so no pattern takes
    more than a few passes over a key.

    >>> glob_expression("a*b?[!c-e]")
    '(?s:a.*b.[^c-e])\\Z'
    >>> glob_expression("*a*b*")
    '(?s:(?>.*?a)(?>.*?b).*)\\Z'
    """
    first, *others = _fixed_parts(pattern)
    if not others:
        return rf"(?s:{first})\Z"
    *middle, last = others
    between = "".join(f"(?>.*?{part})" for part in middle if part)
    return rf"(?s:{first}{between}.*{last})\Z"


def _fixed_parts(pattern: str) -> list[str]:
    """Give what lies around the stars of a pattern, as regular expressions."""
    if not pattern:
        raise BadPattern("an empty pattern matches no key")
    parts, place = [""], 0
    while place < len(pattern):
        character = pattern[place]
        place += 1
        if character == "*":
            parts.append("")
        elif character == "?":
            parts[-1] += "."
        elif character == "[":
            text, place = _set(pattern, place)
            parts[-1] += text
        else:
            parts[-1] += re.escape(character)
    return parts


def _set(pattern: str, start: int) -> tuple[str, int]:
    """Read a set of characters, whose bracket is before `start`; give its expression, and where it ends."""
    is_negated = pattern[start : start + 1] in ("!", "^")
    begin = start + is_negated
    end = pattern.find("]", begin + 1)  # one that comes first is a character of the set
    if end < 0:
        raise BadPattern("'[' begins a set of characters, and no ']' ends it; write [[] for the character itself")
    inside, text, place = pattern[begin:end], "", 0
    while place < len(inside):
        low, high = inside[place], inside[place + 2] if inside[place + 1 : place + 2] == "-" and place + 2 < len(inside) else ""
        if high and high < low:
            raise BadPattern(f"the range {low}-{high} in a set of characters is empty")
        text += f"{re.escape(low)}-{re.escape(high)}" if high else re.escape(low)
        place += 3 if high else 1
    return f"[{'^' if is_negated else ''}{text}]", end + 1


class Sieve:
    """A filter made ready for the objects below a prefix."""

    def __init__(self, wanted: Filter, prefix: str) -> None:
        """Compile the patterns, which are for what follows the prefix in a key; raises BadPattern."""
        self._wanted = wanted
        self._cut = len(prefix)
        telling, self._is_open = _telling(wanted.rules)
        self._rules = [(rule[0] == INCLUDE, re.compile(glob_expression(rule[1:])).match) for rule in reversed(telling)]
        try:
            self._search = re.compile(wanted.regex).search if wanted.regex else None
        except re.error as error:
            raise BadPattern(f"no regular expression: {error}") from error

    def takes_key(self, key: str) -> bool:
        """Tell whether a key, the prefix included, is selected as far as keys go."""
        rest = key[self._cut :]
        if self._search is not None and self._search(rest) is None:
            return False
        for is_included, match in self._rules:
            if match(rest):
                return is_included
        return self._is_open

    def sift(self, items: Sequence[Item], traits: Sequence[Trait]) -> list[bool]:
        """Tell of each item whether it is selected; `traits` are theirs where the filter needs them.

        Raises ValueError for a date that cannot be read.
        """
        least, most, takes = self._wanted.min_size, self._wanted.max_size, self.takes_key
        taken = [size >= least and (most is None or size <= most) and takes(key) for key, size, *_ in items]
        if self._wanted.needs_traits:
            return [is_taken and self._takes_trait(trait) for is_taken, trait in zip(taken, traits, strict=True)]
        return taken

    def _takes_trait(self, trait: Trait) -> bool:
        modified, storage_class, _ = trait
        newer, older, classes = self._wanted.newer, self._wanted.older, self._wanted.storage_classes
        if classes and (storage_class or STANDARD) not in classes:
            return False
        if not newer and not older:
            return True
        moment = stamp(modified)
        return moment >= newer and (not older or moment < older)


def stamp(text: str) -> str:
    """Give a moment as S3 writes it in the form that is compared; raises ValueError for what is none.

    >>> stamp("2026-01-31T12:00:00.000Z")
    '2026-01-31T12:00:00'
    """
    if not _STAMP.fullmatch(text):
        raise ValueError(f"no date and time in UTC: {text!r}")
    return text[:_STAMP_CHARACTERS]
