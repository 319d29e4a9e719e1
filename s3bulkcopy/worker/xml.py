"""The little of XML that S3's answers need. No I/O."""

from __future__ import annotations

import re

#: References without anything in between.
_REFERENCES = r"(?:&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);)+"
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_HIGHEST = 0x10FFFF


def unescaped(text: str) -> str:
    r"""Put characters in the place of their references; `html.unescape` would drop control characters, which keys may hold.

    Some stores write a character as references to its two surrogates, in which case they are joined. One alone becomes its
    three bytes, as `surrogateescape` has them, so that every result can be encoded with that.

    >>> unescaped("a&amp;b&#x1;&#233;"), unescaped("&#55357;&#56832;") == "\U0001f600"
    ('a&b\x01é', True)
    """
    return re.sub(_REFERENCES, _referents, text) if "&" in text else text


def _referents(found: re.Match[str]) -> str:
    text = "".join(map(_referent, found[0][1:-1].split(";&")))
    if text.isascii():
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return joined.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def _referent(name: str) -> str:
    if not name.startswith("#"):
        return _ENTITIES[name]
    number = int(f"0{name[1:]}", 0) if name[1] == "x" else int(name[1:])
    return chr(number) if number <= _HIGHEST else f"&{name};"
