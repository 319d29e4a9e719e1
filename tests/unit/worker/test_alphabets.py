"""Alphabets: which characters are likely to come next, from those seen at places that are alike."""

from __future__ import annotations

import tracemalloc
from hashlib import sha256
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.worker.alphabets import Alphabets
from tests.unit.worker.worker_fakes import keys


def test_what_followed_the_same_text_of_a_field_in_another_folder_is_most_likely() -> None:
    alphabets = Alphabets()
    alphabets.differ("a/month=01", "a/month=02", 9)
    after = alphabets.after("b/month=0")

    assert max(after, key=lambda letter: after[letter]) in {"1", "2"}


def test_where_every_folder_was_seen_to_end_nothing_more_is_expected() -> None:
    alphabets = Alphabets()
    for n in range(20):
        alphabets.differ(f"{n:02d}/only", f"{n + 1:02d}/only", 1 if n % 10 < 9 else 0)

    assert sum(p for _, p in alphabets.between("77/", "o", "")) < 0.3


def test_places_vary_where_several_characters_followed_the_same_text_in_any_folder() -> None:
    alphabets = Alphabets()
    alphabets.differ("a/x1", "a/x2", 3)

    assert alphabets.vary("b/x3/y", 1, 6) == [3]


def test_a_row_of_characters_is_expected_to_go_on_in_doubling_steps_before_the_next_that_is_known() -> None:
    alphabets = Alphabets()
    row = [chr(0x3042 + n) for n in range(8)]
    for low, high in pairwise([*row, "\uac00"]):
        alphabets.differ(low, high, 0)
    found = [ord(letter) - ord(row[-1]) for letter, _ in alphabets.between("", row[-1], "\uac00")]

    assert found[:5] == [1, 2, 3, 5, 9]


def test_where_all_lower_characters_of_a_script_were_found_the_higher_ones_that_the_field_knows_are_expected() -> None:
    alphabets = Alphabets()
    alphabets.read("zაბგდევ")
    for low, high in pairwise("zაბგ"):
        alphabets.differ(low, high, 0)
    higher = {letter: likely for letter, likely in alphabets.between("", "გ", "") if letter in "დევ"}

    assert higher == dict.fromkeys("დევ", 0.75)

    for _ in range(3):
        alphabets.nothing("გ", range(1), [0], 1, is_key=True)
    assert sum(likely for letter, likely in alphabets.between("", "გ", "") if letter in "დევ") < 1


@given(st.lists(keys, min_size=2, max_size=20, unique=True).map(sorted))
def test_characters_to_cut_at_lie_between_and_can_be_sent(names: list[str]) -> None:
    alphabets = Alphabets()
    for low, high in pairwise(names):
        alphabets.read(low)
        level = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
        alphabets.differ(low, high, level)
    for above, below in (("", ""), (names[0][0], ""), ("", names[-1][0])):
        found = [letter for letter, _ in alphabets.between("", above, below)]
        assert found == sorted(set(found))
        assert all(above < letter and (not below or letter < below) for letter in found)
        assert all(letter.encode() and letter != "\0" for letter in found)  # no surrogates; a URL carries the rest


def test_what_is_kept_takes_no_more_room_however_many_names_are_seen() -> None:
    alphabets = Alphabets()
    tracemalloc.start()
    try:
        for n in range(2500):
            alphabets.read(f"folder/{sha256(b'%d' % n).hexdigest()[:12]}", len("folder/"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 15_000_000
