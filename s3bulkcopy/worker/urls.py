"""URLs of hosts, and percent-encoding: what workers need of them, without the time that importing urllib.parse takes. Pure."""

from __future__ import annotations

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")
_ENCODED = [chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256)]
_ENCODED_IN_PATH = ["/" if byte == ord("/") else text for byte, text in enumerate(_ENCODED)]


def split(url: str) -> tuple[str, str, str]:
    """Give scheme, host with port, and path of a URL that has neither a user nor a query.

    >>> split("http://[::1]:9000/bucket/a")
    ('http', '[::1]:9000', '/bucket/a')
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme.lower(), host, slash + path


def name_and_port(host: str, scheme: str) -> tuple[str, int]:
    """Give name and port of a host as `split` gives it; the port of the scheme where it names none.

    >>> name_and_port("[::1]:9000", "http"), name_and_port("s3.amazonaws.com", "https")
    (('::1', 9000), ('s3.amazonaws.com', 443))
    """
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    return name.strip("[]").lower(), int(port) if port else (443 if scheme == "https" else 80)


def encoded(text: str) -> str:
    """Percent-encode all but unreserved characters, in UTF-8; lone surrogates stand for bytes, as `surrogateescape` has it.

    >>> encoded("a/b ø")
    'a%2Fb%20%C3%B8'
    """
    return "".join([_ENCODED[byte] for byte in text.encode("utf-8", "surrogateescape")])


def encoded_in_path(text: str) -> str:
    """Percent-encode all but unreserved characters and slashes, as `encoded` does.

    >>> encoded_in_path("/a b/../ø")
    '/a%20b/../%C3%B8'
    """
    return "".join([_ENCODED_IN_PATH[byte] for byte in text.encode("utf-8", "surrogateescape")])
