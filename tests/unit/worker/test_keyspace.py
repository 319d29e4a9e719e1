"""The first ranges: they hold every key once, whatever the keys."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from s3bulkcopy.worker.keyspace import ALPHABET, MIN_ROOTS, cut, fan_out
from s3bulkcopy.worker.model import MAX_KEY_BYTES, Range
from tests.unit.worker.worker_fakes import characters, keys

several = settings(max_examples=50, deadline=None)
prefixes = st.one_of(
    st.text(characters, max_size=8),
    st.builds(lambda n: "x" * n, st.integers(1000, MAX_KEY_BYTES)),
    st.builds(lambda n: "日" * n, st.integers(335, 341)),
)
ranges = st.builds(Range, st.one_of(st.just(""), keys), st.one_of(st.none(), keys)).filter(
    lambda r: r.until is None or r.after < r.until
)


def holders(pieces: list[Range], key: str) -> int:
    return sum(key in piece for piece in pieces)


def in_order(pieces: list[Range]) -> list[Range]:
    return sorted(pieces, key=lambda piece: piece.after)


def are_seamless(pieces: list[Range], whole: Range) -> bool:
    """Tell whether the pieces follow each other without gap or overlap, and none is empty."""
    ends = [whole.after, *(piece.until for piece in pieces)]
    return (
        ends[-1] == whole.until
        and [piece.after for piece in pieces] == ends[:-1]
        and all(piece.until is None or piece.after < piece.until for piece in pieces)
        and all(piece.until is not None for piece in pieces[:-1])
    )


@several
@given(ranges, st.lists(keys, max_size=20))
def test_the_pieces_of_a_range_cover_it_without_overlap(whole: Range, boundaries: list[str]) -> None:
    assert are_seamless(cut(whole, boundaries), whole)


@several
@given(ranges, st.lists(keys, max_size=20), keys)
def test_a_key_of_a_range_is_in_one_of_its_pieces(whole: Range, boundaries: list[str], key: str) -> None:
    for one in (key, *boundaries):
        assert holders(cut(whole, boundaries), one) == (1 if one in whole else 0)


@several
@given(ranges, st.lists(keys, max_size=20))
def test_every_boundary_inside_is_cut_at_and_belongs_to_the_piece_below(whole: Range, boundaries: list[str]) -> None:
    inside = sorted({b for b in boundaries if b in whole and b != whole.until})

    assert [piece.until for piece in cut(whole, boundaries)] == [*inside, whole.until]


@st.composite
def buckets(draw: st.DrawFn) -> tuple[str, list[str], str]:
    """Give a prefix, a first page of keys under it, and a key to begin behind."""
    prefix = draw(prefixes)
    tails = draw(st.lists(keys, min_size=1, max_size=10))
    page = sorted({(prefix + tail).encode()[:MAX_KEY_BYTES].decode("utf-8", "ignore") for tail in tails})
    return prefix, page, draw(st.sampled_from(["", *page]))


@several
@given(buckets(), keys)
def test_each_key_above_the_start_is_in_one_range_and_none_below_in_any(bucket: tuple[str, list[str], str], key: str) -> None:
    prefix, page, after = bucket
    pieces = fan_out(prefix, page, after)

    assert are_seamless(in_order(pieces), Range(after, None))
    for one in (key, prefix + key, *page, *(piece.until for piece in pieces if piece.until is not None)):
        assert holders(pieces, one) == (1 if one > after else 0)


@several
@given(buckets())
def test_every_boundary_is_a_legal_key(bucket: tuple[str, list[str], str]) -> None:
    for piece in in_order(fan_out(*bucket))[:-1]:
        assert piece.until
        assert len(piece.until.encode()) <= MAX_KEY_BYTES  # and encodes: no surrogates


def _room(prefix: str) -> int:
    return MAX_KEY_BYTES - len(prefix.encode())


@several
@given(buckets())
def test_there_are_enough_ranges_where_a_character_fits_behind_the_prefix_and_the_start_is_low(
    bucket: tuple[str, list[str], str],
) -> None:
    prefix, page, after = bucket
    pieces = fan_out(prefix, page, after)

    if _room(prefix) >= 4 and after < prefix + "\U00100000":
        assert len(pieces) >= MIN_ROOTS


def test_where_no_character_fits_behind_the_prefix_there_is_one_range() -> None:
    prefix = "x" * MAX_KEY_BYTES

    assert fan_out(prefix, [prefix], "") == [Range("", None)]


def test_where_only_ascii_fits_behind_the_prefix_it_is_cut_at_ascii() -> None:
    prefix = "x" * (MAX_KEY_BYTES - 1)
    pieces = fan_out(prefix, [prefix], "")

    assert {prefix + chr(c) for c in range(0x20, 0x7F)} <= {piece.until for piece in pieces}


def test_keys_that_share_a_long_head_are_cut_behind_it() -> None:
    page = ["logs/2026/01/01/a", "logs/2026/01/01/b"]
    pieces = fan_out("logs/", page, "")

    assert {"logs/2026/01/01/" + c for c in ALPHABET} <= {piece.until for piece in pieces}


def test_a_start_high_in_the_alphabet_still_gives_enough_ranges() -> None:
    for after in ("z", "~~~", "ø", "日本", "\U0001f600", "\U000f0000"):
        pieces = fan_out("", [after], after)
        assert len(pieces) >= MIN_ROOTS
        assert are_seamless(in_order(pieces), Range(after, None))


@several
@given(buckets())
def test_the_range_in_which_the_first_page_ends_comes_first_and_the_others_go_round(
    bucket: tuple[str, list[str], str],
) -> None:
    prefix, page, after = bucket
    pieces = fan_out(prefix, page, after)
    ordered = in_order(pieces)
    turn = ordered.index(pieces[0])

    assert pieces == ordered[turn:] + ordered[:turn]
    assert page[-1] in pieces[0] or (page[-1] <= after and turn == 0)
