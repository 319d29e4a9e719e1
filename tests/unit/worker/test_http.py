"""What the reader makes of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.http import MOST_BODY_BYTES, AnswerReader, AnswerTooLong, MalformedAnswer, Response

HEAD = b"HTTP/1.1 200 OK\r\nDate: x\r\n"

# ------------------------------------------------------------------------------------------------------------- the reader


def read(wire: bytes, *, cut_at: tuple[int, ...] = ()) -> tuple[int, bytes, bool] | None:
    """Feed bytes in pieces, then the end of the stream where they were not enough; give status, body and keep."""
    reader = AnswerReader()
    answer = None
    for start, end in zip((0, *cut_at), (*cut_at, len(wire)), strict=True):
        assert answer is None, "an answer before the end"
        answer = reader.feed(wire[start:end])
    answer = answer or reader.end()
    return None if answer is None else (answer.status, answer.body, reader.keep)


ANSWERS = {
    "length": (HEAD + b"Content-Length: 5\r\n\r\nhello", (200, b"hello", True)),
    "no body": (HEAD + b"content-length:0\r\n\r\n", (200, b"", True)),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", (200, b"hello!", True)),
    "chunk extensions and trailers": (
        HEAD + b"transfer-encoding:\tchunked\r\n\r\n00A ;a=b;c\r\n0123456789\r\n0;last\r\nx-t: 1\r\nx-u: 2\r\n\r\n",
        (200, b"0123456789", True),
    ),
    "white space first": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n1\r\n \r\n4\r\n<a/>\r\n0\r\n\r\n",
        (200, b"\r\n <a/>", True),
    ),
    "100 continue first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 X\r\na: b\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx",
        (200, b"x", True),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", (304, b"", True)),
    "connection: close": (b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", (403, b"no", False)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nno", (200, b"no", False)),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", True)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_wherever_it_is_cut(name: str) -> None:
    wire, expected = ANSWERS[name]

    assert read(wire) == expected
    assert [read(wire, cut_at=(n,)) for n in range(len(wire))] == [expected] * len(wire)
    assert read(wire, cut_at=tuple(range(len(wire)))) == expected


@pytest.mark.parametrize(
    "wire",
    [
        HEAD + b"Content-Length: %d\r\n\r\n" % (MOST_BODY_BYTES + 1),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (MOST_BODY_BYTES + 1),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n%x\r\n" % MOST_BODY_BYTES,
        HEAD + b"\r\n" + bytes(MOST_BODY_BYTES + 1),
    ],
)
def test_what_is_longer_than_any_answer_is_not_read(wire: bytes) -> None:
    with pytest.raises(AnswerTooLong, match="8,388,609 bytes"):
        AnswerReader().feed(wire)


def test_the_length_that_an_answer_to_head_names_is_not_its_own() -> None:
    reader = AnswerReader()
    reader.expect_no_body()

    assert reader.feed(HEAD + b"Content-Length: 5000000000\r\n\r\n") is not None


@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("second", ANSWERS)
def test_an_answer_is_the_same_whatever_came_before_it(first: str, second: str) -> None:
    reader = AnswerReader()
    reader.feed(ANSWERS[first][0])
    answer = reader.feed(ANSWERS[second][0])

    assert answer is not None
    assert (answer.status, answer.body, reader.keep) == ANSWERS[second][1]


@pytest.mark.parametrize("body", [b"", b"x" * 5, b"x" * 9, b"x" * 10, b"x" * 12_345])
def test_answers_that_look_alike_have_bodies_of_their_own(body: bytes) -> None:
    reader = AnswerReader()
    for length in (5, 10, 99):
        reader.feed(HEAD + b"Content-Length: %d\r\nETag: x\r\n\r\n" % length + b"y" * length)
        wire = HEAD + b"Content-Length: %d\r\nETag: x\r\n\r\n" % len(body) + body

        assert reader.feed(wire) == Response(200, wire[: len(wire) - len(body) - 2], body)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.data())
def test_chunks_are_joined_wherever_they_are_cut(chunks: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    wire = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    cuts = data.draw(st.lists(st.integers(1, len(wire) - 1), unique=True, max_size=6).map(sorted))

    assert read(wire, cut_at=tuple(cuts)) == (200, b"".join(chunks), True)


def test_without_a_length_the_end_of_the_stream_ends_the_answer() -> None:
    wire = HEAD + b"\r\nhello"

    assert [read(wire, cut_at=(n,)) for n in range(len(wire))] == [(200, b"hello", False)] * len(wire)


@pytest.mark.parametrize("name", [name for name in ANSWERS if "20" not in name and "30" not in name])
def test_a_stream_that_ends_too_early_gives_no_answer(name: str) -> None:
    wire, _ = ANSWERS[name]

    assert [read(wire[:n]) for n in range(len(wire))] == [None] * len(wire)


def test_bytes_behind_an_answer_make_the_connection_useless() -> None:
    assert read(HEAD + b"Content-Length: 5\r\n\r\nhello?") == (200, b"hello", False)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02",
        b"<html>",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc X\r\n\r\n",
        b"HTTP/1.1 99 X\r\n\r\n",
        b"HTTP/1.12 200\r\n\r\n",
        HEAD + b"x" * 70_000,
        *(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
            for chunk in (
                b"x\r\n",
                b"-6\r\n\r\n",
                b"-2\r\n\r\n",
                b"0x1\r\na\r\n",
                b"1_0\r\n",
                b"\r\n",
                b"1\r\nab\r\n",
                b"f" * 20 + b"\r\n",
            )
        ),
    ],
)
def test_garbage_is_no_answer(wire: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read(wire)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186A0\r\n"])
def test_a_body_is_not_kept_once_it_was_given(framing: bytes) -> None:
    wire = HEAD + framing + b"x" * 100_000 + (b"\r\n0\r\n\r\n" if b"chunked" in framing else b"")
    reader = AnswerReader()

    answers = [reader.feed(wire[start : start + 60_000]) for start in range(0, len(wire), 60_000)]

    assert [len(answer.body) for answer in answers if answer] == [100_000]
    assert len(repr(vars(reader))) < 1000


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"HTTP/1.1 ", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"]))
def test_whatever_comes_is_an_answer_or_refused(noise: bytes, start: bytes) -> None:
    try:
        answer = read(start + noise)
    except MalformedAnswer:
        return
    assert answer is None or answer[0] >= 200


def test_headers_are_found_whatever_their_case() -> None:
    response = Response(200, b"HTTP/1.1 200 OK\r\nx-date: no\r\nDATE:  Tue, 1 Jan \r\n", b"")

    assert (response.header("date"), response.header("server")) == ("Tue, 1 Jan", None)


@settings(max_examples=50)
@given(st.integers(0, 9), st.booleans())
def test_an_answer_to_head_has_no_body_and_the_next_one_has_its_own(length: int, is_first: bool) -> None:  # noqa: FBT001
    reader = AnswerReader()
    usual = HEAD + b"Content-Length: %d\r\n\r\n" % length
    if not is_first:  # another answer has the same layout
        assert reader.feed(usual + b"x" * length) == Response(200, usual[:-2], b"x" * length)
    reader.expect_no_body()
    assert reader.feed(usual) == Response(200, usual[:-2], b"")
    assert reader.keep
    assert reader.feed(usual + b"y" * length) == Response(200, usual[:-2], b"y" * length)
