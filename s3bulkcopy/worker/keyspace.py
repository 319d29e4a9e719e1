"""The key space: ranges that cover all of it, and the first boundaries to cut it at. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3bulkcopy.worker.model import MAX_KEY_BYTES, Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Where keys in the world's scripts tend to begin: printable ASCII densely, then each script's block, then wide steps
#: to the top. A character not named here is in a gap between two that are, and gaps are ranges too.
_ASCII = [chr(c) for c in range(0x20, 0x7F)]
_BLOCKS = [chr(c) for c in (0xC0, 0x400, 0x600, 0x900, 0x3040, 0x4E00, 0x7500, 0xAC00, 0xE000, 0x10000, 0x1F600)]
ALPHABET: tuple[str, ...] = (*_ASCII, *_BLOCKS)

#: Fewest ranges that a bucket of more than one page is first cut into.
MIN_ROOTS = 100

#: The highest characters of one to four bytes.
_HIGHEST = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)
_TOP = _HIGHEST[-1]
_SURROGATES = range(0xD800, 0xE000)


def cut(whole: Range, boundaries: Iterable[str]) -> list[Range]:
    """Cut a range at the boundaries that lie inside it; the pieces cover it exactly.

    >>> cut(Range("", None), ["m", "c"])
    [Range(after='', until='c'), Range(after='c', until='m'), Range(after='m', until=None)]
    """
    inside = sorted({b for b in boundaries if b in whole and b != whole.until})
    return [Range(after, until) for after, until in zip([whole.after, *inside], [*inside, whole.until], strict=True)]


def fan_out(prefix: str, first_page: Sequence[str], after: str, learned: Iterable[str] = ()) -> list[Range]:
    """Give the first ranges for a bucket of more than one page: at least MIN_ROOTS, covering every key above `after`.

    Cuts are made where keys begin (right behind the prefix) and where the keys of the first page begin to differ, so that
    a bucket whose keys share a long head is cut behind that head too; and where it was `learned` that keys may be. The range
    that goes on where the first page ends comes first, for it is known to hold keys, and those behind it.
    """
    shared = shared_head(first_page[0], first_page[-1]) if first_page else prefix
    boundaries = {stem + c for stem in {prefix, shared} for c in ALPHABET if is_key(stem + c)} | {*learned}
    whole = Range(after, None)
    ranges = cut(whole, boundaries)
    steps = MIN_ROOTS
    while len(ranges) < MIN_ROOTS and steps <= _TOP:
        boundaries |= {prefix + c for c in _spread(steps, MAX_KEY_BYTES - _size(prefix))}
        ranges = cut(whole, boundaries)
        steps *= 4
    last = first_page[-1] if first_page else after
    known = next(n for n, piece in enumerate(ranges) if last <= piece.after or last in piece)
    return ranges[known:] + ranges[:known]


def shared_head(first: str, last: str) -> str:
    """Give what two keys, and so all between them, begin with.

    >>> shared_head("data/2025/", "data/2026/")
    'data/202'
    """
    return first[: agreed(first, last)]


def agreed(one: str, other: str) -> int:
    """Give the number of characters with which both begin."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _spread(steps: int, size: int) -> list[str]:
    """Give the characters of at most so many bytes that are so many steps apart."""
    end = _HIGHEST[min(size, len(_HIGHEST)) - 1] if size else 0
    return [chr(c) for c in range(1, end + 1, _TOP // steps) if c not in _SURROGATES]


def is_key(text: str) -> bool:
    """Tell whether a text is short enough for a key."""
    return _size(text) <= MAX_KEY_BYTES


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
