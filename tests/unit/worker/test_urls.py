"""URLs and percent-encoding, as urllib.parse has them."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.worker import urls

#: What a key may hold, and bytes that are no UTF-8 as `surrogateescape` writes them.
texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)))


@given(texts)
def test_texts_are_encoded_as_the_standard_library_does(text: str) -> None:
    assert urls.encoded(text) == quote(text, safe="", errors="surrogateescape")
    assert urls.encoded_in_path(text) == quote(text, safe="/", errors="surrogateescape")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/bucket",
        "https://b.s3.eu-west-1.amazonaws.com",
        "HTTPS://[::1]/a/b",
        "http://[fe80::1]:80",
        "http://A.b/",
    ],
)
def test_urls_are_split_as_the_standard_library_does(url: str) -> None:
    parts = urlsplit(url)

    scheme, host, path = urls.split(url)

    assert (scheme, host, path) == (parts.scheme, parts.netloc, parts.path)
    assert urls.name_and_port(host, scheme) == (parts.hostname, parts.port or {"http": 80, "https": 443}[scheme])
