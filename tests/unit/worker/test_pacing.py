"""Pauses and the window of requests."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from s3bulkcopy.worker.pacing import Window, full_jitter


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_jittered_over_all_of_its_length_and_bounded(tries: int, chance: float) -> None:
    longest = full_jitter(lambda: 1.0)(tries)

    assert full_jitter(lambda: chance)(tries) == chance * longest
    assert longest == min(10.0, 0.1 * 2.0 ** min(tries, 30))


def answers(window: Window, rounds: int, seconds: float, now: float = 0.0, *, rate: float = float("inf")) -> list[float]:
    """Have a window's requests answered, `seconds` a round trip or at most `rate` a second; give its sizes after each."""
    sizes = []
    for _ in range(rounds):
        size = int(window.size)
        for n in range(size):
            window.answered(now + (n + 1) * max(seconds / size, 1 / rate))
        now += size * max(seconds / size, 1 / rate)
        sizes.append(window.size)
    return sizes


def test_the_window_doubles_each_round_trip_while_answers_come_faster_for_it() -> None:
    assert answers(Window(start=4, most=100), 4, 0.1)[:3] == [8.0, 16.0, 32.0]


def test_the_window_reaches_its_bound_where_nothing_holds_it() -> None:
    assert answers(Window(start=16, most=128), 10, 0.1)[-1] == 128.0


def test_the_window_ends_small_where_answers_come_no_faster_for_more() -> None:
    assert answers(Window(start=16, most=128), 20, 0.05, rate=200.0)[-1] <= 32.0


def test_after_a_slow_down_the_window_grows_by_at_most_one_each_round_trip() -> None:
    window = Window(start=20, most=100)
    window.throttled(0.0, 0.1)
    sizes = [10.0, *answers(window, 10, 0.1, now=1.0)]

    assert all(0.0 <= after - before <= 1.0 for before, after in pairwise(sizes))
    assert sizes[-1] > 11.0


def test_the_requests_that_were_on_their_way_halve_the_window_once() -> None:
    window = Window(start=64)
    for _ in range(10):
        window.throttled(sent_at=0.0, now=1.0)
    assert window.size == 32.0

    window.throttled(sent_at=1.0, now=2.0)
    assert window.size == 16.0


@given(st.lists(st.sampled_from(["answered", "throttled", "idle"]), max_size=300), st.integers(1, 20), st.integers(20, 40))
def test_the_window_stays_within_its_bounds(happenings: list[str], start: int, most: int) -> None:
    window = Window(start, most)
    for now, happening in enumerate(happenings):
        match happening:
            case "answered":
                window.answered(now)
            case "throttled":
                window.throttled(now, now)
            case _:
                window.idle()
        assert 1.0 <= window.size <= most
