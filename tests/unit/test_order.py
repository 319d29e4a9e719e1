"""Which of the tasks that wait is next."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.engines.order import rarest

KEYS = st.lists(st.text("ab", max_size=4), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("waiting", "in_hand", "expected"),
    [
        pytest.param(["b", "a"], [], "b", id="the first, where nothing is in hand"),
        pytest.param(["a1", "a2", "b1"], ["a0"], "b1", id="the part of the key space with none in hand"),
        pytest.param(["a1", "b1"], ["a0", "b0", "b9"], "a1", id="the part with fewest in hand"),
        pytest.param(["logs/a1", "logs/b1"], ["logs/a0"], "logs/b1", id="parts of what all share"),
        pytest.param(["a/x1", "a/y1"], ["b1", "b2", "a/x0"], "a/y1", id="the same within that part"),
        pytest.param(["a", "ab"], ["ab"], "a", id="a key that others begin with"),
        pytest.param(["ab", "a"], ["ab"], "a", id="a key that others before it begin with"),
        pytest.param(["a", "a"], ["a", "a"], "a", id="keys that are all the same"),
        pytest.param(["é1", "日1"], ["é0"], "日1", id="any script"),
    ],
)
def test_next_is_what_fewest_of_its_like_are_in_hand_of(waiting: list[str], in_hand: list[str], expected: str) -> None:
    assert waiting[rarest(waiting, in_hand)] == expected


@pytest.mark.parametrize(
    ("waiting", "own", "every", "expected"),
    [
        pytest.param(["a1", "b1"], ["a0"], ["a0", "b0", "b9"], "b1", id="its own hand, whatever others hold"),
        pytest.param(["a1", "b1"], ["b0"], ["b0", "a0", "a9"], "a1", id="its own hand, also where the first is next"),
        pytest.param(["a1", "b1"], [], ["a0"], "b1", id="all hands, where its own is empty"),
        pytest.param(["a1", "b1"], ["a0", "b0"], ["a0", "b0", "a9"], "b1", id="all hands, where its own has as many"),
        pytest.param(["x/a1", "x/b1"], ["x/a0"], ["x/a0", "x/b0", "x/b9", "y"], "x/b1", id="behind what they share"),
    ],
)
def test_of_two_hands_the_first_tells_and_then_the_other(
    waiting: list[str], own: list[str], every: list[str], expected: str
) -> None:
    assert waiting[rarest(waiting, own, every)] == expected


@given(KEYS, KEYS, KEYS)
def test_no_way_at_the_first_fork_has_fewer_in_hand(waiting: list[str], own: list[str], others: list[str]) -> None:
    every = own + others
    chosen = waiting[rarest(waiting, own, every)]

    fork = next((n for n in range(5) if len({key[: n + 1] for key in waiting + every}) > 1), 0)

    def held(key: str) -> tuple[int, int]:
        in_own, in_every = (Counter(other[fork : fork + 1] for other in hand) for hand in (own, every))
        return in_own[key[fork : fork + 1]], in_every[key[fork : fork + 1]]

    assert held(chosen) == min(map(held, waiting))


@given(KEYS, KEYS)
def test_of_keys_alike_it_is_the_first(waiting: list[str], in_hand: list[str]) -> None:
    place = rarest(waiting, in_hand)

    assert waiting.index(waiting[place]) == place
