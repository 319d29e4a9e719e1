"""The planner: every key is listed once, whatever the keys, the answers and their order; and soon."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from key_shapes import grammar, keys_of
from listing import by_bisection, by_first_character, planned

from s3bulkcopy.worker.model import MAX_KEY_BYTES, Range
from s3bulkcopy.worker.planner import Planner, Request
from tests.unit.worker.worker_fakes import characters, keys

several = settings(max_examples=100, deadline=None)
sets_of_keys = st.one_of(
    st.lists(keys, max_size=120, unique=True),
    st.lists(st.text(st.sampled_from("ab/\0\ue000\uffff\U00010000"), min_size=1, max_size=6), max_size=120, unique=True),
    st.builds(lambda c, n: [c * k for k in range(1, n)], characters, st.integers(1, 200)),
    st.builds(lambda head, n: [f"{head}{k}" for k in range(n)], st.text(characters, max_size=9), st.integers(0, 300)),
).map(sorted)


class Store:
    """Keys behind list requests, answered at any time and cut short at will; counts how often each was listed."""

    def __init__(self, keys: list[str], page_size: int) -> None:
        self.keys = keys
        self.page_size = page_size
        self.listed: list[str] = []

    def answer(self, planner: Planner, request: Request, most: int | None = None) -> None:
        first = bisect_right(self.keys, request.after)
        page = self.keys[first : first + min(self.page_size, most or self.page_size)]
        for part in planner.answered(request, page, first + len(page) < len(self.keys)):
            self.listed += page[part]


def drain(planner: Planner, store: Store, slots: int = 4) -> int:
    """List what remains in rounds; give how many it took."""
    rounds = 0
    while not planner.is_done():
        requests = [request for _ in range(slots) if (request := planner.request())]
        assert requests, "open ranges, and nothing to ask for"
        rounds += 1
        for request in requests:
            store.answer(planner, request)
    return rounds


def legal(text: str) -> bool:
    return len(text.encode()) <= MAX_KEY_BYTES  # and encodes: no surrogates


@several
@given(sets_of_keys, st.integers(1, 30), st.integers(1, 64), st.data())
def test_every_key_is_listed_once_whatever_the_answers_and_their_order(
    names: list[str], page_size: int, slots: int, data: st.DataObject
) -> None:
    """Answers come in any order and cut short, fail, and ranges are given away, taken or refused, all at any time."""
    store, planner = Store(names, page_size), Planner([Range("", None)], page_size=page_size)
    rng = Random(data.draw(st.integers(0, 2**32)))  # noqa: S311 - repeatable
    under_way: list[Request] = []
    offers: list[Range] = []

    def ask() -> Request | None:
        return planner.request(slots - len(under_way), is_held_up=rng.random() < 0.5)

    while not planner.is_done():
        while len(under_way) < slots and (request := ask()):
            assert legal(request.after)
            under_way.append(request)
        match rng.randrange(8):
            case 0 if under_way:
                planner.failed(under_way.pop(rng.randrange(len(under_way))))
            case 1 if offer := planner.offer():
                offers.append(offer)
            case 2 | 3 if offers:
                offer = offers.pop(rng.randrange(len(offers)))
                if rng.random() < 0.5:
                    planner.refused(offer)
                else:
                    planner.accepted(offer)
                    drain(Planner([offer], page_size=page_size), store)
            case _ if under_way:
                store.answer(planner, under_way.pop(rng.randrange(len(under_way))), rng.randint(1, page_size))
            case _ if offers:
                planner.refused(offers.pop())
            case _:
                pass

    assert sorted(store.listed) == names


@several
@given(sets_of_keys, st.integers(1, 30), st.integers(0, 20))
def test_what_remains_of_a_slice_and_what_was_listed_are_everything(names: list[str], page_size: int, answers: int) -> None:
    store, planner = Store(names, page_size), Planner([Range("", None)], page_size=page_size)
    for _ in range(answers):
        if request := planner.request():
            store.answer(planner, request)
    rest = planner.rest()

    assert all(legal(one) for piece in rest for one in piece if one is not None)
    for piece in rest:
        drain(Planner([piece], page_size=page_size), store)
    assert sorted(store.listed) == names


@several
@given(sets_of_keys, keys, keys, st.integers(1, 30))
def test_keys_outside_the_range_do_not_count(names: list[str], one: str, other: str, page_size: int) -> None:
    after, until = min(one, other), max(one, other)
    store = Store(names, page_size)
    drain(Planner([Range(after, until)] if after < until else [], page_size=page_size), store)

    assert sorted(store.listed) == [name for name in names if after < name <= until]


@several
@given(sets_of_keys, st.text(characters, max_size=4), st.integers(1, 30))
def test_a_prefix_is_listed_without_what_lies_beside_it(names: list[str], prefix: str, page_size: int) -> None:
    under = sorted({prefix + name for name in names if legal(prefix + name)})
    store = Store(under, page_size)
    drain(Planner([Range("", None)], prefix, page_size), store)

    assert sorted(store.listed) == under


def test_an_empty_bucket_and_one_of_a_single_page_take_one_request() -> None:
    for names in ([], ["a"], [f"{k:03d}" for k in range(1000)]):
        planner = Planner([Range("", None)])
        request = planner.request(64)
        assert request
        assert planner.request(63) is None
        Store(names, 1000).answer(planner, request)
        assert planner.is_done()


def test_a_page_that_reaches_into_the_next_range_answers_for_it_too() -> None:
    planner = Planner([Range("", "b"), Range("b", "d"), Range("d", None)])
    first, second = planner.request(2), planner.request(1)
    assert first
    assert second
    assert second.after == "d"  # what lies right behind the first waits for its answer
    assert planner.answered(first, ["a", "c", "e"], is_truncated=False) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert planner.is_done()
    assert planner.answered(second, ["e"], is_truncated=False) == []


def test_ranges_may_come_later_and_go_again() -> None:
    planner = Planner([])
    planner.add([Range("m", "p"), Range("", "c"), Range("x", "x")])
    assert planner.rest() == [Range("", "c"), Range("m", "p")]
    request = planner.request()
    assert request

    assert planner.withdraw(Range("", "p"), but_busy=True) == [Range("m", "p")]
    assert (planner.is_open(Range("", "c")), planner.is_open(Range("m", "p"))) == (True, False)
    assert planner.withdraw(Range("", "c")) == [Range("", "c")]
    assert planner.answered(request, ["a", "b"], is_truncated=True) == []
    assert planner.is_done()


def test_a_range_may_be_asked_for_out_of_turn() -> None:
    planner = Planner([Range("", "c"), Range("m", None)])
    request = planner.first_request(Range("m", None))

    assert request
    assert request.after == "m"
    assert planner.first_request(Range("m", None)) is None


def test_an_offered_range_is_left_alone_until_it_is_refused() -> None:
    planner = Planner([Range("", None)])
    offer = planner.offer()
    assert offer == Range("", None)
    assert planner.request() is None
    assert planner.offer() is None
    assert planner.rest() == [Range("", None)]
    planner.refused(offer)
    assert planner.request()


def test_an_accepted_range_is_gone() -> None:
    planner = Planner([Range("", None)])
    offer = planner.offer()
    assert offer
    planner.accepted(offer)
    assert planner.is_done()


def test_a_range_under_way_is_not_offered() -> None:
    planner = Planner([Range("", None)])
    assert planner.request()
    assert planner.offer() is None


def test_small_ranges_are_left_alone() -> None:
    names = [f"{k:05d}" for k in range(2500)]
    store, planner = Store(names, 1000), Planner([Range("", "00001"), Range("00001", "00500")])
    drain(planner, store, slots=64)
    assert sorted(store.listed) == [name for name in names if "" < name <= "00500"]


SHAPES = ("hex-random", "date-hierarchy", "numbers-unpadded", "long-prefix", "power-law-users", "hot-folder-of-uuids")


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_listed_in_few_rounds_and_requests(shape: str) -> None:
    names = keys_of(shape, 30_000)
    outcome = planned(names, 100, 64)
    pages = ceil(len(names) / 100)

    assert outcome.listed_once
    assert outcome.rounds <= 4 * ceil(pages / 64) + 16
    assert outcome.requests <= 2 * pages + 128
    assert outcome.rounds < by_first_character(names, 100, 64).rounds


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_shapes_nobody_thought_of_are_listed_once(seed: int) -> None:
    names = sorted(set(grammar(seed)(5000, Random(0))))  # noqa: S311 - repeatable

    assert planned(names, 50, 16).listed_once


def test_bisection_lists_once_too() -> None:
    assert by_bisection(keys_of("uuids", 5000), 100, 16).listed_once


@pytest.mark.parametrize("shape", ["hex-random", "date-folders"])
def test_answers_that_come_one_at_a_time_keep_all_slots_busy(shape: str) -> None:
    """Latencies vary by a factor of four; a slot that is free gets the next request at once."""
    names, rng = keys_of(shape, 30_000), Random(1)  # noqa: S311 - repeatable
    store, planner = Store(names, 100), Planner([Range("", None)], page_size=100)
    now, requests = 0.0, 0
    under_way: list[tuple[float, int, Request]] = []
    while not planner.is_done():
        while len(under_way) < 16 and (request := planner.request(16 - len(under_way))):
            under_way.append((now + rng.uniform(0.5, 2.0), request.number, request))
            requests += 1
        now, _, request = min(under_way)
        under_way.remove(min(under_way))
        store.answer(planner, request)

    assert sorted(store.listed) == names
    assert now <= 3 * 1.25 * 300 / 16 + 16
    assert requests <= 2 * 300 + 32


def test_where_listing_is_held_up_all_parts_of_the_key_space_get_on_at_the_same_pace() -> None:
    """Half of them are ranges of their own, the others in four pieces each, the first of which begin in the part before."""
    names = keys_of("hex-random", 32_000)
    parts = [f"{n:x}" for n in range(16)]
    cuts = parts[1:8] + [f"{part}{letter}" for part in parts[8:] for letter in "159d"]
    ranges = [Range(after, until) for after, until in zip(["", *cuts], [*cuts, None], strict=True)]
    store, planner = Store(names, 50), Planner(ranges, page_size=50)
    for request in [planner.first_request(one) for one in ranges]:
        assert request
        store.answer(planner, request)

    def spread() -> int:
        """The pages by which the part that got on best is ahead of the one that is furthest behind."""
        listed = Counter(name[0] for name in store.listed)
        return (max(listed.values()) - min(listed[part] for part in parts)) // 50

    spreads = []
    while (request := planner.request(is_held_up=True)) is not None:
        store.answer(planner, request)
        spreads.append(spread())

    assert sorted(store.listed) == names
    assert max(spreads[100:]) <= 12  # and 39 where the largest comes first


def test_what_lies_before_a_cut_is_expected_to_be_like_what_lies_behind_it() -> None:
    """All of a0… to af… is listed and the upper half of b0… to bf…, whose lower half ends at a cut."""
    names = sorted(f"{a}{b}{n:03}" for a in "ab" for b in "0123456789abcdef" for n in range(100))
    lower, upper = Range("", "b8"), Range("b8", None)
    store, planner = Store(names, 100), Planner([lower, upper], page_size=100)
    for whole in [upper] * 8 + [lower] * 16:
        request = planner.first_request(whole)
        assert request
        store.answer(planner, request)

    assert planner.rest() == [Range("af099", "b8")]
    assert planner.expected() == pytest.approx(9, rel=0.5)  # pages


@pytest.mark.parametrize(
    ("shape", "rounds", "requests"),
    [("hex-random", 10, 400), ("date-hierarchy", 13, 470), ("zipf-tenants-dates", 20, 520), ("wide-pairs", 12, 440)],
)
def test_a_bucket_of_300_pages_reaches_the_figures_of_the_docs(shape: str, rounds: int, requests: int) -> None:
    outcome = planned(keys_of(shape, 300_000), 1000, 64)

    assert outcome.listed_once
    assert outcome.rounds <= rounds
    assert outcome.requests <= requests
