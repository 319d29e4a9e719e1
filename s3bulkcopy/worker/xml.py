"""The little of XML that S3's answers need. No I/O."""

from __future__ import annotations

import re

_REFERENCE = re.compile(r"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def unescaped(text: str) -> str:
    r"""Put characters in the place of their references; `html.unescape` would drop control characters, which keys may hold.

    >>> unescaped("a&amp;b&#x1;&#233;")
    'a&b\\x01é'
    """
    return _REFERENCE.sub(_referent, text) if "&" in text else text


def _referent(found: re.Match[str]) -> str:
    decimal, hexadecimal, name = found.groups()
    return _ENTITIES[name] if name else chr(int(decimal) if decimal else int(hexadecimal, 16))
